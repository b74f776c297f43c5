"""Checks on encoded rows that both tasks make."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from ..errors import DataError
from ..text.field import TextField

LONGEST = 20_000  # ids in a row where texts are not cut: more is a damaged file rather than a text


def check_lengths(
    rows: Sequence[Sequence[int]],
    field: TextField,
    path: str | Path | None = None,
    first_line: int = 1,
    positions: int | None = None,
) -> None:
    """Raise DataError for a row of more than `LONGEST` ids, unless the field cuts texts, or of more than the
    model has `positions`."""
    if field.max_length is not None and positions is None:
        return
    most = most_tokens(field, positions)
    for line, row in enumerate(rows, start=first_line):
        if len(row) > most:
            remedy = "split the text, or train with --max-length N, which cuts every text after N tokens"
            if most == positions:
                remedy += ", or with a larger --max-positions or --positions sinusoidal"
                raise DataError(
                    f"{len(row)} tokens, the model has {positions} positions; {remedy}", path, line
                )
            raise DataError(f"{len(row)} tokens, more than {LONGEST}; {remedy}", path, line)


def most_tokens(field: TextField, positions: int | None = None) -> int:
    """The most ids that `check_lengths` lets a row have."""
    most = LONGEST if field.max_length is None else max(LONGEST, field.max_length)
    return most if positions is None else min(most, positions)
