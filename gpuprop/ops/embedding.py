"""Rows of a table by their ids."""

from __future__ import annotations

from typing import Any

import numpy as np

from ..backend import kernels
from ..backend.arrays import Array, get_xp
from ..backend.buffers import contiguous, empty, zeros
from ..backend.half import wide
from ..backend.threads import over_rows
from ..backprop import Context, Leaf
from ..errors import DataError
from ..op import Op
from ..tensors import Tensor
from .operands import beside

RANKS = 4  # of an id that occurs more often, the later rows are summed on their own


class Embedding(Op):
    """y = table[ids]     table (V, D)   ids (...,) -> y (..., D)

    dtable[v] = Σ dy over the places where ids == v; the row `padding_idx` gets no gradient.
    """

    @staticmethod
    def forward(ctx: Context, table: Array, *, ids: Array, padding_idx: int | None) -> Array:
        ctx.save(ids, table.shape, padding_idx)
        if get_xp(table) is not np:
            return table[ids]
        return rows_of(table, ids.reshape(-1)).reshape(*ids.shape, table.shape[1])

    @staticmethod
    def backward(ctx: Context, dy: Array) -> Array:
        ids, shape, padding_idx = ctx.saved
        xp = get_xp(dy)
        ids, dy = ids.reshape(-1), contiguous(xp, dy).reshape(-1, shape[1])
        if not kernels.usable(dy):
            if padding_idx is not None:
                keep = np.flatnonzero(ids != padding_idx)
                ids, dy = (ids, dy) if keep.size == ids.size else (ids[keep], rows_of(dy, keep))
            dtable, leaf = _cleared(ctx, shape, dy)
            touched = set_rows(dtable, ids, dy)
            if leaf is not None and not leaf.seen:
                leaf.rows = touched
            return dtable
        dtable = ctx.destination(0)
        if dtable is None or not dtable.flags.c_contiguous:
            dtable = empty(xp, shape, dy.dtype)
        dtable.fill(0)
        add_rows(dtable, ids, dy.astype(dtable.dtype, copy=False))
        if padding_idx is not None:
            dtable[padding_idx] = 0
        return dtable


def rows_of(table: Array, ids: Array) -> Array:
    """table[ids] of a NumPy table (V, ...) for ids (N,) that are none outside it -> (N, ...)."""
    y = empty(np, (ids.size, *table.shape[1:]), table.dtype)

    def work(start: int, stop: int) -> None:  # clipping changes none, and is faster than a check
        np.take(table, ids[start:stop], axis=0, out=y[start:stop], mode="clip")

    over_rows(work, ids.size, y.size)
    return y


def _cleared(ctx: Context, shape: tuple[int, ...], dy: Array) -> tuple[Array, Leaf | None]:
    """A table of zeros for the gradient. The optimizer's own is large and mostly zero already: only the rows
    that the last step wrote are cleared, as long as nobody else can have written others."""
    leaf = ctx.leaf(0)
    if leaf is None or leaf.buffer is None:
        return zeros(np, shape, dy.dtype), None
    if leaf.rows is None or leaf.seen:
        leaf.buffer.fill(0)
    else:
        leaf.buffer[leaf.rows] = 0
    leaf.rows = None
    return leaf.buffer, leaf


def set_rows(table: Array, ids: Array, values: Array) -> Array:
    """table[ids] += values for a NumPy table whose rows `ids` are zero; returns the distinct ids.

    table (V, D)   ids (N,)   values (N, D). Sorted by id, equal ids are neighbours: their first rows are
    copied, all at once, then their second rows added, and so on; frequent ids are summed on their own.
    """
    order = np.argsort(ids, kind="stable")
    ordered = ids[order]
    starts = np.flatnonzero(np.concatenate(([ids.size > 0], ordered[1:] != ordered[:-1])))
    counts = np.diff(np.append(starts, ids.size))
    distinct = ordered[starts]
    table[distinct] = rows_of(values, order[starts])
    for k in range(1, RANKS):
        more = np.flatnonzero(counts > k)
        if not more.size:
            return distinct
        sums = rows_of(table, distinct[more])
        sums += rows_of(values, order[starts[more] + k])
        table[distinct[more]] = sums
    for i in np.flatnonzero(counts > RANKS):
        rest = order[starts[i] + RANKS : starts[i] + counts[i]]
        table[distinct[i]] += np.add.reduce(wide(values[rest]), axis=0)
    return distinct


def add_rows(table: Array, ids: Array, values: Array) -> None:
    """table[ids] += values, row by row, in place; ids may repeat.

    Sorted by id, the rows of one id are neighbours and are summed in the order in which they came: the same
    result every time, without atomics.   table (V, D)   ids (N,)   values (N, D)
    """
    xp = get_xp(table)
    if ids.size == 0:
        return
    if not kernels.usable(table):
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
