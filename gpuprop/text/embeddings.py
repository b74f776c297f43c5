"""Pretrained word vectors in the text format of GloVe and word2vec: `word v1 v2 ... vd` a line."""

from __future__ import annotations

import lzma
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np

from gpuprop.backend.random import SHUFFLE_STREAM
from gpuprop.errors import DataError
from gpuprop.text.files import open_binary
from gpuprop.text.sampler import philox
from gpuprop.text.vocabulary import PAD, SPECIALS, Vocabulary

VECTOR_STREAM = SHUFFLE_STREAM + 2
_FORM = "each line is a word and its numbers, separated by spaces, as many on every line"


class Vectors(NamedTuple):
    """What `load_vectors` gives; unpacks into (weight, found)."""

    weight: np.ndarray  # (V, d) float32
    found: np.ndarray  # (V,) bool

    @property
    def coverage(self) -> float:
        """Share of the vocabulary's own entries (not the specials) that the file holds, 0 to 1."""
        return float(self.found[len(SPECIALS) :].mean()) if len(self.found) > len(SPECIALS) else 0.0


def load_vectors(path: str | Path, vocabulary: Vocabulary, seed: int = 0) -> Vectors:
    """Reads the vectors of the vocabulary's words from `path` (plain, `.gz` or `.xz`).

    A word that the file lacks gets a vector drawn from uniform(-a, a), where a = sqrt(3 var) gives it the
    variance of the vectors found (Kim 2014, section 3.2); `<pad>` is zero. The first of two equal words
    counts; a header line of two numbers (word2vec) is passed over. Raises `DataError` with the line for a row
    of another length and for a value that is no finite number (in the rows used), and where no word is found
    at all.
    """
    wanted = {token.encode("utf-8"): i for i, token in enumerate(vocabulary) if i >= len(SPECIALS)}
    rows: dict[int, np.ndarray] = {}
    size = 0
    for number, line in _lines(path):
        fields = line.rstrip(b"\r\n").rstrip(b" ").split(b" ")
        if number == 1 and len(fields) == 2 and all(field.isdigit() for field in fields):
            continue
        if not size:
            size = len(fields) - 1
            if size < 1:
                raise DataError(f"no vector; {_FORM}", path, number)
        _check_length(fields, size, path, number)
        i = wanted.get(b" ".join(fields[:-size]))
        if i is not None and i not in rows:
            rows[i] = _numbers(fields[-size:], path, number)
    if not size:
        raise DataError(f"the file holds no vectors; {_FORM}", path)
    if not rows:
        raise DataError(
            f"none of the {len(wanted)} words of the vocabulary is in the file; "
            "compare upper and lower case, language and tokenizer",
            path,
        )
    return _fill(rows, len(vocabulary), size, seed)


def _lines(path: str | Path) -> Iterator[tuple[int, bytes]]:
    with open_binary(path) as file:
        try:
            yield from enumerate(file, start=1)
        except (OSError, EOFError, lzma.LZMAError, zlib.error) as error:
            raise DataError(
                f"cannot be read, the file may be damaged or cut off: {error}; copy it again", path
            ) from error


def _check_length(fields: list[bytes], size: int, path: str | Path, number: int) -> None:
    """A row may be longer only where its word holds spaces (". . ." in GloVe 840B), not where a number is
    too many.
    """
    too_long = len(fields) > size + 1 and _is_number(fields[-size - 1])
    if len(fields) < size + 1 or too_long:
        raise DataError(f"{len(fields) - 1} numbers, but the lines before have {size}; {_FORM}", path, number)


def _is_number(field: bytes) -> bool:
    try:
        float(field)
    except ValueError:
        return False
    return True


def _numbers(fields: list[bytes], path: str | Path, number: int) -> np.ndarray:
    try:
        values = np.array([float(field) for field in fields])
    except ValueError as error:
        raise DataError(f"not a number: {str(error).rsplit(': ', 1)[-1]}; {_FORM}", path, number) from error
    if not (np.abs(values) <= np.finfo(np.float32).max).all():
        raise DataError("a value is not finite in float32; correct or remove the line", path, number)
    return values.astype(np.float32)


def _fill(rows: dict[int, np.ndarray], entries: int, size: int, seed: int) -> Vectors:
    found = np.zeros(entries, dtype=bool)
    found[list(rows)] = True
    known = np.stack([rows[i] for i in sorted(rows)])
    bound = float(np.sqrt(3.0 * known.var(dtype=np.float64)))
    weight = philox(seed, VECTOR_STREAM).uniform(-bound, bound, (entries, size)).astype(np.float32)
    weight[np.flatnonzero(found)] = known
    weight[PAD] = 0.0
    return Vectors(weight, found)
