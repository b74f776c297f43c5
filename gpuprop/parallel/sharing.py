"""Evaluation shared by the ranks: each computes some of the rows, and all get the results of all."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from .current import current
from .group import Group

_shared: list[Group] = []


@contextlib.contextmanager
def sharing_rows() -> Iterator[None]:
    """Inside, the tasks' evaluation is shared. Every rank must come here, with the same rows."""
    _shared.append(current())
    try:
        yield
    finally:
        _shared.pop()


def my_rows(rows: int) -> np.ndarray[Any, Any]:
    """The numbers of the rows that this rank is to compute: all of them, unless they are shared."""
    group = _shared[-1] if _shared else None
    return np.arange(rows) if group is None else np.arange(group.rank, rows, group.size)


def all_rows(mine: np.ndarray[Any, Any], rows: int) -> np.ndarray[Any, Any]:
    """(rows, ...) from the results for `my_rows`."""
    if not _shared:
        return mine
    whole = np.zeros((rows, *mine.shape[1:]), mine.dtype)
    whole[my_rows(rows)] = mine
    return _shared[-1].all_reduce(whole, what="evaluation")  # the other ranks add zeros: the bits stay


def all_lists(mine: Sequence[Sequence[int]], rows: int) -> list[list[int]]:
    """The lists of numbers of all rows from those of `my_rows`."""
    if not _shared:
        return [list(row) for row in mine]
    lengths = all_rows(np.array([len(row) for row in mine], np.int64), rows)
    padded = np.zeros((len(mine), int(lengths.max(initial=0))), np.int64)
    for row, numbers in zip(padded, mine, strict=True):
        row[: len(numbers)] = numbers
    whole = all_rows(padded, rows)
    return [row[:length].tolist() for row, length in zip(whole, lengths, strict=True)]


def all_sums(*numbers: float) -> list[float]:
    """Each number summed over the ranks that share; as it is where none do."""
    if not _shared:
        return list(numbers)
    return list(map(float, _shared[-1].all_reduce(np.array(numbers, np.float64), what="evaluation")))
