"""Convolution on tensor cores by a kernel of ours (conv1d_tensor_cores.cu): stride 1, one group, half types,
and float32 in TF32 after `set_matmul_precision("high")`. kernels/README.md says how.

Forward and dx are this kernel. dweight is left to cuBLAS: it is plain products of matrices in memory, with as
many multiplications, and cuBLAS has the faster instructions of sm_90 and later for them. weight (K, C, O) is
in its memory order here.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from ..backend import kernels, tensor_cores
from ..backend.arrays import Array, get_xp, is_cupy
from ..backend.gemm import matmul as product
from ..backend.gemm import matrices
from . import conv1d_products
from .conv1d_kernels import NARROW, NOWHERE, Into, sum_partials, sum_type
from .linear import column_sums
from .windows import Geometry

ROWS, COLUMNS, REACH, THREADS = 128, 128, 32, 256  # as in conv1d_tensor_cores.cu
MOST_ROWS = 2**31 - 2 * ROWS  # of all texts: a row's number fits 32 bits
BUSY = 132  # tiles that keep every processor of a large GPU at work
LEAST_RUN = 1024  # rows of a piece of the sum of dweight


def suits(x: Array, weight: Array, at: Geometry) -> bool:
    """Whether x (B, L, channels) with weight (K, C, O) goes this way on a GPU."""
    return is_cupy(x) and tensor_cores.there(x) and pays(x.shape, weight.shape, x.dtype, at)


def pays(shape: tuple[int, ...], filters: tuple[int, ...], dtype: Any, at: Geometry) -> bool:
    """Whether this is the fastest way on a GPU with tensor cores for x (B, L, channels), weight (K, C, O) of
    these shapes: with dilation, where products have no windows to read and the kernels of conv1d.cu multiply
    at a tenth of the speed, from as many multiplications on as products (estimated).

    Without dilation products are taken (estimated, too, for 3072 x 202 x 128 -> 384, K = 3, bfloat16 on an
    H200): 181 GFLOP are 0.45 ms at the 400 TFLOP/s of this kernel's instructions (mma.sync), 0.30 ms at the
    600 of cuBLAS's (wgmma), while what this kernel moves less, 0.63 GB for 0.95, is 0.07 ms.
    """
    kernel_size, channels, out = filters
    multiplications = shape[0] * at.out_length(shape[1], kernel_size) * math.prod(filters)
    return (
        at.dilation > 1
        and kernel_size > 1
        and fits(shape, filters, dtype, at)
        and min(channels, out) >= NARROW
        and multiplications >= conv1d_products.LEAST
    )


def possible(x: Array, weight: Array, at: Geometry) -> bool:
    """Whether x and weight can go this way, on a GPU or on the emulator."""
    return tensor_cores.there(x) and fits(x.shape, weight.shape, x.dtype, at)


def fits(shape: tuple[int, ...], filters: tuple[int, ...], dtype: Any, at: Geometry) -> bool:
    """Whether the kernel is made for x (B, L, channels), weight (K, C, O) of these shapes and this type."""
    reach, rows = _reach(filters[0], at), shape[0] * (shape[1] + sum(at.padding) + REACH)
    return (
        tensor_cores.multiply(dtype)
        and (at.stride, at.groups) == (1, 1)
        and reach <= REACH
        and rows * math.ceil(max(filters[1:]) / COLUMNS) < MOST_ROWS
    )


def forward(x: Array, weight: Array, bias: Array | None, at: Geometry) -> Array:
    """y (B, T, O)."""
    kernel_size, _, out = weight.shape
    y = get_xp(x).empty((x.shape[0], at.out_length(x.shape[1], kernel_size), out), x.dtype)
    _convolve(x, weight, bias, y, kernel_size, at.padding, at, forward=True)
    return y


def backward(
    dy: Array, x: Array, weight: Array, at: Geometry, needs_grad: Sequence[bool], into: Into = NOWHERE
) -> tuple[Array | None, Array | None, Array | None]:
    """The gradients of x, weight and bias, the last two in `into` where it has memory; None if not wanted."""
    need_x, need_weight, need_bias = needs_grad
    of_weight = (
        _by_taps if _reach(weight.shape[0], at) and at.dilation > 1 else conv1d_products.backward_weight
    )
    return (
        backward_input(dy, x, weight, at) if need_x else None,
        of_weight(dy, x, weight, at, into[0]) if need_weight else None,
        column_sums(dy.reshape(-1, dy.shape[2]), into[1]) if need_bias else None,
    )


def backward_input(dy: Array, x: Array, weight: Array, at: Geometry) -> Array:
    """dx, of the shape of x: the convolution of dy with the taps turned round."""
    dx, reach = get_xp(x).empty(x.shape, x.dtype), _reach(weight.shape[0], at)
    sides = reach - at.padding[0], reach - at.padding[1]
    _convolve(dy, weight, None, dx, weight.shape[0], sides, at, forward=False)
    return dx


def _reach(kernel_size: int, at: Geometry) -> int:
    return (kernel_size - 1) * at.dilation


def _convolve(
    x: Array, weight: Array, bias: Array | None, y: Array, kernel_size: int, sides: tuple[int, int],
    at: Geometry, forward: bool,
) -> None:  # fmt: skip
    """y (B, T, columns) of x (B, L, channels), which has `sides` zeros around it, or where these are negative
    so many positions less."""
    (batch, length, channels), (_, out_length, columns) = x.shape, y.shape
    each = rows_of(length, out_length, sides, _reach(kernel_size, at))
    tiles = math.ceil(batch * each / ROWS) * math.ceil(columns / COLUMNS)
    name = f"conv1d_tensor_cores<{kernels.c_type(x.dtype)}, {str(forward).lower()}>"
    sizes = (batch, length, channels, out_length, columns, kernel_size, sides[0], at.dilation, each)
    kernels.project("conv1d_tensor_cores", name)(tiles, THREADS, (x, weight, bias, y, *sizes))


def rows_of(length: int, out_length: int, sides: tuple[int, int], reach: int) -> int:
    """Rows from a text to the next: its longest side of zeros serves the neighbour, too. None serves where
    positions are left out."""
    if min(sides) < 0:
        return out_length + reach
    return max(out_length, length + max(sides))


def _by_taps(dy: Array, x: Array, weight: Array, at: Geometry, into: Array | None = None) -> Array:
    """dweight (K, C, O) with dilation: of each tap the product of the rows that it sees, turned, and those of
    dy, in runs of rows that are added in order. Texts are padded to T + reach rows, dy with zeros."""
    kernel_size, channels, out = weight.shape
    (splits, run), reach = runs_of_taps(x.shape, weight.shape, at), _reach(kernel_size, at)
    each = dy.shape[1] + reach
    texts = conv1d_products.padded(x, 0, each, at.padding[0], splits * run + reach)
    gradients = conv1d_products.padded(dy, 0, each, 0, splits * run)
    behind = matrices(gradients, 0, (splits, run, out), (run * out, out))
    if splits == 1 and into is not None:
        partial = into.reshape(1, *weight.shape)
    else:
        partial = get_xp(x).empty((splits, *weight.shape), x.dtype if splits == 1 else sum_type(x))
    for k in range(kernel_size):
        first = k * at.dilation * channels
        seen = matrices(texts, first, (splits, run, channels), (run * channels, channels))
        product(seen.swapaxes(1, 2), behind, out=partial[:, k])
    return partial[0] if splits == 1 else sum_partials(partial, x.dtype, into)


def runs_of_taps(shape: tuple[int, ...], filters: tuple[int, ...], at: Geometry) -> tuple[int, int]:
    """(splits, run): how the sum over the rows is cut, by shape alone, so that a large GPU is busy."""
    rows = shape[0] * (shape[1] + sum(at.padding))
    tiles = math.ceil(filters[1] / COLUMNS) * math.ceil(filters[2] / COLUMNS)
    splits = max(1, min(BUSY // tiles, rows // LEAST_RUN))
    return splits, math.ceil(rows / splits)
