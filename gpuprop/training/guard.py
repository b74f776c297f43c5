"""Looks after a training, at no wait a step: values that are not finite stop it, gradients that vanish or
explode are told of (divergence.py).

Each step leaves a bool in device memory: whether its losses or gradients, or those of a step before, were not
finite. The optimizer then skips the update by itself, so that the weights stay as they were when it happened
until the host looks, which it does every few steps. It then computes the failed step once more and watches.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from ..backend import random
from ..backend.arrays import Array, get_xp, to_host
from ..backprop import no_grad
from ..errors import DataError, GpupropError, TrainingError
from ..nn.module import Module
from ..optim import Optimizer
from ..optim.norm import joint_squares
from ..tensors import Tensor
from .divergence import Divergence
from .failure import replay, save_failure
from .judgement import judge
from .locate import Finding
from .precision import OVERFLOW, Precision
from .progress import Display
from .ranks import Ranks

Record = dict[str, Any]


@dataclass(frozen=True)
class Taken:
    """A step that the host has not heard of yet. bad: a bool in device memory, for it and all before it.
    replayed: as a captured graph. first_row: the number of its first row among those of all ranks."""

    number: int
    random_step: int
    batches: Sequence[Any]
    losses: Sequence[Tensor]
    bad: Array
    replayed: bool = False
    first_row: int = 0


class Trained(Protocol):
    """What the guard needs of a trainer."""

    model: Module
    optimizer: Optimizer
    precision: Precision
    loss: Callable[[Any], Tensor]
    count: Callable[[Any], float]
    clip_norm: float | None
    display: Display
    ranks: Ranks


class Guard:
    """See the file's text. run_folder: where a failed step is saved, or None."""

    def __init__(self, trainer: Trained, run_folder: str | Path | None) -> None:
        self.trainer, self.run_folder = trainer, run_folder
        self._taken: list[Taken] = []
        self._bad: Array | None = None  # of all steps since the last look, where a captured step finds it
        self._divergence = Divergence(
            trainer.model, trainer.optimizer, lambda text: self.trainer.display.warn(text)
        )

    def watch(
        self, number: int, batches: Sequence[Any], losses: Sequence[Tensor], overflow: Array | None
    ) -> Array:
        """Take the gradients of step `number`, before clipping and update. overflow: of float16, which the
        step is skipped for and nothing else, unless the loss scale can fall no more. Returns a bool in device
        memory, whether to skip the update."""
        random_step = random.state.step
        bad, skip = self.look(losses, overflow)
        self.took(number, random_step, batches, losses, bad, self.trainer.optimizer.grad_scale)
        return skip

    def look(self, losses: Sequence[Tensor], overflow: Array | None) -> tuple[Array, Array]:
        """(whether this step or one before was not finite, whether to skip the update), in device memory;
        what a captured step does of `watch`."""
        xp, of = get_xp(losses[0].data), self.trainer
        if self._bad is None or get_xp(self._bad) is not xp:
            self._bad = xp.zeros((), bool)
        values = [loss.data for loss in losses]
        if overflow is not None:  # the loss scale has looked at the gradients
            return judge(values, None, of.precision.lost, overflow, self._bad)
        if of.clip_norm is None:
            return judge(values, joint_squares(of.optimizer.arenas), None, None, self._bad)
        of.optimizer.norm = of.optimizer.gradient_norm()
        return judge(values, of.optimizer.norm, None, None, self._bad)

    def took(
        self, number: int, random_step: int, batches: Sequence[Any], losses: Sequence[Tensor], bad: Array,
        scale: Array | None = None, replayed: bool = False,
    ) -> None:  # fmt: skip
        """Remember step `number` until it is read of. random_step: the random numbers it drew. scale: what
        its gradients are multiplied with."""
        row = self.trainer.ranks.first_row
        self._taken.append(Taken(number, random_step, list(batches), list(losses), bad, replayed, row))
        self._divergence.measure(number, losses, scale)

    def read(self, epoch: int) -> None:
        """Hear of the steps since the last time (waits for the device). Raises TrainingError, with the first
        operation that went wrong, when something was not finite, and saves the step."""
        self.trainer.ranks.read()
        taken, self._taken = self._taken, []
        if taken and bool(to_host(taken[-1].bad)):
            if self._bad is not None:
                self._bad[...] = False
            step = next(step for step in taken if bool(to_host(step.bad)))
            with random.rows_from(step.first_row):
                self._stop(step, epoch)
        self._divergence.judge(clipped=self.trainer.clip_norm is not None)

    def state_dict(self) -> Record:
        """What a training that goes on is compared with."""
        return self._divergence.state_dict()

    def load_state_dict(self, saved: Mapping[str, Any]) -> None:
        """Go on where `state_dict` was taken. Raises CheckpointError for another state."""
        self._divergence.load_state_dict(saved)

    def _stop(self, step: Taken, epoch: int) -> None:
        values = [float(loss.item()) for loss in step.losses]  # labels out of range are told of here
        bad = next((v for v in values if not math.isfinite(v)), None)
        if bad is not None and step.replayed:
            self._check(step.batches)  # or here: the loss of a captured step knows no labels
        found = self._find(step)
        what = f"the loss is {bad}" if bad is not None else self._gradients(found)
        message = (
            f"{what} at step {step.number} (epoch {epoch}): {self._advice(step.number, found)}. "
            f"Not finite first: {found.text}"
        )
        tell = lambda: message + self._save(step, epoch, message, found)  # noqa: E731
        raise TrainingError(self.trainer.ranks.told_by(found.known, tell))

    def _check(self, batches: Sequence[Any]) -> None:
        try:
            with no_grad():
                for batch in batches:
                    self.trainer.loss(batch).numpy()
        except DataError:
            raise
        except (GpupropError, ValueError, RuntimeError, StopIteration):
            return  # `_find` says so

    def _gradients(self, found: Finding) -> str:
        lost = self.trainer.precision.lost
        if lost is not None and bool(to_host(lost)):
            return OVERFLOW
        return "gradients are too large" if found.overflow else "gradients are not finite"

    def _advice(self, step: int, found: Finding) -> str:
        if found.given == "batch":
            return "its batch is not finite. Look at the data, where its rows come from"
        if found.given == "parameter" and step == 1:
            return "the weights were not finite before training. Look at where they come from"
        lr = self.trainer.optimizer.param_groups[0]["lr"]
        advice = f"Lower the learning rate (now {lr:.3g}) or clip gradients (clip norm 1, say)"
        advice += ", or train with bf16 or fp32" if self.trainer.precision.name == "fp16" else ""
        return f"training has diverged. {advice}"

    def _find(self, step: Taken) -> Finding:
        of = self.trainer
        try:
            return replay(of.model, of.loss, of.count, step.batches, step.random_step, of.precision)
        except (GpupropError, ValueError, RuntimeError, StopIteration) as error:
            return Finding(f"unknown, as the batch could not be computed once more ({error})", known=False)

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
