"""Softmax and its logarithm over one axis."""

from __future__ import annotations

from typing import Any

from ..backend.arrays import Array, get_xp
from ..backend.half import total
from ..backprop import Context
from ..op import Op
from ..tensors import Tensor


class Softmax(Op):
    """y = e^(x - max x) / Σ e^(x - max x)        dx = y (dy - Σ y dy)"""

    @staticmethod
    def forward(ctx: Context, x: Array, *, axis: int) -> Array:
        y = get_xp(x).exp(x - x.max(axis=axis, keepdims=True))
        y /= total(y, axis, keepdims=True)
        ctx.save(y, axis)
        return y

    @staticmethod
    def backward(ctx: Context, dy: Array) -> Array:
        y, axis = ctx.saved
        dx = y * dy
        dx -= y * total(dx, axis, keepdims=True)
        return dx


class LogSoftmax(Op):
    """y = x - max x - ln Σ e^(x - max x)        dx = dy - e^y Σ dy"""

    @staticmethod
    def forward(ctx: Context, x: Array, *, axis: int) -> Array:
        xp = get_xp(x)
        shifted = x - x.max(axis=axis, keepdims=True)
        y = shifted - xp.log(total(xp.exp(shifted), axis, keepdims=True))
        ctx.save(y, axis)
        return y

    @staticmethod
    def backward(ctx: Context, dy: Array) -> Array:
        y, axis = ctx.saved
        return dy - get_xp(y).exp(y) * total(dy, axis, keepdims=True)


def softmax(x: Any, axis: int = -1) -> Tensor:
    """Softmax over `axis`."""
    return Softmax.apply(x, axis=axis)


def log_softmax(x: Any, axis: int = -1) -> Tensor:
    """Logarithm of the softmax over `axis`, without underflow."""
    return LogSoftmax.apply(x, axis=axis)
