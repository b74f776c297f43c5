"""The trainer's steps as one launch each, on a fake GPU: the same bits as step by step."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import pytest
from test_capture import MODELS, OPTIMIZERS, batch

import gpuprop as gp
from gpuprop import nn, optim
from gpuprop.text import TextBatch
from gpuprop.training.observer import Observer

STEPS = 4


def batches(steps: int = STEPS, bad: int | None = None) -> list[TextBatch]:
    made = []
    for i in range(steps):
        ids, mask, labels = batch(i, rows=6 if i % 3 else 4)
        if i == bad:
            labels[2] = 77
        made.append(TextBatch(ids, mask, mask.sum(axis=1), labels, np.arange(len(ids))))
    return made


def trainer(capture: bool | None, model: str = "mlp", optimizer: str = "adamw", **more: Any) -> gp.Trainer:
    gp.manual_seed(3)
    made, criterion = MODELS[model](), nn.CrossEntropyLoss()
    update = OPTIMIZERS[optimizer](made.parameters())
    return gp.Trainer(
        made, lambda b: criterion(made(b.ids, b.mask), b.labels), update,
        schedule=optim.LinearWarmupLR(update, 3), progress="off", capture=capture, **more,
    )  # fmt: skip


def outcome(of: gp.Trainer) -> tuple[list[Any], list[np.ndarray]]:
    kept = [(r["train_loss"], r["lr"], r["step"], r.get("loss_scale")) for r in of.history]
    return kept, [p.numpy().copy() for p in of.model.parameters()]


@pytest.mark.parametrize(
    ("model", "optimizer", "more"),
    [
        ("mlp", "adamw", {"clip_norm": 0.5}),
        ("mlp", "sgd", {"clip_norm": 0.5}),
        ("cnn", "adamw", {}),
        ("gru", "adamw", {"accumulate": 2}),
        ("transformer", "adamw", {"precision": "bf16", "clip_norm": 1.0}),
        ("mlp", "adamw", {"precision": "fp16", "accumulate": 2}),
        ("mlp", "rmsprop", {"precision": "tf32"}),
    ],
)
def test_the_bits_of_steps_that_are_not_captured(
    any_gpu: str,
    model: str,
    optimizer: str,
    more: dict[str, Any],
) -> None:
    found = {}
    for capture in (False, True):
        of = trainer(capture, model, optimizer, **more)
        of.fit(batches(), epochs=3 if "accumulate" in more else 2)
        found[capture] = outcome(of)
    graph = of.device_step.graph
    assert graph is not None
    assert graph.replayed > 0
    assert found[True][0] == found[False][0]
    assert all(np.array_equal(a, b) for a, b in zip(found[True][1], found[False][1], strict=True))


def test_graphs_do_not_write_to_what_other_graphs_keep(any_gpu: str) -> None:
    """New shapes come up when others are captured: their graphs keep ones and class weights in memory that is
    not what the others use on their way."""
    found = {}
    for capture in (False, True):
        gp.manual_seed(3)
        model = MODELS["mlp"]()
        criterion = nn.CrossEntropyLoss(weight=np.array([1.0, 2.0, 0.5], np.float32))
        of = gp.Trainer(
            model, lambda b, m=model, c=criterion: c(m(b.ids, b.mask), b.labels),
            optim.SGD(model.parameters(), lr=0.1), progress="off", capture=capture, accumulate=2,
        )  # fmt: skip
        some = batches(12)
        for k in range(2, 13, 2):
            of.fit(some[:k], epochs=k)
        found[capture] = outcome(of)
    assert of.device_step.graph is not None
    assert of.device_step.graph.captured > 1
    assert found[True][0] == found[False][0]
    assert all(np.array_equal(a, b) for a, b in zip(found[True][1], found[False][1], strict=True))


def test_captured_by_default_and_never_on_a_cpu(any_gpu: str) -> None:
    of = trainer(None)
    of.fit(batches(), epochs=2)
    assert of.device_step.graph.replayed > 0
    with gp.use_device("cpu"):
        of = trainer(None)
        of.fit(batches(), epochs=1)
        assert of.device_step.graph is None


def test_a_replayed_step_waits_for_nothing(fake_gpu: Any) -> None:
    of = trainer(True)
    of.fit(batches(), epochs=2)
    fake_gpu.waits.clear()
    of.device_step.run(100, batches()[:1])
    assert fake_gpu.waits == []


def test_labels_out_of_range_are_told_of(any_gpu: str) -> None:
    of = trainer(True)
    of.fit(batches(), epochs=1)
    with pytest.raises(gp.DataError, match=r"target 77 at row 2"):
        of.fit(batches(bad=3), epochs=2)
    assert of.device_step.graph.replayed > 0


def test_a_loss_that_is_not_finite_stops_training_alike(any_gpu: str) -> None:
    found = {}
    for capture in (False, True):
        of = trainer(capture)
        of.fit(batches(), epochs=2)
        next(of.model.parameters()).data[3, 0] = np.inf  # the embedding of word 3
        with pytest.raises(gp.TrainingError, match="training has diverged") as error:
            of.fit(batches(), epochs=3)
        found[capture] = str(error.value), outcome(of)
    assert found[True][0] == found[False][0]
    assert found[True][1][0] == found[False][1][0]
    assert all(np.array_equal(a, b) for a, b in zip(found[True][1][1], found[False][1][1], strict=True))


class Looking(Observer):
    def __init__(self) -> None:
        self.seen: list[float] = []

    def after_backward(self) -> None:
        self.seen.append(1.0)


def test_what_looks_into_a_step_keeps_it_from_being_captured(any_gpu: str) -> None:
    looking = Looking()
    of = trainer(True, observers=[looking])
    of.fit(batches(), epochs=2)
    assert len(looking.seen) == 2 * STEPS
    assert of.device_step.graph is None


def test_a_loss_that_cannot_be_captured(any_gpu: str) -> None:
    """By default it is told of once, and training goes on with the same bits; with capture=True it raises."""
    found = {}
    for capture in (False, None):
        of = trainer(capture)
        plain = of.loss
        of.loss = lambda b, plain=plain: plain(b) * (2.0 if plain(b).item() > 0 else 1.0)
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            of.fit(batches(), epochs=2)
        found[capture] = outcome(of)
        told = [str(w.message) for w in caught if "operation by operation" in str(w.message)]
        assert len(told) == (capture is None)
    assert found[False][0] == found[None][0]
    of = trainer(True)
    plain = of.loss
    of.loss = lambda b: plain(b) * plain(b).item()
    with pytest.raises(gp.CaptureError, match=r"(waits for the device|D2H transfers).* in Tensor\.numpy "):
        of.fit(batches(), epochs=2)
