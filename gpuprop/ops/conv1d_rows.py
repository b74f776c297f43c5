"""Convolution with stride 1 on a CPU: one product a tap over all rows of the batch, shifted by the tap.

With texts padded to (B, P, channels), P = left + L + right, and laid end to end, what tap k sees of row r is
row r + k·dilation, so that
    y[r] = Σ_k x[r + k·dilation] W_k        W_k (C, O)
is a sum of products of contiguous memory. The last `reach` = (K - 1)·dilation rows of each text mix two texts
and are dropped; their gradient is 0. The sums are made in blocks of rows that stay in cache.
conv1d.py has the formulas and what these functions must give.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from ..backend.arrays import Array
from ..backend.buffers import empty, zeros
from ..backend.gemm import SMALL, repeated
from ..backend.gemm import matmul as product
from ..backend.threads import blas_on_one_thread, over_rows
from .windows import Geometry

BLOCK = 1 << 16  # numbers of x, y and one tap's y at a time
LEAST_ROWS = 128  # of a product
FEW_WEIGHTS = 1 << 14  # of a tap: with more, products count for all, and copies of windows for little
SHARE = {True: 0.7, False: 0.95}  # of the rows that are not dropped, from which this is faster than windows
COPY_PAYS = 1024  # rows from which a copy of the weights in the order of the products does


def suits(x: Array, weight: Array, at: Geometry) -> bool:
    """Whether these functions are the faster ones for x (B, L, channels), weight (K, C, O)."""
    if not isinstance(x, np.ndarray) or at.stride != 1 or not x.size:
        return False
    padded = x.shape[1] + sum(at.padding)
    share = SHARE[weight.shape[1] * weight.shape[2] <= FEW_WEIGHTS]
    return at.out_length(x.shape[1], weight.shape[0]) >= share * padded


def forward(x: Array, weight: Array, bias: Array | None, at: Geometry) -> Array:
    """y (B, T, O) for x (B, L, channels), weight (K, C, O), bias (O,) or None."""
    batch, length, out = x.shape[0], at.out_length(x.shape[1], weight.shape[0]), weight.shape[2]
    rows = _padded(x, at.padding)
    y = empty(np, (len(rows), out), x.dtype)
    _sum_of_taps(rows, weight, y[: len(rows) - _reach(weight, at)], at.dilation, at)
    return _texts(y, batch, 0, length, bias)


def backward_input(dy: Array, shape: tuple[int, ...], weight: Array, at: Geometry) -> Array:
    """dx (B, L, channels), which has this shape, for dy (B, T, O)."""
    reach, (batch, length, channels) = _reach(weight, at), shape
    rows = _padded(dy, (0, reach), reach)
    dx = empty(np, (len(rows) - reach, channels), dy.dtype)
    weight = _transposed(weight[::-1], at, len(rows) >= COPY_PAYS)
    _sum_of_taps(rows, weight, dx, at.dilation, at)
    return _texts(dx, batch, at.padding[0], length, None)


def backward_weight(dy: Array, x: Array, shape: tuple[int, ...], at: Geometry) -> tuple[Array, Array]:
    """dweight (K, C, O), which has this shape, and dbias (O,)."""
    kernel_size, channels, out = shape
    reach = (kernel_size - 1) * at.dilation
    rows, gradients = _padded(x, at.padding), _padded(dy, (0, reach))
    count = len(rows) - reach
    dweight, partial = zeros(np, shape, dy.dtype), empty(np, shape[1:], dy.dtype)
    size = SMALL // (channels * out)
    size = size if size >= LEAST_ROWS else count  # many weights: adding them up would cost more
    multiply = _weight_products(rows[:size], gradients[:size], at)
    with blas_on_one_thread():
        for r in range(0, count, size):
            block = gradients[r : min(r + size, count)]
            for k in range(kernel_size):
                first = r + k * at.dilation
                dweight[k] += multiply(rows[first : first + len(block)], block, partial)
    ones = np.ones((1, len(gradients)), dy.dtype)
    return dweight, product(ones, gradients)[0]


def _reach(weight: Array, at: Geometry) -> int:
    return int(weight.shape[0] - 1) * at.dilation


def _padded(x: Array, sides: tuple[int, int], before: int = 0) -> Array:
    """x (B, L, C) as rows (before + B (left + L + right), C), with zeros around each text and in front."""
    batch, length, channels = x.shape
    left, right = sides
    if not left and not right and not before:
        return x.reshape(-1, channels)
    rows = empty(np, (before + batch * (left + length + right), channels), x.dtype)
    rows[:before] = 0
    texts = rows[before:].reshape(batch, left + length + right, channels)
    texts[:, :left], texts[:, left : left + length], texts[:, left + length :] = 0, x, 0
    return rows


def _texts(rows: Array, batch: int, first: int, length: int, bias: Array | None) -> Array:
    """Rows of padded texts as (B, length, C), each text from row `first`, plus a bias (C,)."""
    texts = rows.reshape(batch, -1, rows.shape[1])
    if bias is None and texts.shape[1] == length:
        return texts
    y = empty(np, (batch, length, rows.shape[1]), rows.dtype)
    if bias is None:
        y[...] = texts[:, first : first + length]
    else:
        np.add(texts[:, first : first + length], bias if batch == 1 else np.tile(bias, (length, 1)), out=y)
    return y


def _sum_of_taps(rows: Array, weight: Array, y: Array, dilation: int, at: Geometry) -> None:
    """y[r] = Σ_k rows[r + k·dilation] W_k, a block of rows at a time."""
    cached, unpacked = BLOCK // (rows.shape[1] + 2 * y.shape[1]), SMALL // (weight.shape[1] * y.shape[1])
    size = max(LEAST_ROWS, min(cached, unpacked) if unpacked >= LEAST_ROWS else cached)
    multiply = _taps(rows, weight, min(size, len(y)), at)

    def work(start: int, stop: int) -> None:
        space = empty(np, (min(size, stop - start), y.shape[1]), y.dtype)
        with blas_on_one_thread():
            for r in range(start, stop, size):
                block = y[r : min(r + size, stop)]
                multiply(rows[r : r + len(block)], 0, block)
                for k in range(1, len(weight)):
                    tap = rows[r + k * dilation : r + k * dilation + len(block)]
                    block += multiply(tap, k, space[: len(block)])

    over_rows(work, len(y), len(y) * weight.size // 16, products=True)


def _taps(rows: Array, weight: Array, size: int, at: Geometry) -> Callable[[Array, int, Array], Array]:
    """What multiplies rows (N, channels), N up to `size`, with W_k, into an array (N, O)."""
    if _depthwise(weight, at):
        alike = np.repeat(weight, size, axis=1)  # of one shape with the rows: the fastest product
        return lambda x, k, out: np.multiply(x, alike[k, : len(x)], out=out)
    if at.groups == 1:
        of_rows = repeated(rows[:size], weight[0], held=True)
        return lambda x, k, out: of_rows(x, weight[k], out=out)
    by_group = weight.reshape(*weight.shape[:2], at.groups, -1).transpose(0, 2, 1, 3)

    def grouped(x: Array, k: int, out: Array) -> Array:
        product(_by_group(x, at), by_group[k], out=_by_group(out, at))
        return out

    return grouped


def _weight_products(x: Array, dy: Array, at: Geometry) -> Callable[[Array, Array, Array], Array]:
    """What makes xᵀ dy (C, O) of rows x (N, channels) and dy (N, O), N up to what these have."""
    if at.groups == 1:
        of_rows = repeated(x.T, dy, held=True)
        return lambda x, dy, out: of_rows(x.T, dy, out=out)
    if x.shape[1] == at.groups == dy.shape[1]:
        ones = np.ones((1, len(x)), x.dtype)
        return lambda x, dy, out: product(ones[:, : len(x)], x * dy, out=out)

    def grouped(x: Array, dy: Array, out: Array) -> Array:
        product(_by_group(x, at).swapaxes(1, 2), _by_group(dy, at), out=_by_group(out, at))
        return out

    return grouped


def _depthwise(weight: Array, at: Geometry) -> bool:
    return weight.shape[1] == 1 and weight.shape[2] == at.groups


def _by_group(x: Array, at: Geometry) -> Array:
    """(N, G·C) as a view (G, N, C)."""
    return x.reshape(len(x), at.groups, -1).swapaxes(0, 1)


def _transposed(weight: Array, at: Geometry, copied: bool) -> Array:
    """weight (K, C, G·O) with its inputs and outputs exchanged within each group, (K, O, G·C)."""
    kernel_size, channels, _ = weight.shape
    if at.groups > 1:
        by_group = weight.reshape(kernel_size, channels, at.groups, -1)
        return by_group.transpose(0, 3, 2, 1).reshape(kernel_size, -1, at.groups * channels)
    turned = weight.swapaxes(1, 2)
    return np.ascontiguousarray(turned) if copied else turned
