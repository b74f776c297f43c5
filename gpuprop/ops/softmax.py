"""Softmax and its logarithm over one axis."""

from __future__ import annotations

from typing import Any

import numpy as np

from ..backend.arrays import Array, get_xp
from ..backend.buffers import empty
from ..backend.gemm import rows
from ..backend.half import is_half, total
from ..backprop import Context
from ..op import Op
from ..tensors import Tensor
from .rowwise import against_rows, exponentials, few, over_row_blocks, row_dots, row_sums


class Softmax(Op):
    """y = e^(x - max x) / Σ e^(x - max x)        dx = y (dy - Σ y dy)"""

    @staticmethod
    def forward(ctx: Context, x: Array, *, axis: int) -> Array:
        last = _in_rows(x, axis)
        y = _softmax_of_rows(x) if last else softmax_formula(x, axis)
        ctx.save(y, axis, last)
        return y

    @staticmethod
    def backward(ctx: Context, dy: Array) -> Array:
        y, axis, last = ctx.saved
        if last:
            return _gradient_of_rows(y, dy)
        dx = y * dy
        dx -= y * total(dx, axis, keepdims=True)
        return dx


class LogSoftmax(Op):
    """y = x - max x - ln Σ e^(x - max x)        dx = dy - e^y Σ dy"""

    @staticmethod
    def forward(ctx: Context, x: Array, *, axis: int) -> Array:
        if _in_rows(x, axis):
            y, e, sums = _log_softmax_of_rows(x)
            ctx.save(y.shape, axis, e, sums)  # to compute e again would take as long as all the rest
            return y
        y = log_softmax_formula(x, axis)
        ctx.save(y, axis, None, None)
        return y

    @staticmethod
    def backward(ctx: Context, dy: Array) -> Array:
        y, axis, e, sums = ctx.saved
        if e is not None:
            return _log_gradient_of_rows(e, sums, dy)
        return dy - get_xp(y).exp(y) * total(dy, axis, keepdims=True)


def softmax_formula(x: Array, axis: int) -> Array:
    """Softmax of plain arrays over any axis."""
    y = get_xp(x).exp(x - x.max(axis=axis, keepdims=True))
    y /= total(y, axis, keepdims=True)
    return y


def log_softmax_formula(x: Array, axis: int) -> Array:
    """The logarithm of the softmax of plain arrays over any axis."""
    xp = get_xp(x)
    shifted = x - x.max(axis=axis, keepdims=True)
    return shifted - xp.log(total(xp.exp(shifted), axis, keepdims=True))


def _in_rows(x: Array, axis: int) -> bool:
    """Whether the last axis of a NumPy array is meant that is not small, which has a faster form."""
    last = isinstance(x, np.ndarray) and x.size > 0 and axis in (-1, x.ndim - 1)
    return last and not is_half(x.dtype) and not few(rows(x))


def _softmax_of_rows(x: Array) -> Array:
    flat = rows(x)
    y = empty(np, flat.shape, flat.dtype)

    def work(part: slice) -> None:
        e = y[part]
        against_rows(np.multiply, e, 1.0 / exponentials(flat[part], e)[0], e)

    over_row_blocks(work, flat)
    return y.reshape(x.shape)


def _gradient_of_rows(y: Array, dy: Array) -> Array:
    p, d = rows(y), rows(dy)
    dx = empty(np, p.shape, p.dtype)

    def work(part: slice) -> None:
        into = dx[part]
        against_rows(np.subtract, d[part], row_dots(p[part], d[part]), into)
        into *= p[part]

    over_row_blocks(work, p)
    return dx.reshape(y.shape)


def _log_softmax_of_rows(x: Array) -> tuple[Array, Array, Array]:
    """The result, and of its rows the exponentials (N, C) with their sums (N, 1)."""
    flat = rows(x)
    y, e = (empty(np, flat.shape, flat.dtype) for _ in range(2))
    sums = np.empty((len(flat), 1), flat.dtype)

    def work(part: slice) -> None:
        sums[part], m = exponentials(flat[part], e[part])
        log_sums = np.log(sums[part])
        if m is None:
            against_rows(np.subtract, flat[part], log_sums, y[part])
        else:
            y[part] = (flat[part] - m) - log_sums

    over_row_blocks(work, flat)
    return y.reshape(x.shape), e, sums


def _log_gradient_of_rows(e: Array, sums: Array, dy: Array) -> Array:
    """dy - e / sums · Σ dy"""
    d = rows(dy)
    dx = empty(np, e.shape, e.dtype)

    def work(part: slice) -> None:
        into = dx[part]
        against_rows(np.multiply, e[part], row_sums(d[part]) / sums[part], into)
        np.subtract(d[part], into, into)

    over_row_blocks(work, e)
    return dx.reshape(dy.shape)


def softmax(x: Any, axis: int = -1) -> Tensor:
    """Softmax over `axis`."""
    return Softmax.apply(x, axis=axis)


def log_softmax(x: Any, axis: int = -1) -> Tensor:
    """Logarithm of the softmax over `axis`, without underflow."""
    return LogSoftmax.apply(x, axis=axis)
