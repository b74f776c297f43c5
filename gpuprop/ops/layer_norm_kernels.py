"""Layer normalisation in kernels (layer_norm.cu)."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from ..backend import kernels
from ..backend.arrays import Array, get_xp
from ..backend.gemm import rows
from ..backend.instantiations import LAYER_NORM_PACKS, PACK
from ..backend.kernel_memory import aligned
from ..backprop import Context

THREADS, WARPS = 256, 8  # as in layer_norm.cu
MOST_BLOCKS = 65536
MOST_PARTS = (
    256  # partial sums of dweight; their number comes from sizes alone, as it decides the order of adding
)


def fits(x: Array, weight: Array, bias: Array) -> bool:
    """Whether the kernels take these arrays."""
    return kernels.usable(x) and x.size > 0 and x.dtype == weight.dtype == bias.dtype


def forward(x: Array, weight: Array, bias: Array, eps: float) -> tuple[Array, tuple[Array, ...]]:
    """y, and what `backward` needs: x (N, D), the mean and 1 / √(variance + eps) of each row (N,)."""
    xp = get_xp(x)
    flat = xp.ascontiguousarray(rows(x))
    weight, bias = xp.ascontiguousarray(weight), xp.ascontiguousarray(bias)
    (n, width), sums = flat.shape, _sum_type(x)
    y, mean, inverse = xp.empty_like(flat), xp.empty(n, sums), xp.empty(n, sums)
    packs = _packs(flat, weight, bias)
    kernel, per_block = (_kernel("forward", x), 1) if packs is None else (_warp("forward", x, packs), WARPS)
    grid = min(math.ceil(n / per_block), MOST_BLOCKS)
    kernel(grid, THREADS, (flat, weight, bias, y, mean, inverse, n, width, eps))
    return y.reshape(x.shape), (flat, mean, inverse, weight)


def backward(
    ctx: Context, dy: Array, x: Array, mean: Array, inverse: Array, weight: Array
) -> tuple[Array | None, ...]:
    """The gradients of x, weight and bias; of those not wanted, None."""
    xp, (n, width) = get_xp(dy), x.shape
    need_x, need_w, need_b = ctx.needs_grad
    flat = xp.ascontiguousarray(rows(dy), dtype=x.dtype)
    packs, parts = _packs(x, flat, weight), min(math.ceil(n / WARPS), MOST_PARTS)
    dx, partial = xp.empty_like(x), xp.empty((parts, 2, width), mean.dtype)
    if packs is not None:
        _warp("backward", x, packs)(parts, THREADS, (x, flat, weight, mean, inverse, dx, partial, n, width))
    else:
        if need_x:
            grid = min(n, MOST_BLOCKS)
            args = (x, flat, weight, mean, inverse, dx, n, width)
            _kernel("backward_input", x)(grid, THREADS, args)
        if need_w or need_b:
            grid = min(math.ceil(parts * width / THREADS), MOST_BLOCKS)
            args = (x, flat, mean, inverse, partial, n, width, parts)
            _kernel("backward_weight", x)(grid, THREADS, args)
    if not (need_w or need_b):
        return dx.reshape(dy.shape), None, None
    dweight = _result(ctx, 1, need_w, partial)
    dbias = _result(ctx, 2, need_b, partial)
    total = kernels.project("layer_norm", f"layer_norm_sum_partials<{kernels.c_types(x.dtype)[1]}>")
    total(2 * math.ceil(width / 32), THREADS, (partial, dweight, dbias, width, parts))
    return dx.reshape(dy.shape) if need_x else None, dweight, dbias


def _result(ctx: Context, i: int, wanted: bool, partial: Array) -> Array | None:
    """Memory for the gradient of input i: the optimizer's where it has the type of the sums."""
    into = ctx.destination(i) if wanted else None
    if into is not None and into.dtype == partial.dtype and into.flags.c_contiguous:
        return into
    return get_xp(partial).empty(partial.shape[2], partial.dtype) if wanted else None


def _packs(x: Array, *others: Array) -> int | None:
    """How many packs of 16 bytes a lane of a warp needs for a row of x (N, D); None where none will do."""
    return packs_of(x.shape[1], x.dtype.itemsize) if aligned(x, *others) else None


def packs_of(width: int, itemsize: int) -> int | None:
    """The same, for rows of `width` elements of so many bytes."""
    per_pack = PACK // itemsize
    wanted = math.ceil(width / (32 * per_pack))
    whole = width % per_pack == 0
    return next((k for k in LAYER_NORM_PACKS[itemsize] if whole and k >= wanted), None)


def _sum_type(x: Array) -> Any:
    return np.float64 if x.dtype == np.float64 else np.float32


def _kernel(name: str, x: Array) -> kernels.Kernel:
    return kernels.project("layer_norm", f"layer_norm_{name}<{', '.join(kernels.c_types(x.dtype))}>")


def _warp(name: str, x: Array, packs: int) -> kernels.Kernel:
    types = ", ".join(kernels.c_types(x.dtype))
    return kernels.project("layer_norm", f"layer_norm_{name}_warp<{types}, {packs}>")
