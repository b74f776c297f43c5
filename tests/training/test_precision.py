"""Half precision over float32 weights: it learns, small numbers survive, and overflow costs a step only."""

import importlib

import numpy as np
import pytest
from model_checks import assert_close

import gpuprop as gp
from gpuprop import nn
from gpuprop.backend.arrays import to_host
from gpuprop.models import TextCNN
from gpuprop.training import judgement, make_precision
from gpuprop.training import precision as module

from .test_accumulation import CASES, trainer

HALF = ["bf16", "fp16"]
TOLERANCE = {"bf16": 0.04, "fp16": 0.01}
# Rounding grows from layer to layer; float16 has 8 times bfloat16's precision, and comes that much nearer.
DEEP = {"transformer": {"bf16": 0.1, "fp16": 0.01}, "conv": {"bf16": 0.2, "fp16": 0.02}}


@pytest.fixture(autouse=True)
def _needs_ml_dtypes():
    pytest.importorskip("ml_dtypes")


def gradients(name, case, parts=False):
    """The gradients of one step's backward pass, and the parameters' types while it ran."""
    make, cut = CASES[case]
    task = make()
    optimizer = gp.optim.SGD(task.model.parameters(), lr=0.1)
    precision = make_precision(name, task.model, optimizer)
    task.model.train()
    whole, *rest = cut()
    with precision.computing():
        types = {p.dtype.name for p in task.model.parameters()}
        gp.training.accumulation.backward_of_mean(
            task.loss, task.count, rest if parts else [whole], precision
        )
    assert not precision.unscale()
    assert all(p.dtype == np.float32 and p.master is None for p in task.model.parameters())
    return {n: to_host(p.grad) for n, p in task.model.named_parameters()}, types


@pytest.mark.parametrize("case", [case for case in CASES if case not in DEEP])
@pytest.mark.parametrize("name", HALF)
def test_gradients_are_float32_and_come_near_those_of_float32(name, case):
    expected, _ = gradients("fp32", case)
    found, types = gradients(name, case)
    assert types == {"bfloat16" if name == "bf16" else "float16"}
    for key, gradient in expected.items():
        assert found[key].dtype == np.float32
        assert_close(found[key], gradient, TOLERANCE[name])
        assert not np.array_equal(found[key], gradient)


@pytest.mark.parametrize("case", DEEP)
@pytest.mark.parametrize("name", HALF)
def test_the_gradient_of_a_deep_model_points_the_same_way(name, case):
    """As a whole: single units of a ReLU near 0 switch by rounding, which few of a small layer feel."""
    expected, _ = gradients("fp32", case)
    found, _ = gradients(name, case)
    difference = sum(float(((found[key] - g) ** 2).sum()) for key, g in expected.items())
    whole = sum(float((g**2).sum()) for g in expected.values())
    assert (difference / whole) ** 0.5 < DEEP[case][name]


@pytest.mark.parametrize("name", HALF)
def test_several_batches_are_one_large_batch(name):
    whole, _ = gradients(name, "seq2seq")
    parts, _ = gradients(name, "seq2seq", parts=True)
    for key, gradient in whole.items():
        assert_close(parts[key], gradient, TOLERANCE[name])


def test_fp32_and_tf32_on_a_cpu_change_nothing():
    expected, _ = gradients("fp32", "cnn")
    found, _ = gradients("tf32", "cnn")
    assert all(np.array_equal(found[key], expected[key]) for key in expected)
    model = nn.Linear(2, 2)
    assert "nothing on a CPU" in make_precision("tf32", model, gp.optim.SGD(model.parameters())).note


def scalar_model(value=1.0):
    """y = w x with one weight."""
    model = nn.Linear(1, 1, bias=False)
    model.weight.data[...] = value
    return model


def fit(model, loss, steps, **options):
    optimizer = options.pop("optimizer", None) or gp.optim.SGD(model.parameters(), lr=options.pop("lr", 1.0))
    result = gp.Trainer(model, loss, optimizer, progress="off", **options)
    result.fit([np.ones((1, 1), np.float32)] * steps, epochs=1)
    return result


@pytest.mark.parametrize("name", HALF)
def test_updates_too_small_for_the_half_type_add_up(name):
    """1 - 1e-4 is 1 in both half types, a hundred times over it is 0.99."""
    model = scalar_model()
    fit(model, lambda x: model(x).sum(), 100, lr=1e-4, precision=name)
    assert model.weight.numpy().item() == pytest.approx(0.99, rel=1e-4)


def test_gradients_too_small_for_float16_survive_by_the_scale():
    """1e-8 would be 0 in float16; times 32768 it is not."""
    model = scalar_model(0.0)
    fit(model, lambda x: (model(x) * 1e-4 * 1e-4).sum(), 1, precision="fp16")
    assert model.weight.numpy().item() == pytest.approx(-1e-8, rel=2e-3)


class Planted:
    """A loss whose gradient overflows float16 at the steps `at`."""

    def __init__(self, model, at):
        self.model, self.at, self.calls = model, at, 0

    def __call__(self, x):
        self.calls += 1
        factor = 1000.0 if self.calls in self.at else 1e-3
        return (self.model(x) * factor).sum()


def test_an_overflow_skips_the_step_and_halves_the_scale():
    model = scalar_model()
    optimizer = gp.optim.Adam(model.parameters(), lr=0.1)
    weights, moments = [], []

    class Spy(Planted):
        def __call__(self, x):
            weights.append(model.weight.master.copy().item())
            moments.append(optimizer.state[0]["m"].copy().item())
            return super().__call__(x)

    trainer = fit(model, Spy(model, {2, 3}), 5, optimizer=optimizer, precision="fp16")
    assert weights[1] == weights[2] == weights[3]
    assert moments[1] == moments[2] == moments[3]
    assert weights[0] != weights[1]
    assert weights[3] != weights[4]
    assert optimizer.steps == 3
    assert trainer.state.step == 5
    assert trainer.history[0]["skipped_steps"] == 2
    assert trainer.history[0]["loss_scale"] == judgement.FIRST_SCALE / 4
    assert np.isfinite(model.weight.numpy()).all()


def test_skipped_steps_are_counted_an_epoch():
    model = scalar_model()
    optimizer = gp.optim.SGD(model.parameters(), lr=0.1)
    trainer = gp.Trainer(model, Planted(model, {2, 3, 5}), optimizer, precision="fp16", progress="off")
    trainer.fit([np.ones((1, 1), np.float32)] * 4, epochs=2)
    assert [r["skipped_steps"] for r in trainer.history] == [2, 1]


def test_the_scale_grows_after_a_while_without_overflow(monkeypatch):
    monkeypatch.setattr(judgement, "GROW_AFTER", 3)
    model = scalar_model()
    trainer = fit(model, Planted(model, {2}), 8, precision="fp16")  # 3 good steps, doubled; 3 more, doubled
    assert trainer.history[0]["loss_scale"] == judgement.FIRST_SCALE / 2 * 4
    monkeypatch.setattr(judgement, "MOST_SCALE", judgement.FIRST_SCALE)
    trainer = fit(model, Planted(model, set()), 8, precision="fp16")
    assert trainer.history[0]["loss_scale"] == judgement.FIRST_SCALE


class Overflow(gp.Op):
    """y = x        dx is infinite"""

    @staticmethod
    def forward(ctx, x):
        return x

    @staticmethod
    def backward(ctx, dy):
        return dy * np.float32(np.inf)


def test_gradients_that_overflow_at_every_scale_stop_training_within_ten_steps(tmp_path):
    """2^15 is halved 25 times; what overflows at 2^-10 overflows at step 26, of 200."""
    model, taken = scalar_model(), []

    def loss(x):
        taken.append(x)
        return Overflow.apply(model(x)).sum()

    with pytest.raises(gp.TrainingError) as stop:
        fit(model, loss, 200, precision="fp16", run_folder=tmp_path)
    message = str(stop.value)
    assert message.startswith("gradients overflow float16 even with a loss scale of 0.000977 at step 26 ")
    assert "or train with bf16 or fp32" in message
    assert "Not finite first: the gradient that Overflow hands back" in message
    assert 26 <= len(taken) - 1 < 36  # and once more to find the operation
    assert gp.training.load_failure(tmp_path).record["step"] == 26


def test_a_scale_that_is_the_least_but_does_not_overflow_goes_on():
    model = scalar_model()
    trainer = fit(model, Planted(model, set()), 1, precision="fp16")
    trainer.precision.scale[...] = judgement.LEAST_SCALE
    trainer.fit([np.ones((1, 1), np.float32)], epochs=2)
    assert trainer.history[1]["loss_scale"] == judgement.LEAST_SCALE


def test_a_loop_of_ones_own_hears_of_it_too():
    model = scalar_model()
    precision = make_precision("fp16", model, gp.optim.SGD(model.parameters(), lr=1.0))
    for _ in range(26):
        precision.read()
        with precision.computing():
            loss = Overflow.apply(model(np.ones((1, 1), np.float32))).sum()
            loss.backward(precision.scaled(loss))
        precision.unscale()
    with pytest.raises(gp.TrainingError, match=r"even with a loss scale of 0\.000977: train with"):
        precision.read()


def test_the_scale_is_saved_and_restored():
    model = scalar_model()
    trainer = fit(model, Planted(model, {2, 3}), 5, precision="fp16")
    state = trainer.precision.state_dict()
    assert state == {"scale": 2.0**13, "since": 2, "skipped": 2, "known": 2, "recorded": 2}
    fresh = make_precision("fp16", model, trainer.optimizer)
    fresh.load_state_dict(state)
    assert fresh.state_dict() == state
    assert fresh.record() == {"skipped_steps": 0, "loss_scale": 2.0**13}
    assert make_precision("bf16", model, trainer.optimizer).state_dict() == {}


def test_no_step_waits_for_the_device(monkeypatch):
    looks = []
    monkeypatch.setattr(module, "to_host", lambda a: (looks.append(1), to_host(a))[1])
    model = scalar_model()
    optimizer = gp.optim.SGD(model.parameters(), lr=0.1)
    precision = make_precision("fp16", model, optimizer)
    for _ in range(5):
        optimizer.zero_grad()
        with precision.computing():
            loss = model(np.ones((1, 1), np.float32)).sum()
            loss.backward(precision.scaled(loss))
        optimizer.skip = precision.unscale()
        optimizer.step()
    assert not looks
    precision.read()
    assert looks


def test_a_device_that_is_not_waited_for_skips_by_itself():
    """The walk over the parameters as a GPU does it: everything computed, nothing kept."""
    model = scalar_model()
    optimizer = gp.optim.Adam(model.parameters(), lr=0.1, weight_decay=0.1)
    optimizer.steps = 1
    arena, state, group = optimizer.arenas[0], optimizer.state[0], optimizer.param_groups[0]
    for skip, changes in ((True, False), (False, True)):
        arena.grads[...] = np.inf if skip else 1.0
        before = arena.data.copy(), state["m"].copy(), state["v"].copy()
        with np.errstate(invalid="ignore"):
            optimizer._update_range(group, arena, state, np.array(skip), 0, 0, 1)
        after = arena.data, state["m"], state["v"]
        assert [not np.array_equal(a, b) for a, b in zip(before, after, strict=True)] == [changes] * 3


def test_a_limit_of_norms_reaches_the_master_weights():
    model = TextCNN(10, 2, embedding_dim=4, filters=2, widths=[2], max_norm=0.5)
    optimizer = gp.optim.SGD(model.parameters(), lr=0.1)
    model.output.weight.data[...] = 3.0
    with make_precision("bf16", model, optimizer).computing():
        model.train()(np.array([[4, 5, 6]]))
        np.testing.assert_allclose(
            model.output.weight.data.astype(np.float32), model.output.weight.master, rtol=1e-2
        )
    norms = np.sqrt((model.output.weight.numpy() ** 2).sum(axis=1))
    np.testing.assert_allclose(norms, 0.5, rtol=1e-5)


def test_frozen_parameters_are_computed_with_too():
    model = nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 2))
    frozen = model[0].weight
    frozen.requires_grad = False
    optimizer = gp.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.1)
    precision = make_precision("fp16", model, optimizer)
    frozen.data[...] = 2.0
    precision.start()
    with precision.computing():
        assert frozen.dtype == np.float16
        assert frozen.data.min() == 2.0
        assert model(np.ones((1, 3), np.float16)).dtype == np.float16
    assert frozen.dtype == np.float32


@pytest.mark.parametrize("name", ["tf32", *HALF])
def test_training_learns_as_in_float32(name):
    x = np.random.default_rng(0).standard_normal((40, 3)).astype(np.float32)
    data = [(x[i : i + 8], (x[i : i + 8, 0] > 0).astype(np.int64)) for i in range(0, 40, 8)]
    expected, found = trainer(), trainer(precision=name, clip_norm=10.0)
    for each in (expected, found):
        each.fit(data, epochs=20)
    assert found.history[-1]["train_loss"] == pytest.approx(expected.history[-1]["train_loss"], rel=0.02)
    assert expected.history[-1]["train_loss"] < 0.7 * expected.history[0]["train_loss"]


def test_wrong_use_is_explained(monkeypatch):
    model = nn.Linear(2, 2)
    optimizer = gp.optim.SGD(model.parameters())
    with pytest.raises(gp.DataError, match="precision is one of fp32, tf32, bf16, fp16, not 'fp8'"):
        make_precision("fp8", model, optimizer)
    real = importlib.import_module

    def without(name, *more):
        if name == "ml_dtypes":
            raise ModuleNotFoundError(name)
        return real(name, *more)

    monkeypatch.setattr(importlib, "import_module", without)
    with pytest.raises(gp.DeviceError, match=r'pip install "gpuprop\[half\]"'):
        make_precision("bf16", model, optimizer)
    for p in model.parameters():
        p.data = p.data.astype(np.float16)
    with pytest.raises(gp.DataError, match="starts from float32 weights, but weight is float16"):
        make_precision("fp16", model, gp.optim.SGD(model.parameters()))
