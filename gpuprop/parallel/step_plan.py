"""What every rank brings to a step, known to all before it is computed."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from .group import Group

_HEAD, _PARTS = 2, 3  # numbers of a rank, and of each of its batches


@dataclass(frozen=True)
class StepPlan:
    """weights, rows, tokens (ranks, batches a step): of each rank's batches, 0 where it has none. batches:
    the most that a rank has; signal: the number of a signal that a rank was sent, else 0."""

    rank: int
    weights: np.ndarray[Any, Any]
    rows: np.ndarray[Any, Any]
    tokens: np.ndarray[Any, Any]
    batches: int
    signal: int

    @property
    def weight(self) -> float:
        """Of all batches together, in the mean loss."""
        return float(self.weights.sum())

    def first_row(self, batch: int) -> int:
        """The number that the first row of this rank's batch has among the rows of the step."""
        return int(self.rows[:, :batch].sum() + self.rows[: self.rank, batch].sum())


def exchange(
    group: Group, batches: Sequence[Any], count: Callable[[Any], float], most: int, signal: int = 0
) -> StepPlan:
    """Tell the other ranks of this one's batches of a step, at most `most`, and hear of theirs."""
    mine = np.zeros(_HEAD + _PARTS * most)
    mine[:_HEAD] = signal, len(batches)
    for k, batch in enumerate(batches):
        rows = getattr(batch, "size", 1)
        mine[_HEAD + _PARTS * k :][:_PARTS] = count(batch) if rows else 0, rows, getattr(batch, "tokens", 0)
    told = group.all_gather(mine)
    parts = told[:, _HEAD:].reshape(group.size, most, _PARTS)
    return StepPlan(
        group.rank,
        parts[:, :, 0],
        parts[:, :, 1].astype(np.int64),
        parts[:, :, 2].astype(np.int64),
        int(told[:, 1].max()),
        int(told[:, 0].max()),
    )
