"""Which rows of a batch are a rank's, after the shuffle that all ranks have in common."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from ..text.batches import Batches


class ShardedBatches:
    """This rank's rows of each of the `batches` of all ranks, padded like the whole batch, so that dropout
    draws the masks of the whole. A batch of fewer rows than ranks leaves some with none.

    Has the length and the position (`state_dict`) of `batches`, on every rank the same.
    """

    def __init__(self, batches: Batches[Any], rank: int, ranks: int) -> None:
        self.batches, self.rank, self.ranks = batches, rank, ranks

    def __iter__(self) -> Iterator[Any]:
        return map(self.part, self.batches.sampler)

    def __len__(self) -> int:
        return len(self.batches)

    def part(self, index: np.ndarray[Any, Any]) -> Any:
        """The batch of this rank's rows of `index`."""
        start, stop = share(len(index), self.rank, self.ranks)
        lengths = self.batches.sampler.lengths[index]
        longest = index[np.unique(lengths.argmax(axis=0))]  # they give the padded length, then they go
        return _first_rows(self.batches.collate(np.concatenate([index[start:stop], longest])), stop - start)

    def state_dict(self) -> dict[str, int]:
        """The position within the batches of all ranks."""
        return self.batches.state_dict()

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go to a position of `state_dict`."""
        self.batches.load_state_dict(state)


def share(rows: int, rank: int, ranks: int) -> tuple[int, int]:
    """(start, stop) of a rank's neighbouring rows; ranks differ by one row at most."""
    return rows * rank // ranks, rows * (rank + 1) // ranks


def _first_rows(batch: Any, rows: int) -> Any:
    """The first rows of a batch of arrays, as wide as it is."""
    parts = {f.name: getattr(batch, f.name) for f in dataclasses.fields(batch)}
    return type(batch)(**{name: None if a is None else a[:rows] for name, a in parts.items()})
