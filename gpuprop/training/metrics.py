"""Scores of predictions, on the host: accuracy, F1, confusion, exact match, token error rate."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from typing import Any

import numpy as np

from ..errors import DataError, ShapeError

Ints = Any  # a sequence of whole numbers or an integer array


def accuracy(predicted: Ints, wanted: Ints) -> float:
    """The share of equal entries, 0 to 1.   predicted, wanted (N,)"""
    got, want = _same_length(predicted, wanted)
    return float((got == want).mean())


def confusion_matrix(predicted: Ints, wanted: Ints, classes: int) -> np.ndarray[Any, Any]:
    """Counts (classes, classes) int64: the row is the class wanted, the column the class predicted."""
    got, want = _same_length(predicted, wanted)
    for name, values in (("predicted", got), ("wanted", want)):
        if values.min() < 0 or values.max() >= classes:
            bad = int(np.flatnonzero((values < 0) | (values >= classes))[0])
            raise DataError(f"{name} class {values[bad]} in row {bad} is outside 0..{classes - 1}")
    return np.bincount(want * classes + got, minlength=classes * classes).reshape(classes, classes)


def precision_recall_f1(confusion: np.ndarray[Any, Any]) -> dict[str, np.ndarray[Any, Any]]:
    """Arrays (C,) precision, recall, f1, support from a confusion matrix; 0 where nothing was predicted."""
    right = np.diag(confusion).astype(np.float64)
    predicted, support = confusion.sum(axis=0), confusion.sum(axis=1)
    return {
        "precision": _ratio(right, predicted),
        "recall": _ratio(right, support),
        "f1": _ratio(2.0 * right, predicted + support),
        "support": support,
    }


def macro_f1(confusion: np.ndarray[Any, Any]) -> float:
    """The mean F1 of the classes that occur (wanted or predicted), as scikit-learn counts it."""
    seen = (confusion.sum(axis=0) + confusion.sum(axis=1)) > 0
    return float(precision_recall_f1(confusion)["f1"][seen].mean())


def classification_report(predicted: Ints, wanted: Ints, labels: Sequence[str]) -> dict[str, Any]:
    """accuracy, macro_f1, per_class {label: precision, recall, f1, support}, confusion_matrix, labels, n.

    Plain Python values, ready for JSON.
    """
    confusion = confusion_matrix(predicted, wanted, len(labels))
    scores = precision_recall_f1(confusion)
    return {
        "accuracy": accuracy(predicted, wanted),
        "macro_f1": macro_f1(confusion),
        "per_class": {
            label: {name: values[i].item() for name, values in scores.items()}
            for i, label in enumerate(labels)
        },
        "confusion_matrix": confusion.tolist(),
        "labels": list(labels),
        "n": int(confusion.sum()),
    }


def majority_baseline(train: Ints, wanted: Ints) -> float:
    """The accuracy of always saying the class that is most frequent in `train`, measured on `wanted`."""
    seen = np.asarray(train)
    if seen.size == 0:
        raise DataError("the most frequent class of no rows is not defined")
    return float((np.asarray(wanted) == np.bincount(seen).argmax()).mean())


def edit_distance(first: Sequence[Hashable], second: Sequence[Hashable]) -> int:
    """Insertions, deletions and substitutions of tokens that turn one sequence into the other.

    The rows of the Levenshtein table differ by -1, 0 or 1 from cell to cell; these differences are kept as
    the bits of two whole numbers, so one token of `second` costs a few operations on them (Myers 1999, A fast
    bit-vector algorithm for approximate string matching; in the form of Hyyrö 2003).
    """
    if not first:
        return len(second)
    places: dict[Hashable, int] = {}
    for i, token in enumerate(first):
        places[token] = places.get(token, 0) | 1 << i
    full, last = (1 << len(first)) - 1, 1 << (len(first) - 1)
    up, down, distance = full, 0, len(first)  # vertical differences +1 and -1
    for token in second:
        here = places.get(token, 0)
        same = (((here & up) + up) ^ up) | here | down
        right_up, right_down = down | ~(same | up), up & same  # horizontal differences
        distance += bool(right_up & last) - bool(right_down & last)
        right_up, right_down = right_up << 1 | 1, right_down << 1
        up, down = (right_down | ~(same | right_up)) & full, right_up & same & full
    return distance


def exact_match(predicted: Sequence[Sequence[Hashable]], wanted: Sequence[Sequence[Hashable]]) -> float:
    """The share of sequences that are entirely right, 0 to 1."""
    _check_rows(predicted, wanted)
    return sum(list(p) == list(w) for p, w in zip(predicted, wanted, strict=True)) / len(wanted)


def token_error_rate(predicted: Sequence[Sequence[Hashable]], wanted: Sequence[Sequence[Hashable]]) -> float:
    """Edit distances added up, divided by the tokens wanted (word, phoneme or character error rate); may
    pass 1."""
    _check_rows(predicted, wanted)
    errors = sum(edit_distance(p, w) for p, w in zip(predicted, wanted, strict=True))
    return errors / max(1, sum(map(len, wanted)))


def best_references(
    predicted: Sequence[Sequence[Hashable]], references: Sequence[Sequence[Sequence[Hashable]]]
) -> list[Sequence[Hashable]]:
    """Of each row's references the one nearest to what was predicted (the first of equals): a word may have
    several pronunciations, and the closest counts."""
    _check_rows(predicted, references)
    return [
        several[0] if len(several) == 1 else min(several, key=lambda one: edit_distance(guess, one))
        for guess, several in zip(predicted, references, strict=True)
    ]


def _same_length(predicted: Ints, wanted: Ints) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    got, want = np.asarray(predicted), np.asarray(wanted)
    if got.shape != want.shape or got.ndim != 1:
        raise ShapeError(f"predicted and wanted must be (N,) of one length, got {got.shape} and {want.shape}")
    if got.size == 0:
        raise DataError("there are no rows to score")
    return got, want


def _check_rows(predicted: Sequence[Any], wanted: Sequence[Any]) -> None:
    if len(predicted) != len(wanted):
        raise ShapeError(f"{len(predicted)} predictions for {len(wanted)} rows")
    if not wanted:
        raise DataError("there are no rows to score")


def _ratio(above: np.ndarray[Any, Any], below: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    result: np.ndarray[Any, Any] = np.divide(above, below, out=np.zeros(len(above)), where=below > 0)
    return result
