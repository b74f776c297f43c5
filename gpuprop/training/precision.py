"""Training in other precisions than float32: half types with float32 master weights, and TF32.

(Micikevicius et al. 2018, Mixed precision training.) The optimizer's parameters are the master weights. While
a loss is computed each parameter's `data` is a copy in the half type; gradients are added up in the
optimizer's float32 memory as they arrive. Small gradients would vanish in float16, so the loss is multiplied
with a scale that is as large as it can be without overflow, and the gradients are divided by it.

    precision = gp.training.make_precision("fp16", model, optimizer)
    optimizer.zero_grad()
    with precision.computing():
        loss = criterion(model(x), y)
        loss.backward(precision.scaled(loss))
    optimizer.skip = precision.unscale()
    optimizer.step()

The scale costs no launch of its own: the backward pass starts from it, so that the loss' kernel reads it, and
a trainer leaves the division to the optimizer's kernel.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from ..backend.arrays import Array, bfloat16, get_xp, is_cupy, to_host
from ..backend.gemm import tf32_products
from ..backend.recording import ones
from ..backend.start import starting_from
from ..errors import DataError, DeviceError, TrainingError
from ..nn.module import Module
from ..optim import Optimizer
from ..tensors import Parameter, Tensor
from .judgement import LEAST_SCALE, LossScale

PRECISIONS = ("fp32", "tf32", "bf16", "fp16")
OVERFLOW = f"gradients overflow float16 even with a loss scale of {LEAST_SCALE:.3g}"


class Precision:
    """float32 (or whatever type the parameters have), and what the other precisions change.

    name: see `PRECISIONS`. note: what the user should know about it on this device, or "". lost: a bool in
    device memory, True once gradients overflowed although the loss scale was the least there is; None without
    a scale.
    """

    name = "fp32"
    note = ""
    lost: Array | None = None

    def start(self) -> None:
        """The weights may have changed by other means than the optimizer: training begins."""

    @contextlib.contextmanager
    def computing(self) -> Iterator[None]:
        """Inside, forward and backward are computed in this precision."""
        yield

    def scaled(self, loss: Tensor, share: float = 1.0) -> Array:
        """The gradient to start `loss.backward` from, where the loss counts `share`."""
        xp = get_xp(loss.data)
        return ones(xp, loss.data) if share == 1.0 else xp.full_like(loss.data, share)

    def unscale(self, now: bool = True) -> Array | None:
        """Bring the gradients back to their size; with now=False, where the optimizer's kernel can, on its
        way. Returns a bool in device memory, True when they overflowed and the step is to be skipped, or None
        in precisions that need no scale."""
        return None

    def left(self) -> Array | None:
        """What the gradients are still multiplied with after `unscale(now=False)` and a step, float32 () in
        device memory; None for nothing."""
        return None

    def read(self) -> None:
        """Hear from the device which steps were skipped (waits for it). Raises TrainingError where `lost`."""

    def record(self) -> dict[str, Any]:
        """What metrics.jsonl says of it each epoch (waits for the device): skipped_steps of the epoch,
        loss_scale; empty without a scale."""
        return {}

    def state_dict(self) -> dict[str, Any]:
        """What `load_state_dict` needs to go on; empty without a scale."""
        return {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on where `state_dict` was taken."""


class TF32(Precision):
    """Products of float32 values on tensor cores: 10 bits of each factor's fraction, sums in float32."""

    name = "tf32"

    def __init__(self, model: Module) -> None:
        if not any(is_cupy(p.data) for p in model.parameters()):
            self.note = "tf32 means nothing on a CPU: products are computed in float32"

    @contextlib.contextmanager
    def computing(self) -> Iterator[None]:
        with tf32_products():
            yield


class MixedPrecision(Precision):
    """bfloat16, whose range is that of float32: no scale is needed. See the file's text."""

    name = "bf16"

    def __init__(self, model: Module, optimizer: Optimizer, dtype: np.dtype[Any]) -> None:
        self.model, self.optimizer = model, optimizer
        for name, p in model.named_parameters():
            if p.dtype.itemsize < 4:
                raise DataError(f"mixed precision starts from float32 weights, but {name} is {p.dtype}")
        xp = get_xp(*(p.data for p in model.parameters()))
        try:
            self._flat = [xp.empty(arena.size, dtype) for arena in optimizer.arenas]
        except TypeError as error:
            raise DeviceError(
                f"this CuPy has no {dtype.name}: install CuPy 14 or later, or train with fp16"
            ) from error
        self._copies: list[tuple[Parameter, Array]] = []
        for arena, flat in zip(optimizer.arenas, self._flat, strict=True):
            self._copies += zip(arena.parameters, arena.views(flat), strict=True)
        trained = {id(p) for p, _ in self._copies}
        self._frozen = [
            (p, p.in_memory_order(p.data.astype(dtype)))
            for p in model.parameters() if id(p) not in trained
        ]  # fmt: skip
        if xp is np:
            self.note = f"{self.name} is imitated on a CPU, to try it out: fp32 is faster"

    def start(self) -> None:
        for p, copy in self._frozen:
            copy[...] = p.data

    @contextlib.contextmanager
    def computing(self) -> Iterator[None]:
        for arena, flat in zip(self.optimizer.arenas, self._flat, strict=True):
            flat[...] = arena.data
        pairs = [*self._copies, *self._frozen]
        masters = [p.data for p, _ in pairs]
        try:
            for p, copy in pairs:
                p.master, p.data = p.data, copy
            yield
        finally:
            for (p, _), master in zip(pairs, masters, strict=True):
                p.data, p.master = master, None


class ScaledPrecision(MixedPrecision):
    """float16 with a dynamic loss scale in device memory: halved, and the step skipped, when a gradient
    overflows; doubled after `GROW_AFTER` steps without. Nothing waits for the device until `record`."""

    name = "fp16"

    def __init__(self, model: Module, optimizer: Optimizer) -> None:
        super().__init__(model, optimizer, np.dtype(np.float16))
        self._scale = LossScale.beside(optimizer.arenas[0].data)
        self._known = self._recorded = 0  # of the skipped: what the host has heard of, and written down

    @property
    def scale(self) -> Array:
        """What losses are multiplied with, float32 () in device memory."""
        return self._scale.scale

    @property
    def lost(self) -> Array:  # type: ignore[override]
        return self._scale.lost

    @contextlib.contextmanager
    def computing(self) -> Iterator[None]:
        with super().computing(), starting_from(self.scale):
            yield

    def scaled(self, loss: Tensor, share: float = 1.0) -> Array:
        start = self.scale if share == 1.0 else get_xp(loss.data).asarray(self.scale * share)
        return start.astype(loss.dtype, copy=False).reshape(loss.shape)

    def unscale(self, now: bool = True) -> Array:
        of = self.optimizer
        of.grad_scale = self.scale
        of.norm = of.gradient_norm()
        overflow = self._scale.judge(of.norm)
        if of.grad_scale is not None:  # still to be divided by, when the scale has changed
            of.grad_scale = self._scale.used
        if now:
            of.unscale()
        return overflow

    def left(self) -> Array | None:
        return None if self.optimizer.fused() is None else self._scale.used

    def read(self) -> None:
        self._known = int(to_host(self._scale.skipped))
        if bool(to_host(self.lost)):
            raise TrainingError(
                f"{OVERFLOW}: train with --precision bf16 or fp32, or lower the learning rate"
            )

    def record(self) -> dict[str, Any]:
        self.read()
        scale, before, self._recorded = float(to_host(self.scale)), self._recorded, self._known
        return {"skipped_steps": self._known - before, "loss_scale": scale}

    def state_dict(self) -> dict[str, Any]:
        return {
            "scale": float(to_host(self.scale)),
            "since": int(to_host(self._scale.since)),
            "skipped": int(to_host(self._scale.skipped)),
            "known": self._known,
            "recorded": self._recorded,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.scale[...], self._scale.since[...] = float(state["scale"]), int(state["since"])
        self._scale.skipped[...] = int(state["skipped"])
        self._known, self._recorded = int(state["known"]), int(state["recorded"])


def make_precision(name: str, model: Module, optimizer: Optimizer) -> Precision:
    """A precision by its command-line name: "fp32", "tf32", "bf16" (needs ml_dtypes on a CPU) or "fp16"."""
    if name not in PRECISIONS:
        raise DataError(f"precision is one of {', '.join(PRECISIONS)}, not {name!r}")
    if name == "tf32":
        return TF32(model)
    if name == "bf16":
        return MixedPrecision(model, optimizer, bfloat16())
    return ScaledPrecision(model, optimizer) if name == "fp16" else Precision()
