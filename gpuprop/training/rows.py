"""Checks on encoded rows that both tasks make."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

from ..errors import DataError
from ..nn.module import Module
from ..text.field import TextField

LENGTHS_ON_GPU = 16
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


def length_step(model: Module) -> int:
    """What the length of a batch is a multiple of: on a GPU a step is a graph for its shape, and padding to
    few lengths costs less than many graphs. It divides the positions of a model that has only so many."""
    if next(model.parameters()).device.type != "cuda":
        return 1
    source, target = (getattr(model, f"longest_{side}", None) for side in ("source", "target"))
    positions = [n for n in (source, target and target + 1) if n is not None]  # a target begins with <s>
    return math.gcd(LENGTHS_ON_GPU, *positions)
