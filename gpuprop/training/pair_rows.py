"""Encoded pairs of texts, and the same pairs as questions with one or several right answers."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True)
class Questions:
    """Sources to decode, each with its right answers: lists of tokens (uncut), and the texts they are of."""

    sources: list[list[int]]
    references: list[list[list[str]]]
    texts: list[list[str]]

    def __len__(self) -> int:
        return len(self.sources)

    def first(self, rows: int) -> Questions:
        """The first so many."""
        return Questions(self.sources[:rows], self.references[:rows], self.texts[:rows])


@dataclass(frozen=True)
class PairRows:
    """Encoded pairs, row i from line i + 1: ids of both sides, the target's tokens as they stand in the file
    (uncut), and the two texts themselves."""

    sources: list[list[int]]
    targets: list[list[int]]
    references: list[list[str]]
    source_texts: list[str]
    target_texts: list[str]

    def __len__(self) -> int:
        return len(self.sources)

    def lengths(self) -> list[int]:
        """Tokens of each row, both sides."""
        return [len(s) + len(t) for s, t in zip(self.sources, self.targets, strict=True)]

    def take(self, index: Iterable[int]) -> PairRows:
        """Some of the rows."""
        chosen = list(index)
        return PairRows(
            [self.sources[i] for i in chosen],
            [self.targets[i] for i in chosen],
            [self.references[i] for i in chosen],
            [self.source_texts[i] for i in chosen],
            [self.target_texts[i] for i in chosen],
        )

    def repeated(self) -> bool:
        """Whether a source stands in several rows."""
        return len(set(self.source_texts)) < len(self)

    def questions(self, group: bool) -> Questions:
        """One question a row; with `group` one a source, whose rows are its several answers."""
        rows: dict[str | int, list[int]] = {}
        for i, text in enumerate(self.source_texts):
            rows.setdefault(text if group else i, []).append(i)
        return Questions(
            [self.sources[same[0]] for same in rows.values()],
            [[self.references[i] for i in same] for same in rows.values()],
            [[self.target_texts[i] for i in same] for same in rows.values()],
        )
