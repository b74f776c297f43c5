"""Rows of a table and their gradient in kernels (embedding.cu)."""

from __future__ import annotations

import math

from ..backend import kernels
from ..backend.arrays import Array, get_xp
from ..backend.instantiations import LABEL_TYPES
from ..backend.table_rows import CHUNK, MOST_BLOCKS, THREADS, add_rows, integers, pack_of, sort, usable

__all__ = ["CHUNK", "THREADS", "add_rows", "forward", "sort", "usable"]


def forward(table: Array, ids: Array, blank: int | None = None) -> Array:
    """table[ids] for table (V, D) and ids (...,) -> (..., D); NaN for ids outside the table, zeros for the id
    `blank`."""
    xp = get_xp(table)
    y = xp.empty((*ids.shape, table.shape[1]), table.dtype)
    table, ids = xp.ascontiguousarray(table), integers(ids)
    pack = pack_of(table, y)
    types = f"{kernels.c_type(table.dtype)}, {LABEL_TYPES[ids.dtype.name]}, {pack}"
    kernel = kernels.project("embedding", f"embedding_forward<{types}>")
    grid = min(math.ceil(y.size / pack / THREADS), MOST_BLOCKS)
    kernel(grid, THREADS, (table, ids, y, ids.size, *table.shape, -1 if blank is None else blank))
    return y
