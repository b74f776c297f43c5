"""Batches: padded arrays with masks, and the order in which rows reach the model.

    rows = field.encode(texts)
    for batch in text_batches(rows, labels, batch_size=50, seed=1):      # one epoch
        model(batch.ids, batch.mask)

Masks are True on real tokens. Arrays are NumPy, ids and labels int64.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any, Generic, TypeVar

import numpy as np

from gpuprop.errors import DataError
from gpuprop.text.sampler import BatchSampler
from gpuprop.text.vocabulary import BOS, EOS, PAD

IGNORE_INDEX = -100

Row = Sequence[int]
Array = Any


@dataclass(frozen=True, slots=True)
class TextBatch:
    """Rows of one text each. `index` says which rows of the data they are."""

    ids: Array  # (B, L) int64, 0 where padded
    mask: Array  # (B, L) bool
    lengths: Array  # (B,) int64
    labels: Array | None  # (B,) int64
    index: Array  # (B,) int64

    @property
    def size(self) -> int:
        """Number of rows, B."""
        return len(self.lengths)

    @property
    def tokens(self) -> int:
        """Number of real tokens."""
        return int(self.lengths.sum())


@dataclass(frozen=True, slots=True)
class PairBatch:
    """Source and target texts. `target_in` starts with `<s>`; `target_out` is one step ahead and ends with
    `</s>`.
    """

    source: Array  # (B, S) int64, 0 where padded
    source_mask: Array  # (B, S) bool
    source_lengths: Array  # (B,) int64
    target_in: Array  # (B, T) int64, 0 where padded
    target_out: Array  # (B, T) int64, -100 where padded
    target_mask: Array  # (B, T) bool, for target_in and target_out
    index: Array  # (B,) int64

    @property
    def size(self) -> int:
        """Number of rows, B."""
        return len(self.source_lengths)

    @property
    def tokens(self) -> int:
        """Number of target tokens that count in the loss, `</s>` included."""
        return int(self.target_mask.sum())


def pad_rows(
    rows: Sequence[Row], fill: int = PAD, multiple_of: int = 1, min_length: int = 1
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Rows of ids as (ids (B, L) int64, mask (B, L) bool, lengths (B,) int64).

    L is the longest row, at least `min_length`, rounded up to a multiple of `multiple_of`.
    """
    if min_length < 1 or multiple_of < 1:
        raise DataError(f"min_length and multiple_of must be at least 1, got {min_length} and {multiple_of}")
    lengths = np.fromiter(map(len, rows), dtype=np.int64, count=len(rows))
    longest = max(int(lengths.max(initial=0)), min_length)
    longest = -(-longest // multiple_of) * multiple_of
    mask = np.arange(longest) < lengths[:, None]
    ids = np.full(mask.shape, fill, dtype=np.int64)
    ids[mask] = np.fromiter(chain.from_iterable(rows), dtype=np.int64, count=int(lengths.sum()))
    return ids, mask, lengths


def collate_text(
    rows: Sequence[Row],
    labels: Sequence[int] | np.ndarray | None = None,
    index: Sequence[int] | np.ndarray | None = None,
    multiple_of: int = 1,
    min_length: int = 1,
    max_length: int | None = None,
) -> TextBatch:
    """One `TextBatch` of `rows` (lists of ids) and their labels; rows longer than `max_length` are cut."""
    if labels is not None and len(labels) != len(rows):
        raise DataError(f"{len(labels)} labels for {len(rows)} rows")
    if max_length is not None:
        rows = [row[:max_length] for row in rows]
    ids, mask, lengths = pad_rows(rows, PAD, multiple_of, min_length)
    numbers = None if labels is None else np.asarray(labels, dtype=np.int64)
    return TextBatch(ids, mask, lengths, numbers, _index(index, len(rows)))


def collate_pairs(
    sources: Sequence[Row],
    targets: Sequence[Row],
    index: Sequence[int] | np.ndarray | None = None,
    multiple_of: int = 1,
    min_length: int = 1,
    max_length: int | None = None,
) -> PairBatch:
    """One `PairBatch`; `<s>` and `</s>` are added to the targets, after cutting both sides to `max_length`.

    `min_length` is that of the source.
    """
    if len(sources) != len(targets):
        raise DataError(f"{len(sources)} sources for {len(targets)} targets")
    if max_length is not None:
        sources, targets = [row[:max_length] for row in sources], [row[:max_length] for row in targets]
    source, source_mask, source_lengths = pad_rows(sources, PAD, multiple_of, min_length)
    target_in, target_mask, _ = pad_rows([[BOS, *row] for row in targets], PAD, multiple_of)
    target_out, _, _ = pad_rows([[*row, EOS] for row in targets], IGNORE_INDEX, multiple_of)
    return PairBatch(
        source, source_mask, source_lengths, target_in, target_out, target_mask, _index(index, len(sources))
    )


def _index(index: Sequence[int] | np.ndarray | None, rows: int) -> np.ndarray:
    return np.arange(rows) if index is None else np.asarray(index, dtype=np.int64)


Batch = TypeVar("Batch", TextBatch, PairBatch)


class Batches(Generic[Batch]):
    """Iterating gives the batches of one epoch. `text_batches` and `pair_batches` make these."""

    def __init__(self, sampler: BatchSampler, collate: Callable[[np.ndarray], Batch]) -> None:
        self.sampler = sampler
        self.collate: Callable[[np.ndarray], Batch] = collate

    def __iter__(self) -> Iterator[Batch]:
        return map(self.collate, self.sampler)

    def __len__(self) -> int:
        return len(self.sampler)

    @property
    def rows(self) -> int:
        """Rows in the data."""
        return len(self.sampler.lengths)

    @property
    def epoch(self) -> int:
        """Epochs finished so far."""
        return self.sampler.epoch

    def state_dict(self) -> dict[str, int]:
        """See `BatchSampler.state_dict`."""
        return self.sampler.state_dict()

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """See `BatchSampler.load_state_dict`."""
        self.sampler.load_state_dict(state)


def text_batches(
    rows: Sequence[Row],
    labels: Sequence[int] | np.ndarray | None = None,
    batch_size: int | None = None,
    *,
    multiple_of: int = 1,
    min_length: int = 1,
    max_length: int | None = None,
    **order: Any,
) -> Batches[TextBatch]:
    """Batches of encoded texts. `order` goes to `BatchSampler`: batch_tokens, seed, shuffle, bucket, pool.
    multiple_of: lengths are rounded up to it, also where tokens are counted: few shapes, so that a GPU needs
    few graphs of a step."""
    numbers = None if labels is None else np.asarray(labels, dtype=np.int64)
    if numbers is not None and len(numbers) != len(rows):
        raise DataError(f"{len(numbers)} labels for {len(rows)} rows")

    def collate(index: np.ndarray) -> TextBatch:
        chosen = None if numbers is None else numbers[index]
        return collate_text([rows[i] for i in index], chosen, index, multiple_of, min_length, max_length)

    lengths = [_padded_length(row, max_length, multiple_of) for row in rows]
    return Batches(BatchSampler(lengths, batch_size, **order), collate)


def pair_batches(
    sources: Sequence[Row],
    targets: Sequence[Row],
    batch_size: int | None = None,
    *,
    multiple_of: int = 1,
    min_length: int = 1,
    max_length: int | None = None,
    **order: Any,
) -> Batches[PairBatch]:
    """Batches of encoded pairs. `order` goes to `BatchSampler`; tokens are those of both sides, each rounded
    up to `multiple_of`."""
    if len(sources) != len(targets):
        raise DataError(f"{len(sources)} sources for {len(targets)} targets")

    def collate(index: np.ndarray) -> PairBatch:
        chosen = [sources[i] for i in index], [targets[i] for i in index]
        return collate_pairs(*chosen, index, multiple_of, min_length, max_length)

    lengths = np.array(
        [
            (_padded_length(s, max_length, multiple_of), _padded_length(t, max_length, multiple_of, 1))
            for s, t in zip(sources, targets, strict=True)
        ]
    )
    return Batches(BatchSampler(lengths, batch_size, **order), collate)


def _padded_length(row: Row, max_length: int | None, multiple_of: int, more: int = 0) -> int:
    """Tokens of a row, cut and with so many more, up to the next multiple."""
    length = (len(row) if max_length is None else min(len(row), max_length)) + more
    return -(-length // multiple_of) * multiple_of


def restore_order(values: np.ndarray, index: np.ndarray) -> np.ndarray:
    """Puts rows gathered batch by batch back into the order of the data.

    `values` (N, ...) and `index` (N,) are the concatenated results and `index` fields of all batches.
    """
    restored = np.empty_like(values)
    restored[index] = values
    return restored
