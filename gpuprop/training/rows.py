"""Checks on encoded rows that both tasks make."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from ..errors import DataError
from ..text.field import TextField

LONGEST = 20_000  # ids in a row where texts are not cut: more is a damaged file rather than a text


def check_lengths(
    rows: Sequence[Sequence[int]], field: TextField, path: str | Path | None = None, first_line: int = 1
) -> None:
    """Raise DataError for a row of more than `LONGEST` ids, unless the field cuts texts."""
    if field.max_length is not None:
        return
    for line, row in enumerate(rows, start=first_line):
        if len(row) > LONGEST:
            raise DataError(
                f"{len(row)} tokens, more than {LONGEST}; split the text, or train with --max-length N, "
                "which cuts every text after N tokens",
                path,
                line,
            )
