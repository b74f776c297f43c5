"""How an encoder-decoder writes, as one value that commands and tasks hand on."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from ..models import EncoderDecoder, Hypothesis
from ..models.decoding import check_search
from ..text.batches import PairBatch

LENGTH_PENALTY = 1.0  # of beam search (Wu et al. 2016): a beam without one prefers short texts


@dataclass(frozen=True)
class Decoding:
    """By a beam (of 1: greedily) the `n_best` best texts, or with `sample` that many drawn by chance.

    max_length: the most tokens of a text (None: what the task allows). length_penalty: see `beam_search`.
    temperature, top_k, seed: see `sample`. Raises DataError for numbers that mean nothing.
    """

    beam: int = 1
    n_best: int = 1
    max_length: int | None = None
    length_penalty: float = LENGTH_PENALTY
    sample: bool = False
    temperature: float = 1.0
    top_k: int | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        wide = self.n_best if self.sample else self.beam
        check_search(
            1 if self.max_length is None else self.max_length, wide, self.length_penalty, self.n_best
        )

    @property
    def rows(self) -> int:
        """How many rows a source takes up while it is decoded."""
        return 1 if self.sample else self.beam


def written(
    model: EncoderDecoder, batch: PairBatch, how: Decoding, max_length: int, rows: np.ndarray[Any, Any]
) -> list[list[Hypothesis]]:
    """What the model writes for each source of a batch, best first (samples: in the order of drawing).
    max_length: where `how` has none. rows (B,): the numbers by which samples are drawn."""
    longest = max_length if how.max_length is None else how.max_length
    if not how.sample:
        return model.beam(batch.source, batch.source_mask, how.beam, longest, how.length_penalty, how.n_best)
    draws = [
        model.sample(
            batch.source, batch.source_mask, longest, how.temperature, how.top_k, how.seed,
            rows, draw,
        )
        for draw in range(how.n_best)
    ]  # fmt: skip
    return [list(several) for several in zip(*draws, strict=True)]
