"""Which kernel computes attention, and how much of a matrix its blocks take: from shapes and a type alone."""

from __future__ import annotations

import functools
import math
from typing import Any, NamedTuple

from ..backend.half import is_half
from ..backend.instantiations import ATTENTION_WIDTHS, attention_tiles
from ..backend.kernels import c_types

Shape = tuple[int, ...]
THREADS, SIDE = 256, 16  # as in attention.cuh, like the next two
COLUMNS = 64  # of a result that a block of threads computes
SHORT = 128  # queries, and keys, of a matrix whose gradients one block computes
DECLARED = 31 << 10  # bytes of shared memory that attention_backward has beside its sums, at most
ROWS, KEYS, WARP = 16, 32, 32  # on tensor cores: queries of a warp, keys of a tile, lanes


class Kernel(NamedTuple):
    """What is launched, for results of which a block computes so many rows and columns; shared: bytes of
    dynamic shared memory."""

    file: str
    name: str
    rows: int
    columns: int
    threads: int = THREADS
    shared: int = 0

    def blocks(self, matrices: int, rows: int, columns: int) -> int:
        return matrices * math.ceil(rows / self.rows) * math.ceil(columns / self.columns)


@functools.lru_cache(maxsize=512)
def forward(query: Shape, value: Shape, dtype: Any, cores: bool) -> Kernel:
    """For query (..., T, D) and value (..., S, Dv), on a GPU with tensor cores or without."""
    width = _width(query, value, dtype, cores)
    if width:
        rows = ROWS * min(SHORT // ROWS, math.ceil(query[-2] / ROWS))
        size, value_size = _padded(query[-1]), _padded(value[-1])
        shared = 2 * (rows * max(size, value_size) + 2 * KEYS * (size + value_size)) + _bits(rows)
        return _on_tensor_cores("forward", dtype, width, rows, shared)
    return _in_tiles("forward", dtype, _tile(query, value, dtype))


@functools.lru_cache(maxsize=512)
def backward(query: Shape, value: Shape, dtype: Any, cores: bool, most_shared: int) -> Kernel | None:
    """The kernel whose blocks compute all gradients of a matrix each; None where that takes two kernels.
    most_shared: the bytes of shared memory that a block can have."""
    if max(query[-2], value[-2]) > SHORT:
        return None
    width = _width(query, value, dtype, cores)
    if width:
        rows = ROWS * math.ceil(query[-2] / ROWS)
        both = _padded(query[-1]) + _padded(value[-1])
        shared = 2 * (rows * (both + 2 * _padded(KEYS)) + 2 * KEYS * both) + _bits(rows)
        return _on_tensor_cores("backward", dtype, width, rows, shared) if shared <= most_shared else None
    if is_half(dtype) or max(query[-1], value[-1]) > COLUMNS:
        return None
    tile, of_sum = _tile(query, value, dtype), 8 if c_types(dtype)[1] == "double" else 4
    shared = math.ceil(query[-2] / tile) * tile * math.ceil(query[-1] / SIDE) * SIDE * of_sum
    found = _in_tiles("backward", dtype, tile)._replace(rows=SHORT, shared=shared)
    return found if DECLARED + shared <= most_shared else None


def of_long_texts(name: str, dtype: Any) -> Kernel:
    """backward_query and backward_key, which take any size."""
    return _in_tiles(name, dtype, attention_tiles(*c_types(dtype))[-1])


def _in_tiles(name: str, dtype: Any, tile: int) -> Kernel:
    return Kernel("attention", f"attention_{name}<{', '.join(c_types(dtype))}, {tile}>", tile, COLUMNS)


def _on_tensor_cores(name: str, dtype: Any, width: int, rows: int, shared: int) -> Kernel:
    kernel = f"attention_tensor_cores_{name}<{c_types(dtype)[0]}, {width}>"
    return Kernel("attention_tensor_cores", kernel, rows, width, rows // ROWS * WARP, shared)


def _width(query: Shape, value: Shape, dtype: Any, cores: bool) -> int:
    """The columns that the kernel on tensor cores is made for; 0 where none takes these."""
    widest = max(query[-1], value[-1])
    return next((w for w in ATTENTION_WIDTHS if widest <= w), 0) if cores and is_half(dtype) else 0


def _tile(query: Shape, value: Shape, dtype: Any) -> int:
    """The side of the tiles in which weights are made."""
    return attention_tiles(*c_types(dtype))[0 if max(query[-2], value[-2]) <= 32 else -1]


def _padded(size: int) -> int:
    """Elements from one row in shared memory to the next."""
    return math.ceil(size / 16) * 16 + 8


def _bits(rows: int) -> int:
    """Bytes for the bits of dropout of so many queries and a tile of keys."""
    return 4 * rows * (KEYS // 16 + 1)
