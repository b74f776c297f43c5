"""The part of a training step that the device does: gradients, clipping and the update, on a GPU as one
captured graph (see `gpuprop.capture`)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

from ..backend import random
from ..backend.arrays import Array
from ..backprop import recording
from ..capture import Captured, capture
from ..errors import CaptureError
from ..tensors import Tensor
from .guard import Guard, Trained
from .observer import Observer

Losses = list[tuple[Tensor, float]]


class Stepped(Trained, Protocol):
    """What a step needs of a trainer."""

    observers: list[Observer]
    guard: Guard


class DeviceStep:
    """Computes the steps of a trainer. wanted: True raises what keeps a step from being captured, None tells
    of it once and goes on operation by operation, False never captures."""

    def __init__(self, trainer: Stepped, wanted: bool | None) -> None:
        self.trainer, self.wanted = trainer, wanted
        self.graph: Captured | None = None

    def run(self, number: int, batches: Sequence[Any]) -> tuple[Losses, Tensor | None]:
        """Step `number`: (loss, count) of each batch, and the norm of all gradients where it was computed."""
        if self._captures(batches):
            try:
                return self._replayed(number, batches)
            except CaptureError as error:
                if self.wanted:
                    raise
                self.wanted = False
                self.trainer.display.warn(f"training goes on operation by operation: {error}")
        return self._plain(number, batches)

    def _captures(self, batches: Sequence[Any]) -> bool:
        of = self.trainer
        if next(of.model.parameters()).device.type != "cuda":
            return False
        looked_at = not isinstance(recording(), bool) or any(observer.looks() for observer in of.observers)
        return of.ranks.capture(self.wanted is not False and not looked_at, batches)

    def _plain(self, number: int, batches: Sequence[Any]) -> tuple[Losses, Tensor | None]:
        of = self.trainer
        of.optimizer.zero_grad()
        with of.precision.computing():
            losses = of.ranks.backward(of.loss, of.count, batches, of.precision)
        overflow = of.precision.unscale()
        of.optimizer.skip = of.guard.watch(number, batches, [loss for loss, _ in losses], overflow)
        for observer in of.observers:
            observer.after_backward()
        return losses, self._update()

    def _replayed(self, number: int, batches: Sequence[Any]) -> tuple[Losses, Tensor | None]:
        of = self.trainer
        if self.graph is None:
            self.graph = capture(self._on_device, device=next(of.model.parameters()).device)
        random_step = random.state.step
        losses, bad, norm = self.graph(list(batches), of.ranks.given(of.count, batches), of.clip_norm)
        of.guard.took(number, random_step, batches, losses, bad, replayed=True)
        for observer in of.observers:
            observer.after_backward()
        return of.ranks.counted(losses, of.count, batches), norm

    def _on_device(
        self, batches: Sequence[Any], given: tuple[Any, Any], clip_norm: float | None
    ) -> tuple[list[Tensor], Array, Tensor | None]:
        """What is captured. clip_norm: the trainer's, here because a graph is for one."""
        of = self.trainer
        of.optimizer.zero_grad()
        with of.precision.computing():
            losses = of.ranks.captured(of.loss, batches, given, of.precision)
        overflow = of.precision.unscale()
        bad, of.optimizer.skip = of.guard.look(losses, overflow)
        return losses, bad, self._update()

    def _update(self) -> Tensor | None:
        of, norm = self.trainer, None
        if of.clip_norm is not None:
            norm = of.optimizer.clip_grad_norm(of.clip_norm)
        of.optimizer.step()
        return norm
