"""Looks after a training, at no wait a step: values that are not finite stop it, gradients that vanish or
explode are told of.

Each step leaves a bool in device memory: whether its losses or gradients, or those of a step before, were not
finite. The optimizer then skips the update by itself, so that the weights stay as they were when it happened
until the host looks, which it does every few steps. It then computes the failed step once more and watches.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from ..backend import random
from ..backend.arrays import Array, get_xp, to_host
from ..errors import GpupropError, TrainingError
from ..nn.module import Module
from ..optim import Optimizer
from ..optim.arena import gradients_are_finite
from ..tensors import Parameter, Tensor
from .failure import replay, save_failure
from .locate import Finding
from .precision import Precision
from .progress import Display

VANISHED, EXPLODED = 1e-8, 1e6  # of the first layer's gradient, relative to the last layer's
JUMP, USUAL = 1e3, 5  # how often the usual norm is an explosion; looks after which one is usual
NORMS_EVERY = 10  # steps between two looks at the norms of gradients

Record = dict[str, Any]


@dataclass(frozen=True)
class Taken:
    """A step that the host has not heard of yet. bad: a bool in device memory, for it and all before it."""

    number: int
    random_step: int
    batches: Sequence[Any]
    losses: Sequence[Tensor]
    bad: Array


class Trained(Protocol):
    """What the guard needs of a trainer."""

    model: Module
    optimizer: Optimizer
    precision: Precision
    loss: Callable[[Any], Tensor]
    count: Callable[[Any], float]
    clip_norm: float | None
    display: Display


class Guard:
    """See the file's text. run_folder: where a failed step is saved, or None."""

    def __init__(self, trainer: Trained, run_folder: str | Path | None) -> None:
        self.trainer, self.run_folder = trainer, run_folder
        self._taken: list[Taken] = []
        self._norms: list[tuple[str, str, Array]] = []
        self._usual: list[float] = []
        self._told: set[str] = set()

    def watch(
        self, number: int, batches: Sequence[Any], losses: Sequence[Tensor], overflow: Array | None
    ) -> Array:
        """Take the gradients of step `number`, before clipping and update. overflow: of float16, which the
        step is skipped for and nothing else. Returns a bool in device memory, whether to skip the update."""
        xp = get_xp(losses[0].data)
        bad = self._taken[-1].bad if self._taken else xp.zeros((), bool)
        for loss in losses:
            bad = bad | ~xp.isfinite(loss.data).all()
        if overflow is None:
            bad = bad | ~xp.asarray(gradients_are_finite(self.trainer.optimizer.arenas))
        bad = xp.asarray(bad)
        self._taken.append(Taken(number, random.state.step, list(batches), list(losses), bad))
        if number % NORMS_EVERY == 1:
            self._measure()
        return bad if overflow is None else xp.asarray(bad | overflow)

    def read(self, epoch: int) -> None:
        """Hear of the steps since the last time (waits for the device). Raises TrainingError, with the first
        operation that went wrong, when something was not finite, and saves the step."""
        taken, self._taken = self._taken, []
        if taken and bool(to_host(taken[-1].bad)):
            self._stop(next(step for step in taken if bool(to_host(step.bad))), epoch)
        norms, self._norms = self._norms, []
        for first, last, values in norms:
            self._judge(first, last, *(math.sqrt(v) for v in to_host(values).tolist()))

    def _stop(self, step: Taken, epoch: int) -> None:
        values = [float(loss.item()) for loss in step.losses]  # labels out of range are told of here
        lr = self.trainer.optimizer.param_groups[0]["lr"]
        bad = next((v for v in values if not math.isfinite(v)), None)
        found = self._find(step)
        gradients = "gradients are too large" if found.overflow else "gradients are not finite"
        what = f"the loss is {bad}" if bad is not None else gradients
        advice = f"Lower the learning rate (now {lr:.3g}) or clip gradients (clip norm 1, say)"
        advice += ", or train with bf16 or fp32" if self.trainer.precision.name == "fp16" else ""
        message = (
            f"{what} at step {step.number} (epoch {epoch}): training has diverged. {advice}. "
            f"Not finite first: {found.text}"
        )
        raise TrainingError(message + self._save(step, epoch, message, found))

    def _find(self, step: Taken) -> Finding:
        of = self.trainer
        try:
            return replay(of.model, of.loss, of.count, step.batches, step.random_step, of.precision)
        except (GpupropError, ValueError, RuntimeError, StopIteration) as error:
            return Finding(f"unknown, as the batch could not be computed once more ({error})")

    def _save(self, step: Taken, epoch: int, message: str, found: Finding) -> str:
        if self.run_folder is None:
            return ""
        record = {
            "step": step.number, "epoch": epoch, "message": message, "operation": found.operation,
            "layer": found.layer, "precision": self.trainer.precision.name,
        }  # fmt: skip
        try:
            folder = save_failure(self.run_folder, self.trainer.model, step.batches, step.random_step, record)
        except GpupropError as error:
            return f". The step could not be saved: {error}"
        return f". Weights, batch and random state are in {folder}"

    def _measure(self) -> None:
        """The squared norms of the first layer's, the last layer's and all gradients."""
        layers = list(_layers(self.trainer.model).items())
        if len(layers) < 2:
            return
        (first, parts), (last, others) = layers[0], layers[-1]
        xp = get_xp(parts[0].data)
        groups = (parts, others, [p for _, layer in layers for p in layer])
        values = xp.stack([xp.asarray(sum(_square(p) for p in group)) for group in groups])
        self._norms.append((first, last, values))

    def _judge(self, first: str, last: str, begin: float, end: float, whole: float) -> None:
        if not all(map(math.isfinite, (begin, end, whole))):
            return  # float16, and that step was skipped
        norms = f"{begin:.1e} in layer {first} and {end:.1e} in layer {last}"
        if end > 0 and begin < VANISHED * end:
            self._tell(
                "vanishing",
                f"gradients vanish: their norm is {norms}, so that the first layers hardly learn. Use fewer "
                "layers or shorter texts, other initial weights, layer normalisation, or gates (GRU, LSTM)",
            )
        usual = statistics.median(self._usual) if len(self._usual) >= USUAL else math.inf
        if begin > EXPLODED * end > 0 or (whole > JUMP * usual > 0 and self.trainer.clip_norm is None):
            before = f"; it was {usual:.1e} in all, now {whole:.1e}" if usual < math.inf else ""
            self._tell(
                "exploding",
                f"gradients explode: their norm is {norms}{before}. Clip gradients (clip norm 1, say) or "
                "lower the learning rate",
            )
        self._usual = [*self._usual[-50:], whole]

    def _tell(self, kind: str, text: str) -> None:
        if kind not in self._told:
            self._told.add(kind)
            self.trainer.display.warn(text)


def _layers(model: Module) -> dict[str, list[Parameter]]:
    """Layer -> its parameters that have a gradient, in the model's order."""
    layers: dict[str, list[Parameter]] = {}
    for name, parameter in model.named_parameters():
        if parameter.leaf.grad is not None:
            layers.setdefault(name.rpartition(".")[0], []).append(parameter)
    return layers


def _square(p: Parameter) -> Array:
    assert p.leaf.grad is not None
    flat = p.leaf.grad.transpose(p.order).reshape(-1)
    return flat.dot(flat)
