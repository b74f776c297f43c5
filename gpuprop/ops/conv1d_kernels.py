"""The kernels of conv1d.cu, which take every shape: a tile of a product a block, or a result a thread.

weight (K, C, O) is in its memory order here.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from ..backend import kernels
from ..backend.arrays import Array, get_xp
from .windows import Geometry

THREADS, TILE, DEPTH = 256, 64, 16  # as in conv1d.cu
NARROW = 16  # groups with fewer channels than this leave a tile mostly idle
MOST_GRID = 2**31 - 1
BLOCKS, SUMS = 512, 2**17  # what a sum over the batch is split into, at most: blocks, or single threads

Into = tuple[Array | None, Array | None]  # memory for dweight (K, C, O) and dbias (O,)
NOWHERE: Into = (None, None)


def suits(x: Array, weight: Array, at: Geometry) -> bool:
    """They take every shape."""
    return True


possible = suits


def backward(
    dy: Array, x: Array, weight: Array, at: Geometry, needs_grad: Sequence[bool], into: Into = NOWHERE
) -> tuple[Array | None, Array | None, Array | None]:
    """The gradients of x, weight and bias, the last two in `into` where it has memory; None if not wanted."""
    need_x, need_weight, need_bias = needs_grad
    return (
        backward_input(dy, x, weight, at) if need_x else None,
        backward_weight(dy, x, weight, at, into[0]) if need_weight else None,
        backward_bias(dy, into[1]) if need_bias else None,
    )


def _sizes(x: Array, weight: Array, at: Geometry) -> tuple[int, ...]:
    """The integers that every kernel takes, in their order."""
    (batch, length, channels), (kernel_size, _, out) = x.shape, weight.shape
    out_length = at.out_length(length, kernel_size)
    left = at.padding[0]
    return batch, length, channels, out_length, out, kernel_size, at.stride, left, at.dilation, at.groups


def _kernel(name: str, dtype: Any, narrow: bool = False) -> kernels.Kernel:
    return kernels.project(
        "conv1d", f"{name}{'_narrow' if narrow else ''}<{', '.join(kernels.c_types(dtype))}>"
    )


def _narrow(filters: tuple[int, ...], at: Geometry) -> bool:
    return at.groups > 1 and min(filters[1], filters[2] // at.groups) < NARROW


def _tiles(rows: int, columns: int, groups: int) -> int:
    return math.ceil(rows / TILE) * math.ceil(columns / TILE) * groups


def grid(blocks: int) -> int:
    """How many blocks to launch for that many; kernels walk what is beyond the grid."""
    return max(1, min(blocks, MOST_GRID))


def forward(x: Array, weight: Array, bias: Array | None, at: Geometry) -> Array:
    """y (B, T, O)."""
    sizes = _sizes(x, weight, at)
    y = get_xp(x).empty((sizes[0], sizes[3], sizes[4]), x.dtype)
    narrow = _narrow(weight.shape, at)
    tiles = _tiles(y.shape[0] * y.shape[1], y.shape[2] // at.groups, at.groups)
    blocks = grid(math.ceil(y.size / THREADS) if narrow else tiles)
    _kernel("conv1d_forward", x.dtype, narrow)(blocks, THREADS, (x, weight, bias, y, *sizes))
    return y


def backward_input(dy: Array, x: Array, weight: Array, at: Geometry) -> Array:
    """dx, of the shape of x."""
    dx = get_xp(x).empty(x.shape, x.dtype)
    narrow = _narrow(weight.shape, at)
    tiles = _tiles(x.shape[0] * x.shape[1], weight.shape[1], at.groups)
    blocks = grid(math.ceil(dx.size / THREADS) if narrow else tiles)
    _kernel("conv1d_backward_input", x.dtype, narrow)(
        blocks, THREADS, (dy, weight, dx, *_sizes(x, weight, at))
    )
    return dx


def backward_weight(dy: Array, x: Array, weight: Array, at: Geometry, into: Array | None = None) -> Array:
    """dweight (K, C, O)."""
    kernel_size, channels, out = weight.shape
    pairs, narrow = dy.shape[0] * dy.shape[1], _narrow(weight.shape, at)
    tiles = _tiles(kernel_size * channels, out // at.groups, at.groups)
    splits, run = runs_of_weight(pairs, weight.shape, at)
    blocks = grid(math.ceil(splits * weight.size / THREADS) if narrow else tiles * splits)
    partial = get_xp(x).empty((splits, *weight.shape), sum_type(x))
    kernel = _kernel("conv1d_backward_weight", x.dtype, narrow)
    kernel(blocks, THREADS, (x, dy, partial, *_sizes(x, weight, at), splits, run))
    return sum_partials(partial, x.dtype, into)


def backward_bias(dy: Array, into: Array | None = None) -> Array:
    """dbias (O,), the sums of dy (B, T, O)."""
    pairs, out = dy.shape[0] * dy.shape[1], dy.shape[2]
    splits, run = runs_of_bias(pairs, out)
    partial = get_xp(dy).empty((splits, out), sum_type(dy))
    blocks = grid(math.ceil(partial.size / THREADS))
    _kernel("conv1d_backward_bias", dy.dtype)(blocks, THREADS, (dy, partial, pairs, out, splits, run))
    return sum_partials(partial, dy.dtype, into)


def sum_partials(partial: Array, dtype: Any, into: Array | None = None) -> Array:
    """partial[0] + partial[1] + ..., in that order, in `into` if given."""
    if not kernels.usable(partial):
        return partial.sum(axis=0).astype(dtype, copy=False)
    total = get_xp(partial).empty(partial.shape[1:], dtype) if into is None else into
    blocks = grid(math.ceil(total.size / THREADS))
    _kernel("conv1d_sum_partials", dtype)(blocks, THREADS, (partial, total, total.size, partial.shape[0]))
    return total


def runs_of_weight(pairs: int, filters: tuple[int, ...], at: Geometry) -> tuple[int, int]:
    """How the sum of dweight (K, C, O) over (b, t) is cut: (splits, run)."""
    kernel_size, channels, out = filters
    tiles = _tiles(kernel_size * channels, out // at.groups, at.groups)
    return _runs(pairs, SUMS // math.prod(filters) if _narrow(filters, at) else BLOCKS // tiles)


def runs_of_bias(pairs: int, out: int) -> tuple[int, int]:
    """How the sum of dbias (O,) over (b, t) is cut: (splits, run)."""
    return _runs(pairs, SUMS // out)


def _runs(pairs: int, wanted: int) -> tuple[int, int]:
    """How a sum over `pairs` is cut, (splits, run): by shape alone, so that every GPU gives the same bits."""
    run = DEPTH * max(4, math.ceil(pairs / (DEPTH * max(1, wanted))))
    return math.ceil(pairs / run), run


def sum_type(a: Array) -> Any:
    """The type in which products of elements of `a` are added up."""
    return np.float64 if a.dtype == np.float64 else np.float32
