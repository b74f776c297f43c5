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
MOST_IN_REGISTERS = 16  # columns of a lane whose sums are in registers; those of more, in shared memory
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
    (n, width), sums = flat.shape, sum_type(x)
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
    need_x, *need = ctx.needs_grad
    flat, dx = xp.ascontiguousarray(rows(dy), dtype=x.dtype), xp.empty_like(x)
    packs = _packs(x, flat, weight)
    if packs is not None:
        partial = partial_sums(mean, n, width)
        both = (x, flat, weight, mean, inverse, dx, partial, n, width)
        _warp("backward", x, packs)(len(partial), THREADS, both, shared_mem=memory_of_sums(x, packs))
    else:
        if need_x:
            args = (x, flat, weight, mean, inverse, dx, n, width)
            _kernel("backward_input", x)(min(n, MOST_BLOCKS), THREADS, args)
        partial = sums_of_parts(x, flat, mean, inverse) if any(need) else None
    return dx.reshape(dy.shape) if need_x else None, *weight_gradients(ctx, (1, 2), partial)


def partial_sums(mean: Array, n: int, width: int) -> Array:
    """Memory for the sums of dy n and of dy over parts of n rows (parts, 2, D)."""
    return get_xp(mean).empty((parts_of(n), 2, width), mean.dtype)


def parts_of(n: int) -> int:
    """Into how many parts n rows are cut."""
    return min(math.ceil(n / WARPS), MOST_PARTS)


def sums_of_parts(x: Array, dy: Array, mean: Array, inverse: Array) -> Array:
    """The sums of dy n and of dy over parts of the rows, for any width."""
    n, width = x.shape
    partial = partial_sums(mean, n, width)
    grid = min(math.ceil(len(partial) * width / THREADS), MOST_BLOCKS)
    args = (x, dy, mean, inverse, partial, n, width, len(partial))
    _kernel("backward_weight", x)(grid, THREADS, args)
    return partial


def weight_gradients(
    ctx: Context, places: tuple[int, int], partial: Array | None
) -> tuple[Array | None, Array | None]:
    """The gradients of weight and bias, which are the inputs `places`, from sums over parts; of those not
    wanted, None."""
    need_w, need_b = (ctx.needs_grad[i] for i in places)
    if partial is None or not (need_w or need_b):
        return None, None
    parts, _, width = partial.shape
    dweight, dbias = _result(ctx, places[0], need_w, partial), _result(ctx, places[1], need_b, partial)
    types = "double" if partial.dtype == np.float64 else "float"
    total = kernels.project("layer_norm", f"layer_norm_sum_partials<{types}>")
    total(2 * math.ceil(width / 32), THREADS, (partial, dweight, dbias, width, parts))
    return dweight, dbias


def _result(ctx: Context, i: int, wanted: bool, partial: Array) -> Array | None:
    """Memory for the gradient of input i: the optimizer's where it has the type of the sums."""
    into = ctx.destination(i) if wanted else None
    if into is not None and into.dtype == partial.dtype and into.flags.c_contiguous:
        return into
    return get_xp(partial).empty(partial.shape[2], partial.dtype) if wanted else None


def _packs(x: Array, *others: Array) -> int | None:
    """How many packs of 16 bytes a lane of a warp needs for a row of x (N, D); None where none will do."""
    return packs_of(x.shape[1], x.dtype.itemsize) if aligned(x, *others) else None


def packs_of(width: int, itemsize: int, beside: int = 0) -> int | None:
    """The same, for rows of `width` elements of so many bytes, with room for some beside."""
    per_pack = PACK // itemsize
    wanted = math.ceil((width + beside) / (32 * per_pack))
    whole = width % per_pack == 0
    return next((k for k in LAYER_NORM_PACKS[itemsize] if whole and k >= wanted), None)


def memory_of_sums(x: Array, packs: int) -> int:
    """Bytes of shared memory for the sums of dweight and dbias, where a lane does not hold them in registers:
    those of float64 it always does."""
    columns = packs * PACK // x.dtype.itemsize
    in_registers = columns <= MOST_IN_REGISTERS or x.dtype == np.float64
    return 0 if in_registers else WARPS * 2 * 32 * columns * 4


def sum_type(x: Array) -> Any:
    return np.float64 if x.dtype == np.float64 else np.float32


def _kernel(name: str, x: Array) -> kernels.Kernel:
    return kernels.project("layer_norm", f"layer_norm_{name}<{', '.join(kernels.c_types(x.dtype))}>")


def _warp(name: str, x: Array, packs: int) -> kernels.Kernel:
    types = ", ".join(kernels.c_types(x.dtype))
    return kernels.project("layer_norm", f"layer_norm_{name}_warp<{types}, {packs}>")
