"""Convolution on a GPU as products of phases: cuBLAS reads the windows where they lie, none is copied.

Texts of P positions each, P a multiple of the stride s (zeros around a text are part of it), lie end to end
as rows of S = s·channels numbers. Output r has the window of K·channels numbers that begins with row r; it
ends within N = ⌈K/s⌉ rows. Windows N rows apart do not overlap, so those of a phase p,
    X_p[m] = rows from p + mN on, as one row of K·channels numbers        m = 0, 1, ...
are a matrix with N·S numbers from a row to the next, and the N phases a batch, S numbers apart:
    y[p + mN] = X_p[m] W + bias        W (K·channels, O)
    dW = Σ_p X_pᵀ G_p                  G_p[m] = dy[p + mN]: phases cut the long sum, and are added in order
    dx[r] = Σ_n dy[r - n] V_n          V_n (O, S), taps n·s to n·s + s - 1: the same again, taps turned round
The windows that begin in the last N - 1 rows of a text reach into the next one: their y is left out, and
their dy is 0. kernels/README.md derives the equations.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

from ..backend import kernels
from ..backend.arrays import Array, get_xp, is_cupy
from ..backend.gemm import matmul as product
from ..backend.gemm import matrices, with_bias
from ..backend.instantiations import PACK
from ..backend.kernel_memory import aligned
from .conv1d_kernels import NARROW, NOWHERE, THREADS, Into, grid, sum_partials, sum_type
from .linear import column_sums
from .windows import Geometry

LEAST = 1 << 22  # multiplications below which one launch of a kernel is taken for the faster way (estimated)


def suits(x: Array, weight: Array, at: Geometry) -> bool:
    """Whether x (B, L, channels) with weight (K, C, O) is convolved by products."""
    return is_cupy(x) and pays(x.shape, weight.shape, at)


def possible(x: Array, weight: Array, at: Geometry) -> bool:
    """Whether products can do it: with dilation, and with groups, a window is not one run of memory."""
    return at.groups == 1 and (at.dilation == 1 or weight.shape[0] == 1)


def pays(shape: tuple[int, ...], filters: tuple[int, ...], at: Geometry) -> bool:
    """Whether products are the faster way on a GPU for x (B, L, channels), weight (K, C, O) of these shapes:
    from 16 channels and outputs and 4 million multiplications on. The others are the kernels': with dilation,
    and with groups, a window is not one run of memory; and small ones take one launch there (estimated)."""
    kernel_size, channels, out = filters
    if at.groups > 1 or (at.dilation > 1 and kernel_size > 1):
        return False
    outputs = shape[0] * at.out_length(shape[1], kernel_size)
    return min(channels, out) >= NARROW and outputs * math.prod(filters) >= LEAST


def forward(x: Array, weight: Array, bias: Array | None, at: Geometry) -> Array:
    """y (B, T, O): a view that leaves out the windows which reach into the next text."""
    batch, length, _ = x.shape
    y, each = outputs(x, weight, bias, at)
    texts = y[: batch * each].reshape(batch, each, weight.shape[2])
    return texts[:, : at.out_length(length, weight.shape[0])]


def outputs(x: Array, weight: Array, bias: Array | None, at: Geometry) -> tuple[Array, int]:
    """(the outputs of all texts one behind the other, how many rows a text has): row b · rows + t is output t
    of text b, and the last of a text, which reach into the next one, hold no numbers to be used."""
    out, (taps, each) = weight.shape[2], rows_of(x.shape[1], weight.shape[0], at)
    texts = _texts(x, taps, each, at)
    y = get_xp(x).empty((len(texts), out), x.dtype)
    _convolve(texts, weight.reshape(-1, out), bias, y, taps)
    return y, each


def backward(
    dy: Array, x: Array, weight: Array, at: Geometry, needs_grad: Sequence[bool], into: Into = NOWHERE
) -> tuple[Array | None, Array | None, Array | None]:
    """The gradients of x, weight and bias, the last two in `into` where it has memory; None if not wanted."""
    need_x, need_weight, need_bias = needs_grad
    flat = dy.reshape(-1, dy.shape[2])
    gradients = _gradients(dy, x, weight, at) if need_x or need_weight else flat
    return (
        _backward_input(gradients, x, weight, at) if need_x else None,
        _backward_weight(gradients, x, weight, at, into[0]) if need_weight else None,
        column_sums(flat, into[1]) if need_bias else None,
    )


def backward_weight(dy: Array, x: Array, weight: Array, at: Geometry, into: Array | None = None) -> Array:
    """dweight (K, C, O), in `into` if given."""
    return _backward_weight(_gradients(dy, x, weight, at), x, weight, at, into)


def _gradients(dy: Array, x: Array, weight: Array, at: Geometry) -> Array:
    """dy as rows of texts after taps - 1 rows of zeros."""
    taps, each = rows_of(x.shape[1], weight.shape[0], at)
    if taps == 1 and dy.shape[1] == each:
        return dy.reshape(-1, dy.shape[2])
    return padded(dy, taps - 1, each, 0, rows_with_padding(len(x), taps, each)[1])


def _backward_input(gradients: Array, x: Array, weight: Array, at: Geometry) -> Array:
    """dx, of the shape of x. gradients: rows of texts after taps - 1 rows of zeros."""
    (batch, length, channels), (taps, each) = x.shape, rows_of(x.shape[1], weight.shape[0], at)
    dx = get_xp(x).empty((len(gradients) - taps + 1, at.stride * channels), x.dtype)
    _convolve(gradients, _turned(weight, taps, at.stride), None, dx, taps)
    texts = dx[: batch * each].reshape(batch, each * at.stride, channels)
    return texts[:, at.padding[0] : at.padding[0] + length]


def _backward_weight(gradients: Array, x: Array, weight: Array, at: Geometry, into: Array | None) -> Array:
    """dweight (K, C, O)."""
    kernel_size, channels, out = weight.shape
    (taps, each), window = rows_of(x.shape[1], kernel_size, at), kernel_size * channels
    texts = _texts(x, taps, each, at)
    width, cut = texts.shape[1], list(phases(len(texts) - taps + 1, taps))
    count = sum(n for _, n, _ in cut)
    if count == 1 and into is not None:
        partial = into.reshape(1, window, out)
    else:
        partial = get_xp(x).empty((count, window, out), x.dtype if count == 1 else sum_type(x))
    done = 0
    for first, n, rows in cut:
        windows = matrices(texts, first * width, (n, rows, window), (width, taps * width))
        behind = matrices(gradients, (taps - 1 + first) * out, (n, rows, out), (out, taps * out))
        product(windows.swapaxes(1, 2), behind, out=partial[done : done + n])
        done += n
    dweight = partial[0] if count == 1 else sum_partials(partial, x.dtype, into)
    return dweight.reshape(weight.shape)


def _convolve(texts: Array, weight: Array, bias: Array | None, y: Array, taps: int) -> None:
    """y[r] = (the window that begins with row r of texts) weight + bias, for every r whose window ends within
    texts (rows, S); weight (window, O), y (at least that many rows, O)."""
    width, (window, out) = texts.shape[1], weight.shape
    for first, n, rows in phases(len(texts) - taps + 1, taps):
        windows = matrices(texts, first * width, (n, rows, window), (width, taps * width))
        to = matrices(y, first * out, (n, rows, out), (out, taps * out))
        if bias is None or not with_bias(windows, weight, bias, to):
            product(windows, weight, out=to)
            if bias is not None:
                to += bias


def phases(windows: int, taps: int) -> Iterator[tuple[int, int, int]]:
    """(first, n, rows): the windows first + p + m·taps for p < n and m < rows. The last few, fewer than taps,
    are matrices of one row each."""
    rows, rest = divmod(windows, taps)
    if rows:
        yield 0, taps, rows
    if rest:
        yield rows * taps, rest, 1


def rows_of(length: int, kernel_size: int, at: Geometry) -> tuple[int, int]:
    """N, the rows that a window takes, and how many rows a text has."""
    return math.ceil(kernel_size / at.stride), math.ceil((length + sum(at.padding)) / at.stride)


def rows_with_padding(batch: int, taps: int, each: int) -> tuple[int, int]:
    """Rows of a padded copy of x and of dy: some more, so that all phases have the same number of windows."""
    total = batch * each
    return total + -(total - taps + 1) % taps, taps - 1 + total + -total % taps


def _texts(x: Array, taps: int, each: int, at: Geometry) -> Array:
    """x (B, L, C) as rows of stride·C numbers, `each` a text: itself, or with padding a copy."""
    batch, length, channels = x.shape
    if length == each * at.stride:
        return x.reshape(batch * each, -1)
    rows, _ = rows_with_padding(batch, taps, each)
    texts = padded(x, 0, each * at.stride, at.padding[0], rows * at.stride)
    return texts.reshape(rows, at.stride * channels)


def _turned(weight: Array, taps: int, stride: int) -> Array:
    """weight (K, C, O) as (N·O, stride·C), last taps first; taps beyond K are zeros."""
    xp, (kernel_size, channels, out) = get_xp(weight), weight.shape
    if kernel_size < taps * stride:
        more = xp.zeros((taps * stride - kernel_size, channels, out), weight.dtype)
        weight = xp.concatenate([weight, more])
    split = weight.reshape(taps, stride * channels, out)[::-1].swapaxes(1, 2)
    return xp.ascontiguousarray(split).reshape(taps * out, stride * channels)


def padded(x: Array, front: int, each: int, before: int, rows: int) -> Array:
    """x (B, L, C) as rows (rows, C): row (b, l) is row front + b·each + before + l, and all others are 0."""
    xp, (batch, length, channels) = get_xp(x), x.shape
    if not kernels.usable(x):
        y = xp.zeros((rows, channels), x.dtype)
        texts = y[front : front + batch * each].reshape(batch, each, channels)
        texts[:, before : before + length] = x
        return y
    y, pack = xp.empty((rows, channels), x.dtype), PACK // x.dtype.itemsize
    if channels % pack or not aligned(x, y):
        pack = 1
    kernel = kernels.project("conv1d", f"conv1d_pad<{kernels.c_type(x.dtype)}, {pack}>")
    sizes = (batch, length, channels, front, each, before, rows)
    kernel(grid(math.ceil(y.size / pack / THREADS)), THREADS, (x, y, *sizes))
    return y
