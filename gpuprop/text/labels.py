"""Labels: their names, their numbers, and rows held out for validation."""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Sequence
from pathlib import Path

import numpy as np

from gpuprop.backend.random import SHUFFLE_STREAM
from gpuprop.errors import DataError
from gpuprop.text.sampler import philox

HOLD_OUT_STREAM = SHUFFLE_STREAM + 1
FEW = 10  # rows of which nothing is suspected


def label_names(labels: Sequence[str]) -> list[str]:
    """The different labels in a fixed order: by value where all are whole numbers, by spelling otherwise."""
    names = sorted(set(labels))
    if all(name.isascii() and name.lstrip("-").isdigit() and name.count("-") <= 1 for name in names):
        names.sort(key=int)
    return names


def check_classes(labels: Sequence[str], path: str | Path | None = None) -> list[str]:
    """The label names of a training file; raises `DataError` where there is only one."""
    names = label_names(labels)
    if len(names) < 2:
        only = f"only the label {names[0]!r} occurs" if names else "there are no rows"
        raise DataError(f"{only}; training a classifier needs at least two different labels", path)
    return names


def doubt(labels: Sequence[str], path: str | Path | None = None) -> str:
    """What the labels of a training file look like when they are not what was meant: columns in the wrong
    order, a header. "" where nothing is suspected."""
    counts = Counter(labels)
    if len(labels) < FEW:
        return ""
    if len(counts) > len(labels) / 2:
        what = f"{len(counts):,} different labels in {len(labels):,} rows"
        return str(DataError(f"{what}: is each line label<TAB>text, in this order?", path))
    if [label for label, count in counts.items() if count == 1] == [labels[0]]:
        what = f"no other line has the label {labels[0]!r}; if it is a header, remove the line"
        return str(DataError(what, path, 1))
    return ""


def label_ids(labels: Sequence[str], names: Sequence[str], path: str | Path | None = None) -> np.ndarray:
    """The number of each label, (rows,) int64. Raises `DataError` with the line of a label that `names`
    lacks.
    """
    numbers = {name: i for i, name in enumerate(names)}
    for row, label in enumerate(labels):
        if label not in numbers:
            shown = ", ".join(names[:20]) + (", ..." if len(names) > 20 else "")
            raise DataError(
                f"unknown label {label!r}; the model knows: {shown}; correct the label, remove the line, "
                "or train with rows of that label",
                path,
                row + 1,
            )
    return np.array([numbers[label] for label in labels], dtype=np.int64)


def hold_out(
    rows: int, fraction: float = 0.1, seed: int = 0, groups: Sequence[Hashable] | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Splits rows 0..rows-1 at random into (kept, held out), both sorted.

    Rows with an equal entry in `groups` (the source of a pair, say) stay on one side. Raises `DataError`
    where either side would be empty.
    """
    if not 0.0 < fraction < 1.0:
        raise DataError(f"the fraction held out must lie between 0 and 1, got {fraction}")
    keys: Sequence[Hashable] = range(rows) if groups is None else groups
    if len(keys) != rows:
        raise DataError(f"{len(keys)} groups for {rows} rows")
    sizes = list(Counter(keys).items())
    wanted, taken = max(1, round(rows * fraction)), 0
    out: set[Hashable] = set()
    for i in philox(seed, HOLD_OUT_STREAM).permutation(len(sizes)):
        if taken >= wanted:
            break
        key, size = sizes[i]
        out.add(key)
        taken += size
    held = np.fromiter((key in out for key in keys), dtype=bool, count=rows)
    if not held.any() or held.all():
        raise DataError(f"{rows} rows are too few to hold out a part for validation; give a validation file")
    return np.flatnonzero(~held), np.flatnonzero(held)
