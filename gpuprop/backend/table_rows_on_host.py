"""Rows of NumPy tables, taken and added up by their ids."""

from __future__ import annotations

import numpy as np

from .arrays import Array
from .buffers import empty
from .gemm import matmul as product
from .half import is_half, wide
from .threads import over_rows

FEW = 16  # ids up to which they are taken one by one
BLOCK = 1 << 17  # elements that are added up at a time: they stay in a core's cache


def rows_of(table: Array, ids: Array) -> Array:
    """table[ids] of a NumPy table (V, ...) for ids (N,) that are none outside it -> (N, ...)."""
    y = empty(np, (ids.size, *table.shape[1:]), table.dtype)

    def work(start: int, stop: int) -> None:  # clipping changes none, and is faster than a check
        np.take(table, ids[start:stop], axis=0, out=y[start:stop], mode="clip")

    over_rows(work, ids.size, y.size)
    return y


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
