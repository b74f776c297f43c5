"""The part of a training step that the device does: gradients, clipping and the update, on a GPU as one
captured graph (see `gpuprop.capture`) whose batches are on their way before (see `gpuprop.backend.staging`).
"""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from contextlib import AbstractContextManager
from typing import Any, Protocol

from ..backend import cuda_setup, random
from ..backend.arrays import Array
from ..backend.device import Device
from ..backend.staging import Staged, Staging, arrived
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
        self._staging: Staging | None = None
        self._sent: tuple[Sequence[Any], Staged | None] | None = None  # the batches that came last

    @property
    def _device(self) -> Device:
        return next(self.trainer.model.parameters()).device

    def prefetches(self) -> bool:
        """Whether steps gain from batches that are sent before: on a GPU."""
        return self._device.type == "cuda"

    def looks_ahead(self) -> bool:
        """Whether to take the next batches before waiting for the device. Several ranks take them together,
        at the beginning of a step."""
        return self.prefetches() and not self.trainer.ranks.several

    def prefetch(self, batches: Sequence[Any]) -> None:
        """Begin to bring the batches of the next step to the device; nothing on a CPU."""
        if not self.prefetches():
            return
        xp = cuda_setup.import_cupy()
        with xp.cuda.Device(self._device.index):
            self._staging = self._staging or Staging(xp)
            try:
                self._sent = batches, self._staging.send(list(batches))
            except MemoryError:  # the step then says so
                self._sent = None

    def finish(self) -> None:
        """Training is over, or has failed: give the memory of batches on their way back."""
        staging, self._staging, self._sent = self._staging, None, None
        if staging is not None:
            with staging.xp.cuda.Device(self._device.index):
                staging.close()

    def run(self, number: int, batches: Sequence[Any]) -> tuple[Losses, Tensor | None]:
        """Step `number`: (loss, count) of each batch, and the norm of all gradients where it was computed."""
        if self._captures(batches):
            try:
                return self._replayed(number, batches)
            except CaptureError as error:
                if self.wanted:
                    raise
                self.wanted = False
                if self.graph is not None:
                    self.graph.clear()
                self.trainer.display.warn(f"training goes on operation by operation: {error}")
        return self._plain(number, batches)

    def _captures(self, batches: Sequence[Any]) -> bool:
        of = self.trainer
        if self._device.type != "cuda":
            return False
        looked_at = not isinstance(recording(), bool) or any(observer.looks() for observer in of.observers)
        return of.ranks.capture(self.wanted is not False and not looked_at, batches)

    def _plain(self, number: int, batches: Sequence[Any]) -> tuple[Losses, Tensor | None]:
        of = self.trainer
        of.optimizer.zero_grad()
        with of.precision.computing(), self._there(batches):
            losses = of.ranks.backward(of.loss, of.count, batches, of.precision)
        overflow = of.precision.unscale(now=bool(of.observers))
        of.optimizer.skip = of.guard.watch(number, batches, [loss for loss, _ in losses], overflow)
        for observer in of.observers:
            observer.after_backward()
        return losses, self._update()

    def _replayed(self, number: int, batches: Sequence[Any]) -> tuple[Losses, Tensor | None]:
        of = self.trainer
        if self.graph is None:
            self.graph = capture(self._on_device, device=self._device)
        random_step = random.state.step
        sent = self._sent_before(batches)
        inputs = (list(batches), of.ranks.given(of.count, batches), of.clip_norm)
        losses, bad, norm = self.graph.call(inputs, sent)
        of.guard.took(number, random_step, batches, losses, bad, of.precision.left(), replayed=True)
        for observer in of.observers:
            observer.after_backward()
        return of.ranks.counted(losses, of.count, batches), norm

    def _sent_before(self, batches: Sequence[Any]) -> Staged | None:
        return self._sent[1] if self._sent is not None and self._sent[0] is batches else None

    def _there(self, batches: Sequence[Any]) -> AbstractContextManager[None]:
        """Inside, what was sent of the batches is on the device, while they stay as they are."""
        sent = self._sent_before(batches)
        if sent is None:
            return contextlib.nullcontext()
        with cuda_setup.import_cupy().cuda.Device(self._device.index):
            return arrived(sent.arrays_on_device())

    def _on_device(
        self, batches: Sequence[Any], given: tuple[Any, Any], clip_norm: float | None
    ) -> tuple[list[Tensor], Array, Tensor | None]:
        """What is captured. clip_norm: the trainer's, here because a graph is for one."""
        of = self.trainer
        of.optimizer.zero_grad()
        with of.precision.computing():
            losses = of.ranks.captured(of.loss, batches, given, of.precision)
        overflow = of.precision.unscale(now=False)
        bad, of.optimizer.skip = of.guard.look(losses, overflow)
        return losses, bad, self._update()

    def _update(self) -> Tensor | None:
        of, norm = self.trainer, None
        if of.clip_norm is not None:
            norm = of.optimizer.clip_grad_norm(of.clip_norm)
        of.optimizer.step()
        return norm
