"""`gp.capture` on a fake GPU, where a replay repeats launches with the memory they were made with, and
nothing else: what a step baked in from the host would show as a difference."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import fake_cupy
import numpy as np
import pytest

import gpuprop as gp
from gpuprop import models, nn, optim
from gpuprop.backend import random

ROWS, LENGTH, WORDS, CLASSES = 6, 7, 20, 3


class Recurrent(nn.Module):
    def __init__(self) -> None:
        self.embedding = nn.Embedding(WORDS, 8)
        self.gru = nn.GRU(8, 6, bidirectional=True)
        self.dropout = nn.Dropout(0.2)
        self.output = nn.Linear(12, CLASSES)

    def forward(self, ids: Any, mask: Any) -> Any:
        states, _ = self.gru(self.embedding(ids), mask=mask)
        return self.output(self.dropout(gp.ops.max_over_time(states, mask)))


class Attentive(nn.Module):
    def __init__(self) -> None:
        self.embedding = nn.Embedding(WORDS, 8)
        self.layer = nn.TransformerEncoderLayer(8, 2, 16, dropout=0.2)
        self.output = nn.Linear(8, CLASSES)

    def forward(self, ids: Any, mask: Any) -> Any:
        return self.output(gp.ops.max_over_time(self.layer(self.embedding(ids), mask), mask))


MODELS = {
    "mlp": lambda: models.FeedForwardClassifier(WORDS, CLASSES, embedding_dim=8, hidden=(16,), dropout=0.2),
    "cnn": lambda: models.TextCNN(WORDS, CLASSES, embedding_dim=8, filters=4),
    "gru": Recurrent,
    "transformer": Attentive,
}
OPTIMIZERS = {
    "adamw": lambda p: optim.AdamW(p, lr=1e-2, weight_decay=0.1),
    "sgd": lambda p: optim.SGD(p, lr=0.1, momentum=0.9),
    "rmsprop": lambda p: optim.RMSprop(p, lr=1e-2),
    "adagrad": lambda p: optim.Adagrad(p, lr=1e-2),
}


def batch(seed: int, rows: int = ROWS, length: int = LENGTH) -> tuple[np.ndarray, ...]:
    rng = np.random.default_rng(seed)
    lengths = rng.integers(2, length + 1, rows)
    mask = np.arange(length) < lengths[:, None]
    ids = np.where(mask, rng.integers(3, WORDS, (rows, length)), 0)
    return ids, mask, rng.integers(0, CLASSES, rows)


def train(
    model: str, optimizer: str, steps: int, captured: bool
) -> tuple[list[float], list[np.ndarray], Any]:
    """Losses, weights, and what ran: a schedule changes the rate, clipping and dropout are on."""
    gp.manual_seed(1)
    made = MODELS[model]()
    made.train()
    criterion, update = nn.CrossEntropyLoss(), OPTIMIZERS[optimizer](made.parameters())
    schedule = optim.CosineLR(update, steps)

    def step(ids: Any, mask: Any, labels: Any) -> Any:
        update.zero_grad()
        loss = criterion(made(ids, mask), labels)
        loss.backward()
        norm = update.clip_grad_norm(0.5)
        update.step()
        return loss, norm

    run = gp.capture(step) if captured else step
    losses = []
    for i in range(steps):
        loss, norm = run(*batch(i))
        losses += [loss.item(), norm.item()]
        schedule.step()
    return losses, [p.numpy().copy() for p in made.parameters()], run


@pytest.mark.parametrize(
    ("model", "optimizer"),
    [*((m, "adamw") for m in MODELS), *(("mlp", o) for o in OPTIMIZERS if o != "adamw")],
)
def test_captured_steps_give_the_bits_of_steps_that_are_not(any_gpu: str, model: str, optimizer: str) -> None:
    losses, weights, _ = train(model, optimizer, 5, captured=False)
    step, seed = random.state.step, random.state.seed
    found, new, run = train(model, optimizer, 5, captured=True)
    assert (run.ran, run.captured, run.replayed) == (1, 1, 3)
    assert found == losses
    assert all(np.array_equal(a, b) for a, b in zip(new, weights, strict=True))
    assert (random.state.step, random.state.seed) == (step, seed)


def test_a_replay_is_one_transfer_and_one_launch(fake_gpu: Any) -> None:
    gp.manual_seed(0)
    _, _, run = train("mlp", "adamw", 3, captured=True)
    run(*batch(8))  # after the schedule's last change
    fake_gpu.launches.clear(), fake_gpu.waits.clear(), fake_gpu.reads.clear()
    run(*batch(9))
    assert fake_gpu.launches.count("graph") == 1
    assert fake_gpu.waits == []
    assert fake_gpu.reads == ["set()"]  # ids, mask and labels together
    others = [name for name in fake_gpu.launches if name != "graph"]
    assert others == ["fill", "copy"]  # the number of the step; the results


def test_each_signature_has_its_graph_and_the_oldest_is_forgotten(fake_gpu: Any) -> None:
    run = gp.capture(lambda x, factor: x * factor, graphs=2)
    a, b, c = (np.ones(n, np.float32) for n in (2, 3, 4))
    for _ in range(3):
        assert run(a, 2.0).shape == (2,)
    assert run(a, 3.0).get().tolist() == [3.0, 3.0]  # a number is part of the signature
    assert (run.ran, run.captured, run.replayed) == (2, 1, 1)
    run(a.astype(np.float64), 2.0)  # a type, too; the first signature is the oldest
    run(a, 2.0)
    assert (run.ran, run.captured, run.replayed) == (4, 1, 1)
    for x in (b, c):
        for _ in range(3):
            assert run(x, 2.0).shape == x.shape
    assert (run.captured, run.replayed) == (3, 3)
    run.clear()
    run(b, 2.0)
    assert run.captured == 3


def test_results_stay_and_inputs_may_change(any_gpu: str) -> None:
    run = gp.capture(lambda x: {"double": x * 2, "same": gp.Tensor(x), "n": 3, "none": None})
    x = np.arange(3, dtype=np.float32)
    results = []
    for i in range(5):
        x[...] = i
        results.append(run(x))
    x[...] = -1
    assert [r["double"].get().tolist() for r in results] == [[2.0 * i] * 3 for i in range(5)]
    assert [r["same"].numpy().tolist() for r in results] == [[float(i)] * 3 for i in range(5)]
    assert all(r["n"] == 3 and r["none"] is None for r in results)


@dataclass(frozen=True)
class Pair:
    left: Any
    rest: tuple[Any, ...]
    name: str


def test_inputs_of_any_structure_and_place(fake_gpu: Any) -> None:
    def step(pair: Pair, more: dict[str, Any]) -> Any:
        assert isinstance(pair.left, fake_cupy.ndarray)
        assert isinstance(more["t"], gp.Tensor)
        return pair.left + pair.rest[0] + more["t"].data

    run = gp.capture(step)
    for i in range(4):
        left = np.full(2, i, np.float32)
        on_device = gp.get_xp(fake_cupy.asarray(left)).full(2, 10.0 * i, np.float32)
        y = run(Pair(left, (on_device,), "x"), {"t": gp.tensor(left * 100)})
        assert y.get().tolist() == [111.0 * i] * 2
    assert run.replayed == 2
    with pytest.raises(TypeError, match="not set"):
        run({1, 2}, {})


def test_another_mode_or_option_is_captured_anew(any_gpu: str) -> None:
    gp.manual_seed(4)
    model = MODELS["mlp"]()
    update, criterion = optim.SGD(model.parameters(), lr=0.1, momentum=0.5), nn.CrossEntropyLoss()

    def step(ids: Any, mask: Any, labels: Any) -> Any:
        update.zero_grad()
        loss = criterion(model(ids, mask), labels)
        loss.backward()
        update.step()
        return loss

    run = gp.capture(step)
    for _ in range(3):
        run(*batch(0))
    assert (run.ran, run.captured, run.replayed) == (1, 1, 1)
    model.eval()
    run(*batch(0))
    assert run.ran == 2
    update.param_groups[0]["momentum"] = 0.9
    run(*batch(0))
    assert run.ran == 3
    update.param_groups[0]["lr"] = 0.0  # which is read from device memory
    before = [p.numpy().copy() for p in model.parameters()]
    for _ in range(2):
        run(*batch(0))
    assert (run.ran, run.captured, run.replayed) == (3, 2, 2)
    assert all(np.array_equal(p.numpy(), b) for p, b in zip(model.parameters(), before, strict=True))


def test_it_has_the_name_of_the_step() -> None:
    @gp.capture
    def step(x: Any) -> Any:
        """Doubles."""
        return x * 2

    assert (step.__name__, step.__doc__) == ("step", "Doubles.")
    with gp.use_device("cpu"):
        assert step(3) == 6
    with pytest.raises(ValueError, match="at least 1, not 0"):
        gp.capture(step, graphs=0)


def test_on_a_cpu_it_is_the_step(fake_gpu: Any) -> None:
    for device in ("cpu", "emulated"):
        with gp.use_device(device):
            run = gp.capture(lambda x: x + 1)
            x = np.ones(2)
            for _ in range(3):
                assert isinstance(run(x), np.ndarray)
            assert (run.ran, run.captured, run.replayed) == (0, 0, 0)


def test_inside_a_graph_nothing_but_its_pool_is_allocated(fake_gpu: Any) -> None:
    """The fake refuses memory from elsewhere while it captures; replays ask for that of their results only,
    which says nothing of when the collector gives memory of others back."""
    _, _, run = train("cnn", "adamw", 3, captured=True)
    run(*batch(0))  # after the schedule's last change
    given = fake_gpu.default_pool.given
    for i in range(10):
        run(*batch(i))
    assert fake_gpu.default_pool.given == given + 10


class Peeking(gp.Op):
    @staticmethod
    def forward(ctx: Any, x: Any) -> Any:
        return x * 1.0

    @staticmethod
    def backward(ctx: Any, dy: Any) -> Any:
        if dy.sum() > 0:  # waits
            return dy
        return dy * 2.0


def test_a_step_that_waits_is_named(fake_gpu: Any) -> None:
    w = gp.Parameter(np.ones(3, np.float32)).to("cuda")
    w.requires_grad = True

    def step(x: Any) -> Any:
        (Peeking.apply(w) * x).sum().backward()
        return w.grad

    run, x = gp.capture(step), np.ones(3, np.float32)
    run(x)
    with pytest.raises(gp.CaptureError, match=r"waits for the device.*Peeking.backward.*`if dy.sum\(\) > 0"):
        run(x)
    assert not fake_gpu.capture


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        (lambda x: gp.Tensor(x[:1]).item(), r"get\(\) waits"),
        (lambda x: x + gp.backend.arrays.to_device(np.ones(3, np.float32)), "makes anew each time"),
        (lambda x: x[x > 0], "an index of bools waits"),
        (lambda x: float(x.sum()) * x, r"float\(\) waits"),
        (lambda x: fake_cupy.Stream().synchronize(), r"synchronize\(\) waits"),
    ],
)
def test_what_may_not_be_captured(fake_gpu: Any, bad: Any, message: str) -> None:
    run, x = gp.capture(bad), np.ones(3, np.float32)
    step = random.state.step
    run(x)
    for _ in range(2):  # and then it still is the step, uncaptured, first
        with pytest.raises(gp.CaptureError, match=message):
            run(x)
        run(x)
    assert random.state.step == step


def test_memory_from_another_pool_is_refused(fake_gpu: Any) -> None:
    other = fake_cupy.MemoryPool()
    cupy = gp.get_xp(fake_cupy.asarray(1.0))

    def step(x: Any) -> Any:
        with cupy.cuda.using_allocator(other.malloc):
            return x + 1.0

    run, x = gp.capture(step), np.ones(3, np.float32)
    run(x)
    with pytest.raises(gp.CaptureError, match="outside the pool"):
        run(x)


def test_an_array_of_the_host_that_stays_is_copied_once(any_gpu: str) -> None:
    weights = np.array([1.0, 2.0, 3.0], np.float32)
    criterion = nn.CrossEntropyLoss(weight=weights)
    logits, labels = np.eye(3, dtype=np.float32), np.arange(3)
    run = gp.capture(lambda z, t: criterion(gp.Tensor(z), t))
    losses = [run(logits, labels).item() for _ in range(4)]
    assert run.replayed == 2
    assert len(set(losses)) == 1


def test_what_a_graph_holds_for(fake_gpu: Any) -> None:
    """Another seed, precision, order of adding or mode of recording is another graph."""
    x = np.ones((2, 2), np.float32)
    run = gp.capture(lambda x: gp.backend.gemm.matmul(x, x))
    for _ in range(3):
        run(x)
    changes = (
        lambda: gp.manual_seed(5),
        lambda: gp.set_matmul_precision("high"),
        lambda: gp.use_deterministic_algorithms(False),
    )
    for change in changes:
        before = run.ran
        change()
        run(x)
        assert run.ran == before + 1
    gp.set_matmul_precision("highest")
    gp.use_deterministic_algorithms(True)
    with gp.no_grad():
        run(x)
    assert run.ran == 5


DROPPING = {
    "p": lambda: nn.Dropout(0.5),
    "dropout.p": lambda: nn.FeedForward((16, 16, 16), dropout=0.5),
    "dropout": lambda: nn.MultiHeadAttention(16, 2, dropout=0.5),
    "layers.0.dropout": lambda: nn.Sequential(nn.GRU(16, 4, num_layers=2, dropout=0.5)),
}


@pytest.mark.parametrize("name", DROPPING)
def test_another_probability_of_dropout_is_captured_anew(fake_gpu: Any, name: str) -> None:
    layer, x = DROPPING[name](), np.ones((2, 3, 16), np.float32)

    def model(x: Any) -> Any:
        y = layer(x, x, x) if name == "dropout" else layer(x)
        return y[0] if isinstance(y, tuple) else y

    @gp.capture
    def run(x: Any) -> Any:
        y = model(x)
        random.advance_step()
        return y

    for _ in range(3):
        run(x)
    *path, last = name.split(".")
    of: Any = layer
    for part in path:
        of = of[int(part)] if part.isdigit() else getattr(of, part)
    setattr(of, last, 0.0)
    found = [run(x).numpy() for _ in range(3)]
    assert (run.ran, run.captured, run.replayed) == (2, 2, 2)
    with gp.no_grad():
        layer.eval()
        expected = model(gp.tensor(x)).numpy()
    for y in found:
        np.testing.assert_allclose(y, expected, rtol=1e-6)
