"""Layer normalisation over the last axis."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from ..backend.arrays import Array, get_xp, is_cupy
from ..backend.buffers import empty
from ..backend.gemm import matmul as product
from ..backend.gemm import rows
from ..backend.half import wide
from ..backend.threads import host_size, over_rows
from ..backprop import Context
from ..errors import ShapeError
from ..op import Op
from ..tensors import Tensor
from . import layer_norm_kernels
from .linear import column_sums
from .rowwise import row_dots

HOST_BLOCK = 1 << 16  # elements at a time: what stays in a core's cache


class LayerNorm(Op):
    """y = w x̂ + b,  x̂ = (x - μ) / √(σ² + ε)        x (..., D), w (D,), b (D,)   (Ba et al. 2016, section 3)

    μ and σ² are the mean and the variance (divided by D) of each row, in float32 for half types. With
    g = w dy and means over D:
        dx = (g - mean(g) - x̂ mean(g x̂)) / √(σ² + ε)        dw = Σ dy x̂        db = Σ dy
    """

    @staticmethod
    def forward(ctx: Context, x: Array, weight: Array, bias: Array, *, eps: float) -> Array:
        if layer_norm_kernels.fits(x, weight, bias):
            y, saved = layer_norm_kernels.forward(x, weight, bias, eps)
            ctx.save(None, *saved)
            return y
        xp, dtype = get_xp(x), x.dtype
        x, weight, bias = wide(x), wide(weight), wide(bias)
        flat = rows(x)
        normal, y = (empty(xp, flat.shape, flat.dtype) for _ in range(2))
        inverse = xp.empty((flat.shape[0], 1), x.dtype)

        def work(start: int, stop: int) -> None:
            for part in _blocks(flat, start, stop):
                n = normal[part]
                xp.subtract(flat[part], _means(xp, flat[part]), out=n)
                inverse[part] = 1.0 / xp.sqrt(row_dots(n, n) / n.shape[1] + eps)
                n *= inverse[part]
                xp.multiply(n, weight, out=y[part])
                y[part] += bias

        over_rows(work, len(flat), 4 * host_size(flat), products=True)
        ctx.save(normal, inverse, weight, dtype)
        return y.reshape(x.shape).astype(dtype, copy=False)

    @staticmethod
    def backward(ctx: Context, dy: Array) -> tuple[Array | None, ...]:
        if ctx.saved[0] is None:
            return layer_norm_kernels.backward(ctx, dy, *ctx.saved[1:])
        normal, inverse, weight, dtype = ctx.saved
        xp = get_xp(dy)
        need_x, need_w, need_b = ctx.needs_grad
        flat = wide(rows(dy))
        dx = empty(xp, normal.shape, normal.dtype)
        dweights: dict[int, Array] = {}  # one a piece, by its first row

        def work(start: int, stop: int) -> None:
            total = dweights[start] = xp.zeros_like(weight)
            for part in _blocks(flat, start, stop):
                n, d = normal[part], dx[part]
                if need_w:
                    xp.multiply(flat[part], n, out=d)
                    total += column_sums(d)
                if need_x:
                    xp.multiply(flat[part], weight, out=d)
                    along = row_dots(d, n) / n.shape[1]
                    d -= _means(xp, d)
                    d -= n * along
                    d *= inverse[part]

        over_rows(work, len(flat), 4 * host_size(flat), products=True)
        return (
            dx.reshape(dy.shape).astype(dtype, copy=False) if need_x else None,
            sum(dweights[start] for start in sorted(dweights)) if need_w else None,
            column_sums(flat, ctx.destination(2)) if need_b else None,
        )


def _means(xp: Any, x: Array) -> Array:
    """The mean of each row of x (N, D) as (N, 1): on a CPU a product with a column, faster than a sum."""
    if is_cupy(x):
        return x.mean(axis=1, keepdims=True)
    return product(x, xp.full((x.shape[1], 1), 1.0 / x.shape[1], x.dtype))


def _blocks(x: Array, start: int, stop: int) -> Iterator[slice]:
    """Blocks of the rows start..stop; on a GPU all of them at once."""
    size = max(1, HOST_BLOCK // max(1, x.shape[1])) if isinstance(x, np.ndarray) else max(1, stop - start)
    for i in range(start, stop, size):
        yield slice(i, min(i + size, stop))


def layer_norm(x: Any, weight: Any, bias: Any, eps: float = 1e-5) -> Tensor:
    """Normalise the last axis of x (..., D) to mean 0 and variance 1; then scale by weight (D,) and add
    bias (D,)."""
    if not x.shape or tuple(weight.shape) != (x.shape[-1],) or tuple(bias.shape) != (x.shape[-1],):
        raise ShapeError(
            f"layer_norm expects x (..., D), weight (D,), bias (D,) but got {tuple(x.shape)}, "
            f"{tuple(weight.shape)}, {tuple(bias.shape)}"
        )
    return LayerNorm.apply(x, weight, bias, eps=eps)
