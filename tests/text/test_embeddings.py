"""Word vectors: the formats that exist, and files that only look like them."""

from __future__ import annotations

import gzip
import lzma
from pathlib import Path

import numpy as np
import pytest

from gpuprop.errors import DataError
from gpuprop.text import Vocabulary, load_vectors

VOCABULARY = Vocabulary.build([["film", "good", "missing", "caf\u00e9"]])


def write(tmp_path: Path, content: str | bytes, name: str = "vectors.txt") -> Path:
    path = tmp_path / name
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


GLOVE = "the 9 9 9\nfilm 0.5 -1 2e-1\ncaf\u00e9 1 2 3\n. . . 7 7 7\ngood 4 5 6\nfilm 8 8 8\n"


@pytest.mark.parametrize("name", ["v.txt", "v.txt.gz", "v.txt.xz"])
@pytest.mark.parametrize("header", ["", "6 3\n"])
@pytest.mark.parametrize("end", ["\n", " \n", "\r\n"])
def test_reads_vectors(tmp_path: Path, name: str, header: str, end: str) -> None:
    content = (header + GLOVE).replace("\n", end).encode()
    if name.endswith("gz"):
        content = gzip.compress(content)
    if name.endswith("xz"):
        content = lzma.compress(content)
    weight, found = load_vectors(write(tmp_path, content, name), VOCABULARY, seed=1)
    assert weight.shape == (8, 3)
    assert weight.dtype == np.float32
    assert [VOCABULARY.entries[i] for i in np.flatnonzero(found)] == ["caf\u00e9", "film", "good"]
    np.testing.assert_array_equal(weight[VOCABULARY.id("film")], np.float32([0.5, -1, 0.2]))
    np.testing.assert_array_equal(weight[VOCABULARY.id("caf\u00e9")], [1, 2, 3])
    assert (weight[0] == 0).all()


def test_missing_words_have_the_variance_of_the_found_ones(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    words = [f"w{i}" for i in range(400)]
    vocabulary = Vocabulary.build([words])
    lines = [f"{w} " + " ".join(f"{v:.5f}" for v in rng.normal(0, 0.4, 50)) for w in words[:200]]
    path = write(tmp_path, "\n".join(lines))
    vectors = load_vectors(path, vocabulary, seed=3)
    missing = vectors.weight[1:][~vectors.found[1:]]
    assert vectors.coverage == 0.5
    assert missing.std() == pytest.approx(0.4, rel=0.03)
    assert abs(missing).max() <= 0.4 * np.sqrt(3) * 1.02
    np.testing.assert_array_equal(load_vectors(path, vocabulary, seed=3).weight, vectors.weight)
    assert (load_vectors(path, vocabulary, seed=4).weight != vectors.weight).any()


@pytest.mark.parametrize(
    ("content", "line", "message"),
    [
        ("", None, "holds no vectors"),
        ("2 3\n", None, "holds no vectors"),
        ("film\n", 1, "no vector"),
        ("film 1 2 3\ngood 1 2\n", 2, "2 numbers, but the lines before have 3"),
        ("film 1 2 3\ngood 1 2 3 4\n", 2, "4 numbers, but the lines before have 3"),
        ("film 1 2 3\n\ngood 1 2 3\n", 2, "0 numbers"),
        ("film 1 x 3\n", 1, "not a number: b'x'"),
        ("film 1 nan 3\n", 1, "not finite"),
        ("film 1 1e60 3\n", 1, "not finite"),
        ("Film 1 2 3\n", None, "none of the 4 words"),
    ],
)
def test_faults(tmp_path: Path, content: str, line: int | None, message: str) -> None:
    with pytest.raises(DataError, match=message) as caught:
        load_vectors(write(tmp_path, content), VOCABULARY)
    assert caught.value.line == line


def test_damaged_and_missing_files(tmp_path: Path) -> None:
    packed = gzip.compress(GLOVE.encode())[:-9]
    with pytest.raises(DataError, match="damaged"):
        load_vectors(write(tmp_path, packed, "v.gz"), VOCABULARY)
    with pytest.raises(DataError, match="no such file"):
        load_vectors(tmp_path / "none", VOCABULARY)
