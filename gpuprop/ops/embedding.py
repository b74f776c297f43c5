"""Rows of a table by their ids."""

from __future__ import annotations

from typing import Any

import numpy as np

from ..backend import kernels
from ..backend.arrays import Array, get_xp
from ..backend.buffers import contiguous, empty, zeros
from ..backend.instantiations import LABEL_TYPES
from ..backend.table_rows_on_host import rows_of, set_rows, sorting
from ..backprop import Context, Leaf
from ..errors import DataError
from ..op import Op
from ..row_gradient import RowGradient
from ..tensors import Tensor
from . import embedding_kernels
from .operands import beside, data_of, is_array


class Embedding(Op):
    """y = table[ids]     table (V, D)   ids (...,) -> y (..., D)

    dtable[v] = Σ dy over the places where ids == v; the row `padding_idx` gets no gradient. With zero_padding
    y is 0 where ids == padding_idx, whatever that row holds. sparse: dtable is a `RowGradient`, where the
    table is a leaf without an optimizer's memory for a whole gradient.
    """

    @staticmethod
    def forward(
        ctx: Context, table: Array, *, ids: Array, padding_idx: int | None, zero_padding: bool = False,
        sparse: bool = False,
    ) -> Array:  # fmt: skip
        ctx.save(ids, table.shape, padding_idx, sparse)
        blank = padding_idx if zero_padding else None
        if embedding_kernels.usable(table, ids):
            return embedding_kernels.forward(table, ids, blank)
        if get_xp(table) is not np:
            return table[ids]
        y = rows_of(table, ids.reshape(-1)).reshape(*ids.shape, table.shape[1])
        if blank is not None and table[blank].any():
            y[ids == blank] = 0
        return y

    @staticmethod
    def backward(ctx: Context, dy: Array) -> Any:
        ids, shape, padding_idx, sparse = ctx.saved
        xp = get_xp(dy)
        ids, dy = ids.reshape(-1), contiguous(xp, dy).reshape(-1, shape[1])
        if sparse and _keeps_rows(ctx):
            kept = ids.dtype if ids.dtype.name in LABEL_TYPES else np.int64
            return RowGradient(ids.astype(kept), dy, shape, padding_idx)  # a copy: the ids are the caller's
        if not kernels.usable(dy):
            return _gradient_on_host(ctx, shape, ids, dy, padding_idx)
        dtable = ctx.destination(0)
        if dtable is None or not dtable.flags.c_contiguous:
            dtable = empty(xp, shape, dy.dtype)
        dtable.fill(0)
        if embedding_kernels.usable(dtable, ids):
            embedding_kernels.add_rows(dtable, ids, dy.astype(dtable.dtype, copy=False), padding_idx)
        return dtable


def _keeps_rows(ctx: Context) -> bool:
    """Whether the gradient of the table goes to a leaf that has no memory for the whole."""
    leaf = ctx.edges[0][0] if ctx.edges and ctx.edges[0] is not None else None
    return isinstance(leaf, Leaf) and leaf.buffer is None


def _gradient_on_host(
    ctx: Context, shape: tuple[int, ...], ids: Array, dy: Array, padding_idx: int | None
) -> Array:
    """dtable for dy (N, D). The optimizer's memory for it is large and mostly zero already: only rows that
    the last step wrote and this one does not are cleared, as long as nobody else can have written others."""
    leaf = ctx.leaf(0)
    if leaf is None or leaf.buffer is None:
        dtable = zeros(np, shape, dy.dtype)
        set_rows(dtable, ids, dy, padding_idx)
        return dtable
    before, leaf.rows = leaf.rows, None
    if before is None or leaf.seen:
        leaf.buffer.fill(0)
        before = None
    written = set_rows(leaf.buffer, ids, dy, padding_idx)
    if before is not None:
        kept = np.zeros(shape[0], bool)
        kept[written] = True
        leaf.buffer[before[~kept[before]]] = 0
    if not leaf.seen:
        leaf.rows = written
    return leaf.buffer


def add_rows(table: Array, ids: Array, values: Array) -> None:
    """table[ids] += values, row by row, in place; ids may repeat.

    Sorted by id, the rows of one id are neighbours and are summed in the order in which they came: the same
    result every time, without atomics.   table (V, D)   ids (N,)   values (N, D)
    """
    if ids.size == 0:
        return
    if embedding_kernels.usable(table, ids):
        embedding_kernels.add_rows(table, ids, values.astype(table.dtype, copy=False))
        return
    order = sorting(ids)
    ordered = ids[order]
    starts = np.flatnonzero(np.concatenate(([True], ordered[1:] != ordered[:-1])))
    table[ordered[starts]] += np.add.reduceat(values[order], starts, axis=0)


def embedding(
    ids: Any, table: Any, *, padding_idx: int | None = None, zero_padding: bool = False, sparse: bool = False
) -> Tensor:
    """Rows of `table` (V, D) at integer `ids` (...,) -> (..., D).

    The row `padding_idx` gets no gradient. zero_padding: it counts as zeros, whatever it holds. sparse: the
    gradient of a table that is a leaf is a `RowGradient`, for `optim.SparseAdam`; the other optimizers have
    memory for all rows, and get an array all the same.
    Raises DataError for ids outside 0..V-1 when they are on the host (a GPU would have to be waited for).
    """
    ids = data_of(ids)
    ids = ids if is_array(ids) else np.asarray(ids)
    check_ids(ids, int(table.shape[0]))
    ids = beside(ids, table)
    if ids.dtype.kind not in "iu":
        raise DataError(f"embedding ids must be integers, not {ids.dtype}")
    return Embedding.apply(table, ids=ids, padding_idx=padding_idx, zero_padding=zero_padding, sparse=sparse)


def check_ids(ids: Any, rows: int) -> None:
    """Raise DataError for an id outside 0..rows-1, where the ids are on the host."""
    if not isinstance(ids, np.ndarray) or not ids.size or ids.dtype.kind not in "iu":
        return
    low, high = int(ids.min()), int(ids.max())
    if low < 0 or high >= rows:
        bad = low if low < 0 else high
        where = tuple(int(i) for i in np.argwhere(ids == bad)[0])
        raise DataError(f"embedding id {bad} at {where} is outside the table of {rows} rows")
