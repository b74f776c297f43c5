"""Layer normalisation over the last axis."""

from __future__ import annotations

from typing import Any

import numpy as np

from ..backend.arrays import Array, get_xp
from ..backend.gemm import matmul as product
from ..backend.gemm import rows
from ..backend.half import wide
from ..backprop import Context
from ..errors import ShapeError
from ..op import Op
from ..tensors import Tensor
from . import layer_norm_kernels, layer_norm_rows
from .rowwise import row_dots, row_sums

FEW, FEW_ROWS = 1 << 15, 256  # elements and rows up to which the formula's fewer calls are faster


class LayerNorm(Op):
    """y = w x̂ + b,  x̂ = (x - μ) / √(σ² + ε)        x (..., D), w (D,), b (D,)   (Ba et al. 2016, section 3)

    μ and σ² are the mean and the variance (divided by D) of each row, in float32 for half types. With
    g = w dy and means over D:
        dx = (g - mean(g) - x̂ mean(g x̂)) / √(σ² + ε)        dw = Σ dy x̂        db = Σ dy
    """

    @staticmethod
    def forward(ctx: Context, x: Array, weight: Array, bias: Array, *, eps: float) -> Array:
        if layer_norm_kernels.fits(x, weight, bias):
            y, kept = layer_norm_kernels.forward(x, weight, bias, eps)
            ctx.save(None, *kept)
            return y
        shape, dtype = x.shape, x.dtype
        x, weight, bias = wide(rows(x)), wide(weight), wide(bias)
        saved: Any
        if isinstance(x, np.ndarray) and (x.size > FEW or len(x) > FEW_ROWS) and x.size:
            y, saved = layer_norm_rows.forward(x, weight, bias, eps)
        else:
            y, *saved = formula(x, weight, bias, eps)
        ctx.save(saved, weight, dtype)
        return y.reshape(shape).astype(dtype, copy=False)

    @staticmethod
    def backward(ctx: Context, dy: Array) -> tuple[Array | None, ...]:
        if ctx.saved[0] is None:
            return layer_norm_kernels.backward(ctx, dy, *ctx.saved[1:])
        saved, weight, dtype = ctx.saved
        shape, dy = dy.shape, wide(rows(dy))
        if isinstance(saved, layer_norm_rows.NormalizedRows):
            dx, dw, db = layer_norm_rows.backward(saved, dy, ctx.needs_grad)
        else:
            dx, dw, db = formula_gradients(dy, weight, *saved)
        return None if dx is None else dx.reshape(shape).astype(dtype, copy=False), dw, db


def formula(x: Array, weight: Array, bias: Array, eps: float) -> tuple[Array, Array, Array]:
    """y (N, D), x̂ (N, D) and 1 / √(σ² + ε) (N, 1) for rows x (N, D)."""
    share = 1.0 / max(1, x.shape[1])
    normal = x - row_sums(x) * share
    inverse = 1.0 / get_xp(x).sqrt(row_dots(normal, normal) * share + eps)
    normal *= inverse
    y = normal * weight
    y += bias
    return y, normal, inverse


def formula_gradients(dy: Array, weight: Array, normal: Array, inverse: Array) -> tuple[Array, Array, Array]:
    """dx (N, D), dw and db (D,) from dy (N, D) and what `formula` gave."""
    by_normal, g = dy * normal, dy * weight
    share = (weight * (1.0 / max(1, dy.shape[1])))[:, None]
    g -= product(dy, share)
    g -= normal * product(by_normal, share)
    g *= inverse
    return g, by_normal.sum(axis=0), dy.sum(axis=0)


def layer_norm(x: Any, weight: Any, bias: Any, eps: float = 1e-5) -> Tensor:
    """Normalise the last axis of x (..., D) to mean 0 and variance 1; then scale by weight (D,) and add
    bias (D,)."""
    if not x.shape or tuple(weight.shape) != (x.shape[-1],) or tuple(bias.shape) != (x.shape[-1],):
        raise ShapeError(
            f"layer_norm expects x (..., D), weight (D,), bias (D,) but got {tuple(x.shape)}, "
            f"{tuple(weight.shape)}, {tuple(bias.shape)}"
        )
    return LayerNorm.apply(x, weight, bias, eps=eps)
