"""Sums, means and maxima over axes."""

from __future__ import annotations

import math
from typing import Any

from ..backend.arrays import Array, get_xp
from ..backend.half import total, wide
from ..backprop import Context
from ..op import Op
from ..tensor_methods import Axis
from ..tensors import Tensor


def _axes(axis: Axis, ndim: int) -> tuple[int, ...]:
    if axis is None:
        return tuple(range(ndim))
    return tuple(a % ndim for a in ((axis,) if isinstance(axis, int) else axis))


def _kept(shape: tuple[int, ...], axes: tuple[int, ...]) -> tuple[int, ...]:
    """`shape` with the reduced axes left in as 1."""
    return tuple(1 if i in axes else n for i, n in enumerate(shape))


class Sum(Op):
    """y = Σ x        dx = dy, repeated"""

    @staticmethod
    def forward(ctx: Context, x: Array, *, axis: Axis, keepdims: bool) -> Array:
        ctx.save(x.shape, _axes(axis, x.ndim))
        return total(x, axis, keepdims)

    @staticmethod
    def backward(ctx: Context, dy: Array) -> Array:
        shape, axes = ctx.saved
        return get_xp(dy).broadcast_to(dy.reshape(_kept(shape, axes)), shape)


class Mean(Op):
    """y = Σ x / n        dx = dy / n, repeated"""

    @staticmethod
    def forward(ctx: Context, x: Array, *, axis: Axis, keepdims: bool) -> Array:
        ctx.save(x.shape, _axes(axis, x.ndim))
        return wide(x).mean(axis=axis, keepdims=keepdims).astype(x.dtype, copy=False)

    @staticmethod
    def backward(ctx: Context, dy: Array) -> Array:
        shape, axes = ctx.saved
        n = math.prod(shape[a] for a in axes)
        return get_xp(dy).broadcast_to((dy / n).reshape(_kept(shape, axes)), shape)


class Max(Op):
    """y = max x        dx = dy at the largest elements, shared equally among ties"""

    @staticmethod
    def forward(ctx: Context, x: Array, *, axis: Axis, keepdims: bool) -> Array:
        axes = _axes(axis, x.ndim)
        top = x.max(axis=axes, keepdims=True)
        ctx.save(x, top, axes)
        return top if keepdims else top.reshape([n for i, n in enumerate(x.shape) if i not in axes])

    @staticmethod
    def backward(ctx: Context, dy: Array) -> Array:
        x, top, axes = ctx.saved
        hit = x == top
        return hit * (dy.reshape(top.shape) / hit.sum(axis=axes, keepdims=True).astype(dy.dtype))


def sum(x: Any, axis: Axis = None, keepdims: bool = False) -> Tensor:
    """Sum over `axis` (an axis, several, or all)."""
    return Sum.apply(x, axis=axis, keepdims=keepdims)


def mean(x: Any, axis: Axis = None, keepdims: bool = False) -> Tensor:
    """Mean over `axis` (an axis, several, or all)."""
    return Mean.apply(x, axis=axis, keepdims=keepdims)


def max(x: Any, axis: Axis = None, keepdims: bool = False) -> Tensor:
    """Maximum over `axis` (an axis, several, or all); ties share the gradient equally."""
    return Max.apply(x, axis=axis, keepdims=keepdims)
