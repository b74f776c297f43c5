"""Layer normalisation over the last axis."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from ..backend.arrays import Array, get_xp
from ..backend.gemm import matmul as product
from ..backend.gemm import rows
from ..backprop import Context, Op, Tensor
from ..errors import ShapeError
from .linear import column_sums

HOST_BLOCK = 1 << 16  # elements at a time: what stays in a core's cache


class LayerNorm(Op):
    """y = w x̂ + b,  x̂ = (x - μ) / √(σ² + ε)        x (..., D), w (D,), b (D,)   (Ba et al. 2016, section 3)

    μ and σ² are the mean and the variance (divided by D) of each row. With g = w dy and means over D:
        dx = (g - mean(g) - x̂ mean(g x̂)) / √(σ² + ε)        dw = Σ dy x̂        db = Σ dy
    """

    @staticmethod
    def forward(ctx: Context, x: Array, weight: Array, bias: Array, *, eps: float) -> Array:
        xp = get_xp(x)
        flat = rows(x)
        normal, y = xp.empty_like(flat), xp.empty_like(flat)
        inverse = xp.empty((flat.shape[0], 1), x.dtype)
        for part in _blocks(flat):
            n = normal[part]
            xp.subtract(flat[part], _means(xp, flat[part]), out=n)
            inverse[part] = 1.0 / xp.sqrt(_means(xp, n * n) + eps)
            n *= inverse[part]
            xp.multiply(n, weight, out=y[part])
            y[part] += bias
        ctx.save(normal, inverse, weight)
        return y.reshape(x.shape)

    @staticmethod
    def backward(ctx: Context, dy: Array) -> tuple[Array | None, ...]:
        normal, inverse, weight = ctx.saved
        xp = get_xp(dy)
        need_x, need_w, need_b = ctx.needs_grad
        flat = rows(dy)
        dx, dweight = xp.empty_like(normal), xp.zeros_like(weight)
        for part in _blocks(flat):
            n, d = normal[part], dx[part]
            if need_w:
                xp.multiply(flat[part], n, out=d)
                dweight += column_sums(d)
            if need_x:
                xp.multiply(flat[part], weight, out=d)
                along = _means(xp, d * n)
                d -= _means(xp, d)
                d -= n * along
                d *= inverse[part]
        return (
            dx.reshape(dy.shape) if need_x else None,
            dweight if need_w else None,
            column_sums(flat) if need_b else None,
        )


def _means(xp: Any, x: Array) -> Array:
    """The mean of each row of x (N, D) as (N, 1): a product with a column, which is faster than a sum."""
    return product(x, xp.full((x.shape[1], 1), 1.0 / x.shape[1], x.dtype))


def _blocks(x: Array) -> Iterator[slice]:
    """Blocks of rows; on a GPU all rows at once."""
    count = x.shape[0]
    size = max(1, HOST_BLOCK // max(1, x.shape[1])) if isinstance(x, np.ndarray) else max(1, count)
    for i in range(0, count, size):
        yield slice(i, i + size)


def layer_norm(x: Any, weight: Any, bias: Any, eps: float = 1e-5) -> Tensor:
    """Normalise the last axis of x (..., D) to mean 0 and variance 1; then scale by weight (D,) and add
    bias (D,)."""
    if not x.shape or tuple(weight.shape) != (x.shape[-1],) or tuple(bias.shape) != (x.shape[-1],):
        raise ShapeError(
            f"layer_norm expects x (..., D), weight (D,), bias (D,) but got {tuple(x.shape)}, "
            f"{tuple(weight.shape)}, {tuple(bias.shape)}"
        )
    return LayerNorm.apply(x, weight, bias, eps=eps)
