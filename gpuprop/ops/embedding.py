"""Rows of a table by their ids."""

from __future__ import annotations

from typing import Any

import numpy as np

from ..backend import kernels
from ..backend.arrays import Array, get_xp
from ..backprop import Context, Op, Tensor
from ..errors import DataError
from .operands import beside


class Embedding(Op):
    """y = table[ids]     table (V, D)   ids (...,) -> y (..., D)

    dtable[v] = Σ dy over the places where ids == v; the row `padding_idx` gets no gradient.
    """

    @staticmethod
    def forward(ctx: Context, table: Array, *, ids: Array, padding_idx: int | None) -> Array:
        ctx.save(ids, table.shape, padding_idx)
        return table[ids]

    @staticmethod
    def backward(ctx: Context, dy: Array) -> Array:
        ids, shape, padding_idx = ctx.saved
        dtable = get_xp(dy).zeros(shape, dy.dtype)
        add_rows(dtable, ids.reshape(-1), dy.reshape(-1, shape[1]))
        if padding_idx is not None:
            dtable[padding_idx] = 0
        return dtable


def add_rows(table: Array, ids: Array, values: Array) -> None:
    """table[ids] += values, row by row, in place; ids may repeat.

    Sorted by id, the rows of one id are neighbours and are summed in the order in which they came: the same
    result every time, without atomics.   table (V, D)   ids (N,)   values (N, D)
    """
    xp = get_xp(table)
    if ids.size == 0:
        return
    if xp is np:
        order = np.argsort(ids, kind="stable")
        ordered = ids[order]
        starts = np.flatnonzero(np.concatenate(([True], ordered[1:] != ordered[:-1])))
        table[ordered[starts]] += np.add.reduceat(values[order], starts, axis=0)
        return
    ids = ids.astype(np.int64, copy=False)
    order = _stable_order(ids)
    columns = int(table.shape[1])
    kernel = kernels.project("embedding", f"add_sorted_rows<{kernels.c_type(table.dtype)}>")
    kernel(
        (int(ids.size), 1, 1),
        (min(256, -(-columns // 32) * 32), 1, 1),
        (ids[order], order, xp.ascontiguousarray(values), table, np.int64(ids.size), np.int32(columns)),
    )


def _stable_order(ids: Array) -> Array:
    """A permutation that sorts ids and keeps equal ones in order (CuPy's argsort promises no stability)."""
    xp = get_xp(ids)
    n = int(ids.size)
    keys = ids * n + xp.arange(n, dtype=np.int64)
    return xp.argsort(keys)


def embedding(ids: Any, table: Any, *, padding_idx: int | None = None) -> Tensor:
    """Rows of `table` (V, D) at integer `ids` (...,) -> (..., D).

    Raises DataError for ids outside 0..V-1 when they are on the host (a GPU would have to be waited for).
    """
    ids = beside(ids, table)
    if ids.dtype.kind not in "iu":
        raise DataError(f"embedding ids must be integers, not {ids.dtype}")
    if isinstance(ids, np.ndarray) and ids.size:
        rows = int(table.shape[0])
        low, high = int(ids.min()), int(ids.max())
        if low < 0 or high >= rows:
            bad = low if low < 0 else high
            where = tuple(int(i) for i in np.argwhere(ids == bad)[0])
            raise DataError(f"embedding id {bad} at {where} is outside the table of {rows} rows")
    return Embedding.apply(table, ids=ids, padding_idx=padding_idx)
