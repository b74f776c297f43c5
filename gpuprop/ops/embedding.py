"""Rows of a table by their ids."""

from __future__ import annotations

from typing import Any

import numpy as np

from ..backend import kernels
from ..backend.arrays import Array, get_xp
from ..backend.buffers import contiguous, empty, zeros
from ..backend.gemm import matmul as product
from ..backend.half import is_half, wide
from ..backend.instantiations import LABEL_TYPES
from ..backend.threads import over_rows
from ..backprop import Context, Leaf
from ..errors import DataError
from ..op import Op
from ..row_gradient import RowGradient
from ..tensors import Tensor
from . import embedding_kernels
from .blockwise import BLOCK
from .operands import beside, data_of, is_array

FEW = 16  # ids up to which they are taken one by one


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


def rows_of(table: Array, ids: Array) -> Array:
    """table[ids] of a NumPy table (V, ...) for ids (N,) that are none outside it -> (N, ...)."""
    y = empty(np, (ids.size, *table.shape[1:]), table.dtype)

    def work(start: int, stop: int) -> None:  # clipping changes none, and is faster than a check
        np.take(table, ids[start:stop], axis=0, out=y[start:stop], mode="clip")

    over_rows(work, ids.size, y.size)
    return y


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


def set_rows(table: Array, ids: Array, values: Array, padding_idx: int | None = None) -> Array:
    """table[v] = Σ values where ids == v, for each id v but `padding_idx`; returns those that were written.

    table (V, D)   ids (N,)   values (N, D), NumPy. The rows of the most frequent ids are summed id by id. Of
    the others the first rows are copied, many at once, then their second rows added, and so on: in the order
    of their counts, those that have a k-th row come first.
    """
    if ids.size <= FEW and not is_half(values.dtype):
        return _set_few_rows(table, ids, values, padding_idx)
    values = wide(values)
    order = sorting(ids)
    ordered = ids[order]
    starts = np.flatnonzero(np.concatenate(([ids.size > 0], ordered[1:] != ordered[:-1])))
    counts = np.diff(np.append(starts, ids.size))
    if padding_idx is not None:
        counts[ordered[starts] == padding_idx] = 0
    falling = np.argsort(-counts, kind="stable")[: np.count_nonzero(counts)]
    starts, counts = starts[falling], counts[falling]
    written = ordered[starts]
    alone = int(np.argmin(np.arange(len(counts) + 1) + np.append(counts, 0)))  # the fewest calls
    _sum_each(table, written[:alone], values, order, starts, counts)
    size = max(1, BLOCK // max(1, values.shape[1]))
    for i in range(alone, len(counts), size):
        part = slice(i, i + size)
        table[written[part]] = _sum_by_rank(values, order, starts[part], counts[part])
    return written


def _set_few_rows(table: Array, ids: Array, values: Array, padding_idx: int | None) -> Array:
    """As `set_rows`, id by id: few ids are not worth sorting."""
    sums: dict[int, Array] = {}
    for v, row in zip(ids.tolist(), values, strict=True):
        if v != padding_idx:
            sums[v] = sums[v] + row if v in sums else row
    for v, row in sums.items():
        table[v] = row
    return np.fromiter(sums, ids.dtype, len(sums))


def _sum_each(table: Array, ids: Array, values: Array, order: Array, starts: Array, counts: Array) -> None:
    """table[ids[i]] = Σ values[order[starts[i] : starts[i] + counts[i]]]."""
    most = int(counts[0]) if len(ids) else 0
    ones, gathered = np.ones((1, most), values.dtype), empty(np, (most, values.shape[1]), values.dtype)
    for row, start, count in zip(ids.tolist(), starts.tolist(), counts.tolist(), strict=False):
        some = gathered[:count]
        np.take(values, order[start : start + count], axis=0, out=some, mode="clip")
        table[row] = product(ones[:, :count], some)[0]  # faster than a sum


def _sum_by_rank(values: Array, order: Array, starts: Array, counts: Array) -> Array:
    """Σ values[order[starts[i] : starts[i] + counts[i]]] for each i, for counts that fall."""
    sums = rows_of(values, order[starts])
    for k in range(1, int(counts[0])):
        more = int(np.searchsorted(-counts, -k))
        sums[:more] += rows_of(values, order[starts[:more] + k])
    return sums


def sorting(ids: Array) -> Array:
    """A permutation that sorts NumPy ids of 0 or more and keeps equal ones in order. By 16 bits at a time,
    for which NumPy has a sort in linear time."""
    order = np.argsort(ids.astype(np.uint16), kind="stable")
    largest = int(ids.max()) if ids.size else 0
    for shift in range(16, largest.bit_length(), 16):
        order = order[np.argsort((ids[order] >> shift).astype(np.uint16), kind="stable")]
    return order


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
