"""Batches on their way to a fake GPU by a stream of their own, which refuses what no event orders."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import fake_cupy
import numpy as np
import pytest
from fake_order import RaceViolation
from test_capture import MODELS, OPTIMIZERS, ROWS, batch

import gpuprop as gp
from gpuprop import nn
from gpuprop.backend import staging
from gpuprop.backend.staging import Staging
from gpuprop.text import TextBatch, text_batches
from gpuprop.training import CheckpointFolder

SIZE = 512


def batches(steps: int) -> list[TextBatch]:
    made = []
    for i in range(steps):
        ids, mask, labels = batch(i, rows=6 if i % 3 else 4)
        made.append(TextBatch(ids, mask, mask.sum(axis=1), labels, np.arange(len(ids))))
    return made


def trainer(capture: bool | None, **more: Any) -> gp.Trainer:
    gp.manual_seed(3)
    model, criterion = MODELS["mlp"](), nn.CrossEntropyLoss()
    return gp.Trainer(
        model, lambda b: criterion(model(b.ids, b.mask), b.labels), OPTIMIZERS["adamw"](model.parameters()),
        progress="off", capture=capture, **more,
    )  # fmt: skip


def weights(of: gp.Trainer) -> list[np.ndarray]:
    return [p.numpy().copy() for p in of.model.parameters()]


def cupy_now() -> Any:
    return gp.get_xp(fake_cupy.asarray(1.0))


def block() -> Any:
    return cupy_now().empty(1 << 12, np.uint8)


def sent(of: Staging, value: int) -> Any:
    found = of.send([np.full(SIZE, value, np.uint8)])
    assert found is not None
    return found


def test_batches_arrive_and_the_host_waits_for_nothing(fake_gpu: Any) -> None:
    """Also where the device is far behind: each copy then has pinned memory of its own."""
    of, to = Staging(cupy_now()), [block() for _ in range(12)]
    fake_gpu.idle = False
    fake_gpu.waits.clear()
    for i, target in enumerate(to):
        sent(of, i).copy_to(target)
    assert fake_gpu.waits == []
    assert fake_gpu.reads == ["set()"] * len(to)
    assert fake_gpu.order.pinned_bytes() == len(to) * SIZE
    assert [target.host[0] for target in to] == list(range(12))
    of.close()
    assert fake_gpu.order.pinned_bytes() == 0


def test_pinned_memory_is_used_again_when_its_copy_is_done(fake_gpu: Any) -> None:
    of, to = Staging(cupy_now()), block()
    for i in range(12):
        sent(of, i).copy_to(to)
    assert fake_gpu.order.pinned_bytes() == SIZE
    fake_gpu.idle = False
    for i in range(2 * staging.MOST_COPIES):
        sent(of, i).copy_to(to)
    assert fake_gpu.order.pinned_bytes() == staging.MOST_COPIES * SIZE
    assert set(fake_gpu.waits) == {"Event.synchronize()"}


def test_larger_batches_and_those_that_no_step_reads(fake_gpu: Any) -> None:
    of, to = Staging(cupy_now()), block()
    fake_gpu.idle = False
    for size in (1, 700, 3, 2000, 1500, 2000):
        given = [np.arange(size, dtype=np.int16), np.full(2, size, np.float32)]
        of.send([np.zeros(5 * size, np.float64)])
        found = of.send(given)
        assert found is not None
        found.copy_to(to.view_of(to.host)) if found.size <= to.size else None
    assert fake_gpu.order.copies
    of.close()
    assert fake_gpu.order.copies == []


@pytest.mark.parametrize("given", [[], ["text", 3], [np.array(["a"])], [np.ones(2), None]])
def test_what_is_not_sent(fake_gpu: Any, given: list[Any]) -> None:
    of = Staging(cupy_now())
    if given and isinstance(given[0], np.ndarray) and given[0].dtype == float:
        given = [*given, fake_cupy.asarray(given[0])]
    assert of.send(given) is None
    assert fake_gpu.order.pinned_bytes() == 0


def no_waiting(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(fake_cupy.Stream, "wait_event", lambda self, event: None)


def no_end_of_reading(patch: pytest.MonkeyPatch) -> None:
    nothing = property(lambda self: fake_cupy.Event(), lambda self, event: None)
    patch.setattr(staging._Place, "read", nothing, raising=False)


def no_regard_for_copies(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(staging.PinnedRing, "_free", lambda self: self._sent.pop(0) if self._sent else None)


@pytest.mark.parametrize(
    ("forgotten", "message"),
    [
        (no_waiting, "wait for its event"),
        (no_end_of_reading, "wait for its event"),
        (no_regard_for_copies, "was written to"),
    ],
)
def test_the_fake_refuses_what_no_event_orders(
    fake_gpu: Any, monkeypatch: pytest.MonkeyPatch, forgotten: Any, message: str
) -> None:
    forgotten(monkeypatch)
    fake_gpu.idle = False
    of, to = Staging(cupy_now()), block()

    def send_four() -> None:
        for i in range(4):
            sent(of, i).copy_to(to)

    with pytest.raises(RaceViolation, match=message):
        send_four()


def test_pinned_memory_that_is_freed_too_early(fake_gpu: Any) -> None:
    fake_gpu.idle = False
    of = Staging(cupy_now())
    sent(of, 1)
    of._pinned = staging.PinnedRing(of.xp)
    with pytest.raises(RaceViolation, match="was freed"):
        sent(of, 2)


def test_host_and_device_inputs_may_take_turns(fake_gpu: Any) -> None:
    """One signature, whose arrays come from anywhere."""
    run = gp.capture(lambda x, y, z: x + y + z)
    for i in range(8):
        given = [np.full(3, v * i, np.float32) for v in (1.0, 10.0, 100.0)]
        given = [fake_cupy.asarray(a) if i >> k & 1 else a for k, a in enumerate(given)]
        assert run(*given).get().tolist() == [111.0 * i] * 3
    assert (run.captured, run.replayed) == (1, 6)


def test_a_step_of_the_trainer_is_one_transfer_beside_the_step_before(fake_gpu: Any) -> None:
    of = trainer(True, clip_norm=1.0)
    seen: list[tuple[int, int]] = []  # transfers and graphs, as each step is computed
    run = of.device_step.run

    def counted(*args: Any) -> Any:
        seen.append((fake_gpu.reads.count("set()"), fake_gpu.launches.count("graph")))
        fake_gpu.waits.clear()
        found = run(*args)
        assert fake_gpu.waits == []
        return found

    of.device_step.run = counted  # type: ignore[method-assign]
    of.fit(batches(13), epochs=3)
    steps = np.diff(seen[-24:], axis=0)
    assert of.device_step.graph.replayed > 30
    assert (steps == [1, 1]).all(axis=1).sum() >= 19
    assert (steps[:, 0] <= 2).all()  # two, where the next batch was taken before the losses were read


def test_a_step_that_is_no_graph_finds_its_batch_on_the_device(fake_gpu: Any) -> None:
    """One transfer a step, beside the step before; nothing of the batch is copied while the step is computed,
    which sees the batch of the host."""
    of, inside, kinds = trainer(False, clip_norm=1.0), [], set()
    loss, run = of.loss, of.device_step.run

    def watched(b: Any) -> Any:
        before = len(fake_gpu.reads)
        found = loss(b)
        inside.append(fake_gpu.reads[before:])
        kinds.add(type(b.ids))
        return found

    def counted(*args: Any) -> Any:
        fake_gpu.waits.clear()
        found = run(*args)
        assert fake_gpu.waits == []
        return found

    of.loss, of.device_step.run = watched, counted  # type: ignore[method-assign]
    of.fit(batches(13), epochs=2)
    assert kinds == {np.ndarray}
    assert inside == [[]] * 26
    assert fake_gpu.order.pinned_bytes() == 0


@pytest.mark.parametrize("capture", [False, None])
def test_a_batch_that_was_sent_gives_the_bits_of_one_that_was_not(
    fake_gpu: Any, capture: bool | None
) -> None:
    sent, alone = trainer(capture), trainer(capture)
    alone.device_step.prefetch = lambda given: None  # type: ignore[method-assign]
    for of in (sent, alone):
        gp.manual_seed(4)
        of.fit(batches(5), epochs=2)
    assert all(np.array_equal(a, b) for a, b in zip(weights(sent), weights(alone), strict=True))


def test_no_memory_is_left(fake_gpu: Any) -> None:
    of, freed = trainer(True), []
    finish = of.device_step.finish

    def counted() -> None:
        before = fake_gpu.default_pool.used
        finish()
        freed.append(before - fake_gpu.default_pool.used)

    of.device_step.finish = counted  # type: ignore[method-assign]
    for epochs in (2, 3):
        of.fit(batches(4), epochs=epochs)
    of.fit(batches(4), epochs=3)  # nothing to do
    assert freed == [2 * 4096] * 2 + [0]  # for batches of five arrays, each of up to 512 bytes
    of.device_step.graph.clear()  # which has some for the numbers beside the batches
    assert fake_gpu.order.pinned_bytes() == 0


class Failing:
    """Batches whose fourth cannot be loaded, and which say how far they were read."""

    def __init__(self, fails: bool = True) -> None:
        self.read, self.fails = 0, fails

    def __iter__(self) -> Iterator[Any]:
        for i, one in enumerate(batches(16)):
            self.read = i + 1
            if self.fails and i == 11:
                raise OSError("disk")
            yield one


def test_an_error_of_the_loader_comes_at_its_batch(any_gpu: str) -> None:
    """The batch is taken early, before the losses of step 11 are read: these are recorded first."""
    found = {}
    for capture in (False, True):
        of = trainer(capture)
        with pytest.raises(OSError, match="disk"):
            of.fit(Failing(), epochs=1)
        found[capture] = of.state.step, weights(of)
    assert found[True][0] == found[False][0] == 11
    assert all(np.array_equal(a, b) for a, b in zip(found[True][1], found[False][1], strict=True))


@pytest.mark.parametrize("device", ["cuda", "cpu"])
def test_what_is_taken_early(fake_gpu: Any, device: str) -> None:
    """The next batch before the device is waited for, on a GPU; nothing on a CPU."""
    with gp.use_device(device):
        of, given, read = trainer(None), Failing(fails=False), []
        of.guard.read = lambda _: read.append((of.state.step, given.read))  # type: ignore[method-assign]
        of.fit(given, epochs=1)
    early = 1 if device == "cuda" else 0
    assert read == [(1, 1 + early), (11, 11 + early), (16, 16)]


def rows() -> Any:
    rng = np.random.default_rng(5)
    texts = [rng.integers(3, 20, 7).tolist() for _ in range(13 * ROWS)]
    return text_batches(texts, rng.integers(0, 3, len(texts)), ROWS, seed=2)


@pytest.mark.parametrize("at", [1, 11])
def test_stopped_with_a_batch_taken_early_and_gone_on_gives_the_same_bits(
    fake_gpu: Any, tmp_path: Path, at: int
) -> None:
    whole = trainer(True)
    whole.fit(rows(), epochs=2)

    cut, given = trainer(True, checkpoints=CheckpointFolder(tmp_path)), rows()
    plain, stops = cut.guard.read, [KeyboardInterrupt()]

    def read(epoch: int) -> None:
        if cut.state.step == at and stops:
            assert given.state_dict()["step"] == at + 1
            raise stops.pop()
        plain(epoch)

    cut.guard.read = read  # type: ignore[method-assign]
    with pytest.raises(KeyboardInterrupt):
        cut.fit(given, epochs=2)
    assert given.state_dict()["step"] == at
    assert fake_gpu.order.pinned_bytes() == 0
    on, more = trainer(True, checkpoints=CheckpointFolder(tmp_path)), rows()
    assert on.resume() is not None
    assert on.state.step == at
    on.fit(more, epochs=2)
    assert [r["train_loss"] for r in on.history] == [r["train_loss"] for r in whole.history]
    assert all(np.array_equal(a, b) for a, b in zip(weights(on), weights(whole), strict=True))


@pytest.mark.parametrize("device", ["cuda", "cpu"])
def test_a_loss_may_change_its_batch(fake_gpu: Any, device: str) -> None:
    """In place, on the host: what was sent before is no longer the batch."""
    with gp.use_device(device):
        gp.manual_seed(3)
        model, criterion, seen = MODELS["mlp"](), nn.CrossEntropyLoss(), []

        def loss(b: Any) -> Any:
            b.ids[b.mask] = 1 + len(seen)  # as a loss that leaves out words would
            with gp.no_grad():
                logits = model.eval()(b.ids, b.mask).numpy()
            seen.append(np.array_equal(logits, model(b.ids.copy(), b.mask).numpy()))
            return criterion(model.train()(b.ids, b.mask), b.labels)

        update = OPTIMIZERS["adamw"](model.parameters())
        of = gp.Trainer(model, loss, update, progress="off", capture=False)
        of.fit(batches(4), epochs=1)
        assert seen == [True] * 4
