"""What decides whether a step changes the weights, and that the gradients are gone over once for it."""

from collections import Counter

import numpy as np
import pytest

import gpuprop as gp
from gpuprop import nn, optim
from gpuprop.backend.arrays import to_device, to_host
from gpuprop.text import TextBatch
from gpuprop.training import judgement
from gpuprop.training.judgement import LossScale, judge

INFINITE = float("inf")


def on(values, dtype=np.float32):
    return to_device(np.array(values, dtype))


@pytest.mark.parametrize("sums", [np.float32, np.float64])
@pytest.mark.parametrize("kind", [np.float32, np.float64])
@pytest.mark.parametrize(
    ("losses", "squares", "lost", "overflow", "before", "bad", "skip"),
    [
        ([1.0], 2.0, None, None, False, False, False),
        ([1.0], INFINITE, None, None, False, True, True),
        ([1.0, np.nan], 2.0, None, None, False, True, True),
        ([-INFINITE, 1.0], 2.0, None, None, False, True, True),
        ([1.0], 2.0, None, None, True, True, True),
        ([1.0], None, False, False, False, False, False),
        ([1.0, 2.0], None, False, True, False, False, True),
        ([1.0], None, True, True, False, True, True),
        ([np.nan], None, False, False, False, True, True),
    ],
)
def test_a_step_is_judged(device, kind, sums, losses, squares, lost, overflow, before, bad, skip):
    given = [None if flag is None else on(flag, bool) for flag in (lost, overflow)]
    norm, so_far = None if squares is None else on([squares, 1.0], sums), on(before, bool)
    found = judge([on(loss, kind) for loss in losses], norm, *given, so_far)
    assert [bool(to_host(x)) for x in found] == [bad, skip]
    assert bool(to_host(so_far)) == bad


def test_a_loss_may_be_a_number_of_numpy(device):
    """As arithmetic on arrays of no axes gives them."""
    so_far = on(False, bool)
    values = [(gp.tensor(on(value)) * 2.0).data for value in (1.0, INFINITE)]
    assert not bool(to_host(judge(values[:1], None, None, None, so_far)[0]))
    assert bool(to_host(judge(values, None, None, None, so_far)[0]))


def test_the_loss_scale_falls_and_grows(device, monkeypatch):
    monkeypatch.setattr(judgement, "GROW_AFTER", 3)
    monkeypatch.setattr(judgement, "LEAST_SCALE", 2.0**14)
    monkeypatch.setattr(judgement, "MOST_SCALE", 2.0**15)
    of, seen = LossScale.beside(on(0.0)), []
    for squares in (np.nan, 1.0, 1.0, 1.0, INFINITE, 1.0, INFINITE, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0):
        used = float(to_host(of.scale))
        overflow = bool(to_host(of.judge(on([squares, 0.0]))))
        assert float(to_host(of.used)) == used
        assert overflow == (not np.isfinite(squares))
        numbers = (of.scale, of.since, of.skipped, of.lost)
        seen.append(tuple(to_host(x).item() for x in numbers))
    assert [scale / 2**14 for scale, *_ in seen] == [1, 1, 1, 2, 1, 1, 1, 1, 1, 2, 2, 2, 2]
    assert [since for _, since, *_ in seen] == [0, 1, 2, 0, 0, 1, 0, 1, 2, 0, 1, 2, 0]
    assert [skipped for *_, skipped, _ in seen] == [1, 1, 1, 1, 2, 2, 3, 3, 3, 3, 3, 3, 3]
    assert [lost for *_, lost in seen] == [False] * 6 + [True] * 7


def batches():
    rng = np.random.default_rng(0)
    for _ in range(3):
        x, labels = rng.standard_normal((8, 16)).astype(np.float32), rng.integers(0, 3, 8)
        yield TextBatch(x, np.ones((8, 1), bool), np.ones(8, np.int64), labels, np.arange(8))


def trained(precision="fp32", **more):
    gp.manual_seed(0)
    model, criterion = nn.Sequential(nn.Linear(16, 32), nn.Linear(32, 3)), nn.CrossEntropyLoss()
    trainer = gp.Trainer(
        model, lambda b: criterion(model(b.ids), b.labels), optim.AdamW(model.parameters()),
        precision=precision, progress="off", **more,
    )  # fmt: skip
    trainer.fit(list(batches()), epochs=1)
    return trainer


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
@pytest.mark.parametrize("clip_norm", [None, 1.0])
def test_the_gradients_are_gone_over_twice_a_step(fake_gpu, precision, clip_norm):
    """Once for their norm, which says both whether they are finite and how to clip, 4 bytes each; once by the
    optimizer, which divides by the loss scale on its way. What is decided is a launch, with a scale two."""
    trainer = trained(precision, clip_norm=clip_norm)
    trainer.device_step.graph.clear()
    trainer.guard._divergence.measure = lambda *_: None  # of some steps only
    fake_gpu.costs.clear()
    trainer.fit(list(batches())[:1], epochs=2)  # a step as it is, before it is captured
    size = sum(p.data.nbytes for p in trainer.model.parameters())
    launches = Counter(cost.name for cost in fake_gpu.costs)
    (norm,) = (cost.moved for cost in fake_gpu.costs if cost.name == "gradient_norm")
    assert size <= norm < size + 16 * 1024  # and partial sums
    assert (launches["adam"], launches["gradient_norm"], launches["judge_step"]) == (1, 1, 1)
    assert launches["loss_scale"] == (precision == "fp16")
    assert not {"isfinite", "invert", "or", "all", "mul", "truediv", "where", "clip", "add"} & set(launches)


def test_the_norm_is_that_of_clip_grad_norm(device):
    """Given by `norm`, it is not computed; without, from the gradients as they are."""
    params = [gp.Parameter(to_device(np.ones(n, np.float32))) for n in (3, 40)]
    for make in (optim.AdamW, optim.SGD):
        optimizer = make(params, lr=0.1)
        for k, p in enumerate(params):
            p.grad = to_device(np.full(p.shape, k + 1.0, np.float32))
        norm = optimizer.gradient_norm()
        assert to_host(norm).tolist() == pytest.approx([163.0, 163.0**0.5])
        optimizer.norm = norm * 2
        assert optimizer.clip_grad_norm(1e9).item() == to_host(norm)[1] * 2
        optimizer.step()
        for p in params:
            p.grad = to_device(np.ones(p.shape, np.float32))
        assert optimizer.clip_grad_norm(1e9).item() == pytest.approx(43.0**0.5)
        optimizer.zero_grad()
        optimizer.step()
        assert to_host(optimizer.gradient_norm()).tolist() == [0.0, 0.0]


@pytest.mark.parametrize("optimizer", [optim.AdamW, optim.SGD])
@pytest.mark.parametrize("capture", [False, True])
def test_norms_that_are_looked_at_are_without_the_scale(any_gpu, monkeypatch, optimizer, capture):
    """Also where the gradients in memory are still multiplied with it."""
    monkeypatch.setattr(judgement, "GROW_AFTER", 2)
    seen = {}
    for precision in ("fp32", "fp16"):
        gp.manual_seed(0)
        model, criterion = nn.Sequential(nn.Linear(16, 8), nn.Linear(8, 3)), nn.CrossEntropyLoss()
        of = gp.Trainer(
            model, lambda b, m=model, c=criterion: c(m(to_device(b.ids)), b.labels),
            optimizer(model.parameters(), 0.01), precision=precision, progress="off", capture=capture,
        )  # fmt: skip
        looks = seen[precision] = []
        of.guard._divergence._judge = lambda look, _, looks=looks: looks.append((look.begin, look.whole))
        of.fit(list(batches()), epochs=2)
    assert len(seen["fp32"]) == 6
    np.testing.assert_allclose(seen["fp16"], seen["fp32"], rtol=1e-2)


def test_a_scale_is_divided_out_before_observers_look(device):
    seen = []

    class Looking(gp.training.Observer):
        def after_backward(self):
            seen.append(float(abs(to_host(next(of.model.parameters()).grad)).max()))

    found = {}
    for precision in ("fp32", "fp16"):
        seen.clear()
        gp.manual_seed(0)
        model, criterion = nn.Linear(16, 3), nn.CrossEntropyLoss()
        of = gp.Trainer(
            model, lambda b, m=model, c=criterion: c(m(to_device(b.ids)), b.labels),
            optim.SGD(model.parameters(), 0.1),
            precision=precision, progress="off", observers=[Looking()], clip_norm=5.0,
        )  # fmt: skip
        of.fit(list(batches()), epochs=1)
        found[precision] = list(seen)
    np.testing.assert_allclose(found["fp16"], found["fp32"], rtol=1e-2)


def test_a_scale_is_divided_out_by_hand(device):
    """As docs/training.md does it, with `clip_grad_norm_`."""
    x, norms = to_device(np.ones((2, 16), np.float32)), {}
    for name in ("fp32", "fp16"):
        gp.manual_seed(0)
        model = nn.Linear(16, 3)
        optimizer = optim.AdamW(model.parameters())
        precision = gp.training.make_precision(name, model, optimizer)
        with precision.computing():
            loss = (model(x) ** 2).mean()
            loss.backward(precision.scaled(loss))
        optimizer.skip = precision.unscale()
        norms[name] = optim.clip_grad_norm_(model.parameters(), 1.0).item()
        optimizer.step()
    assert norms["fp16"] == pytest.approx(norms["fp32"], rel=1e-2)


def test_steps_that_overflow_are_skipped_inside_a_graph(any_gpu):
    """A loss times 2000 overflows float16 at the first scales; from then on all steps are taken."""
    found = {}
    for capture in (False, True):
        gp.manual_seed(0)
        model, criterion = nn.Sequential(nn.Linear(16, 8), nn.Linear(8, 3)), nn.CrossEntropyLoss()
        of = gp.Trainer(
            model, lambda b, m=model, c=criterion: c(m(to_device(b.ids)), b.labels) * 2000.0,
            optim.AdamW(model.parameters(), 0.01), precision="fp16", clip_norm=1.0, progress="off",
            capture=capture,
        )  # fmt: skip
        of.fit(list(batches()), epochs=4)
        record = [(r["train_loss"], r["skipped_steps"], r["loss_scale"]) for r in of.history]
        found[capture] = record, [p.numpy().copy() for p in model.parameters()], of.optimizer.steps
    assert of.device_step.graph.replayed > 0
    assert found[True][0] == found[False][0]
    skipped = sum(steps for _, steps, _ in found[True][0])
    assert skipped > 1
    assert found[True][0][-1][2] == judgement.FIRST_SCALE / 2**skipped
    assert found[True][2] == 12 - skipped
    assert all(np.array_equal(a, b) for a, b in zip(found[True][1], found[False][1], strict=True))
