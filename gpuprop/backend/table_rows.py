"""Rows that are added to rows of a table, in kernels (embedding.cu): sorted by id first, so that the order of
adding never changes."""

from __future__ import annotations

import math

import numpy as np

from . import kernels
from .arrays import Array, get_xp
from .determinism import are_deterministic_algorithms_enabled
from .instantiations import C_TYPES, LABEL_TYPES, PACK
from .kernel_memory import aligned

THREADS, SORT_THREADS, CHUNK = 256, 1024, 32  # as in embedding.cu
MOST_BLOCKS = 65536
ATOMIC = ("float32", "float64")
RANKS = 32  # ids that a block of rank_ids ranks
# Ids up to which they are ranked. By count of instructions, 132 processors compare 8192 with each other in
# 7 µs, and one block sorts them in some 18 (17 bits); twice as many in 27 and 36. Not measured.
RANKED = 8192
DIGIT = 8  # bits of the ids that are sorted by in one pass


def usable(table: Array, ids: Array) -> bool:
    """Whether the kernels take them; 2^31 rows or ids and more are refused at the launch."""
    fits = table.ndim == 2 and table.dtype.name in C_TYPES
    return fits and bool(ids.size) and bool(table.size) and kernels.usable(table)


def sort(ids: Array, rows: int, skip: int | None = None) -> tuple[Array, Array]:
    """The ids sorted, int32 (N,), and the places they had, equal ids in order. Ids outside 0..rows-1, and
    `skip`, become `rows`."""
    return (rank if ids.size <= RANKED else radix_sort)(ids, rows, skip)


def rank(ids: Array, rows: int, skip: int | None = None) -> tuple[Array, Array]:
    """As `sort`, by comparing every id with every other."""
    xp, ids = get_xp(ids), integers(ids)
    keys, order = xp.empty(ids.size, np.int32), xp.empty(ids.size, np.int32)
    kernel = kernels.project("embedding", f"rank_ids<{LABEL_TYPES[ids.dtype.name]}>")
    grid = math.ceil(ids.size / RANKS)
    kernel(grid, THREADS, (ids, keys, order, ids.size, rows, -1 if skip is None else skip))
    return keys, order


def radix_sort(ids: Array, rows: int, skip: int | None = None) -> tuple[Array, Array]:
    """As `sort`, by one block."""
    xp, ids = get_xp(ids), integers(ids)
    keys, order = (xp.empty((2, ids.size), np.int32) for _ in range(2))
    passes = max(1, math.ceil(rows.bit_length() / DIGIT))
    kernel = kernels.project("embedding", f"sort_ids<{LABEL_TYPES[ids.dtype.name]}>")
    kernel(1, SORT_THREADS, (ids, keys, order, ids.size, rows, -1 if skip is None else skip, passes))
    last = (passes - 1) % 2
    return keys[last], order[last]


def add_rows(table: Array, ids: Array, values: Array, skip: int | None = None) -> None:
    """table[ids] += values in place, for table (V, D), ids (N,) and values (N, D) of one type; no row for
    the id `skip`, nor for ids outside the table. In one order of adding, unless deterministic algorithms are
    switched off."""
    xp, (rows, columns) = get_xp(table), table.shape
    values = xp.ascontiguousarray(values)
    if table.dtype.name in ATOMIC and not are_deterministic_algorithms_enabled():
        _add_by_atomics(table, ids, values, skip)
        return
    keys, order = sort(ids, rows, skip)
    n, pack = int(ids.size), pack_of(table, values)
    chunks, tiles = math.ceil(n / CHUNK), math.ceil(columns / (32 * pack))
    grid = math.ceil(chunks * tiles / (THREADS // 32))
    types = ", ".join(kernels.c_types(table.dtype))
    partial = xp.empty((chunks, 2, columns), np.float64 if table.dtype == np.float64 else np.float32)
    add = kernels.project("embedding", f"embedding_backward<{types}, {pack}>")
    add(grid, THREADS, (keys, order, values, table, partial, n, rows, columns))
    if chunks > 1:
        finish = kernels.project("embedding", f"embedding_backward_finish<{types}, {pack}>")
        finish(grid, THREADS, (keys, partial, table, n, rows, columns))


def _add_by_atomics(table: Array, ids: Array, values: Array, skip: int | None) -> None:
    """`add_rows` in one pass, in any order."""
    ids = integers(ids)
    types = f"{kernels.c_type(table.dtype)}, {LABEL_TYPES[ids.dtype.name]}"
    kernel = kernels.project("embedding", f"embedding_backward_atomic<{types}>")
    grid = min(math.ceil(values.size / THREADS), MOST_BLOCKS)
    kernel(grid, THREADS, (ids, values, table, ids.size, *table.shape, -1 if skip is None else skip))


def integers(ids: Array) -> Array:
    """The ids in a type that kernels take."""
    known = ids.dtype.name in LABEL_TYPES
    return get_xp(ids).ascontiguousarray(ids, dtype=ids.dtype if known else np.int64)


def pack_of(table: Array, *others: Array) -> int:
    """Columns a thread: 16 bytes of them where rows are whole packs."""
    pack = PACK // int(table.dtype.itemsize)
    return pack if table.shape[1] % pack == 0 and aligned(table, *others) else 1
