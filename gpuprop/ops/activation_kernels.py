"""Bias, ReLU, GELU and dropout, their gradients and sums over rows in kernels (activation.cu)."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from ..backend import kernels, random
from ..backend.arrays import Array, get_xp
from ..backend.instantiations import ACTIVATIONS, C_TYPES, PACK
from ..backend.kernel_memory import aligned

THREADS, WARP = 256, 32  # as in activation.cu
LEAST_ROWS, MOST_BLOCKS = 32, 2048  # of a part; of the grid, which comes from sizes alone


def usable(*arrays: Any) -> bool:
    """Whether the kernels take these arrays, or None instead of some: of one type, the first with values."""
    given = [a for a in arrays if a is not None]
    if not kernels.usable(*given):
        return False
    first = given[0]
    return first.ndim > 0 and first.size > 0 and first.dtype.name in C_TYPES and _alike(given)


def _alike(arrays: list[Array]) -> bool:
    return all(a.dtype == arrays[0].dtype for a in arrays)


def forward(name: str, x: Array, bias: Array | None = None, out: Array | None = None) -> Array:
    """f(x + bias) for x (N, C), bias (C,) or None; `out` may be x. name: one of ACTIVATIONS."""
    xp = get_xp(x)
    x = xp.ascontiguousarray(x)
    y = xp.empty_like(x) if out is None else out
    kernel, grid, parts = _tiles("forward", name, x, bias, y)
    kernel(grid, THREADS, (x, bias, y, *x.shape, parts))
    return y


def backward(
    name: str, dy: Array, x: Array | None = None, bias: Array | None = None, sums: Array | None = None
) -> Array:
    """dz = dy f'(x + bias) for dy and x (N, C); Σ dz over the rows goes to `sums` (C,), if given.

    For "relu", x may be the result f(x); for "identity" it is not needed.
    """
    dy = get_xp(dy).ascontiguousarray(dy)
    dz = get_xp(dy).empty_like(dy)
    _launch_backward(name, dy, x, bias, dz, sums)
    return dz


def dropped(
    name: str, x: Array, beside: Array | None, place: tuple[Any, ...], of_rows: Array | None
) -> tuple[Array, Array]:
    """f(x) with dropout, for x (N, C), and what `gemm.behind` reads: for "relu" the result is in x and bits
    are written to `beside`, for "gelu_tanh" x is left with -16 where it was dropped, whose slope is 0.

    beside: of `gemm.beside`, for "relu". place and of_rows: as `Dropout` saves them, of numbers that
    `draws_whole_blocks`.
    """
    p, first, stream, call, step, seed = place
    (n, width), relu = x.shape, name == "relu"
    y = x if relu else get_xp(x).empty_like(x)
    bits = None if beside is None else beside.view(np.uint16)
    types = ", ".join(kernels.c_types(x.dtype))
    kernel = kernels.project("activation", f"activation_dropout<{types}, {ACTIVATIONS[name]}>")
    words = 0 if bits is None else bits.shape[1]
    drop = of_rows, first, random.keep_threshold(p), 1.0 / (1.0 - p), seed, stream, call, step
    blocks = math.ceil(n * (width // random.LANES) / THREADS)
    kernel(blocks, THREADS, (x, y, None if relu else x, bits, n, width, words, *drop))
    return y, x if beside is None else beside


def draws_whole_blocks(*numbers: int) -> bool:
    """Whether rows of these widths, or elements from these numbers on, begin and end with a block of random
    numbers, so that `dropped` takes them."""
    return all(number % random.LANES == 0 for number in numbers)


def column_sums(x: Array, out: Array | None) -> Array:
    """Σ over the rows of x (N, C) -> (C,), into `out` if given."""
    xp = get_xp(x)
    fits = out is not None and out.dtype == x.dtype and out.flags.c_contiguous
    sums = out if fits else xp.empty(x.shape[1], x.dtype)
    _launch_backward("identity", xp.ascontiguousarray(x), None, None, None, sums)
    if out is None or fits:
        return sums
    out[...] = sums
    return out


def _launch_backward(
    name: str, dy: Array, x: Array | None, bias: Array | None, dz: Array | None, sums: Array | None
) -> None:
    xp, (rows, width) = get_xp(dy), dy.shape
    x = None if x is None else xp.ascontiguousarray(x)
    kernel, grid, parts = _tiles("backward", name, dy, x, bias, dz)
    wide = np.float64 if dy.dtype == np.float64 else np.float32
    partial = None if sums is None else xp.empty((parts, width), wide)
    kernel(grid, THREADS, (dy, x, bias, dz, partial, rows, width, parts))
    if sums is not None:
        types = ", ".join(kernels.c_types(dy.dtype))
        total = kernels.project("activation", f"activation_sum_partials<{types}>")
        total(math.ceil(width / WARP), THREADS, (partial, sums, width, parts))


def _tiles(direction: str, name: str, x: Array, *others: Array | None) -> tuple[kernels.Kernel, int, int]:
    """The kernel for arrays like x (N, C), its grid, and the number of parts that the rows are cut into."""
    rows, width = x.shape
    pack = PACK // x.dtype.itemsize
    if width % pack or not aligned(x, *(a for a in others if a is not None)):
        pack = 1
    types = ", ".join(kernels.c_types(x.dtype))
    kernel = kernels.project("activation", f"activation_{direction}<{types}, {pack}, {ACTIVATIONS[name]}>")
    parts = parts_of(rows, width, pack)
    return kernel, math.ceil(width / (WARP * pack)) * parts, parts


def parts_of(rows: int, width: int, pack: int) -> int:
    """Into how many parts the rows (N, C) are cut, where a thread takes `pack` columns."""
    tiles = math.ceil(width / (WARP * pack))
    return min(math.ceil(rows / LEAST_ROWS), max(1, MOST_BLOCKS // tiles))
