"""The vocabulary: numbering, and files that are not what they should be."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gpuprop.errors import CheckpointError, DataError
from gpuprop.text import SPECIALS, UNK, Vocabulary

TOKENS = st.lists(
    st.lists(st.text(st.characters(exclude_categories=["Cs"]), max_size=4), max_size=20), max_size=10
)


def test_order_is_by_count_then_token() -> None:
    vocabulary = Vocabulary.build([["b", "a", "c"], ["c", "b", "c", "d"]])
    assert vocabulary.entries == (*SPECIALS, "c", "b", "a", "d")
    assert vocabulary.counts == (0, 0, 0, 0, 3, 2, 1, 1)
    assert Vocabulary.build([["d", "c", "b", "c"], ["c", "a", "b"]]) == vocabulary


def test_limits() -> None:
    lists = [["a"] * 3 + ["b"] * 2 + ["c"]]
    assert Vocabulary.build(lists, min_frequency=2).entries[4:] == ("a", "b")
    assert len(Vocabulary.build(lists, max_size=5)) == 5
    with pytest.raises(DataError, match="min_frequency"):
        Vocabulary.build(lists, min_frequency=0)
    with pytest.raises(DataError, match="max_size"):
        Vocabulary.build(lists, max_size=4)


def test_lookups() -> None:
    vocabulary = Vocabulary.build([["a", "b"]])
    assert vocabulary.ids(["b", "zzz", "a"]) == [5, UNK, 4]
    assert vocabulary.tokens([5, 0, 3]) == ["b", "<pad>", "</s>"]
    assert vocabulary.id("a") == 4
    assert vocabulary.id("zzz") is None
    assert "a" in vocabulary
    assert "<s>" in vocabulary
    assert "zzz" not in vocabulary
    assert list(vocabulary) == [*SPECIALS, "a", "b"]
    for wrong in (-1, 6):
        with pytest.raises(DataError, match="outside"):
            vocabulary.tokens([wrong])


def test_text_cannot_spell_a_special() -> None:
    vocabulary = Vocabulary.build([list(SPECIALS) * 3 + ["a"]])
    assert vocabulary.entries == (*SPECIALS, "a")
    assert vocabulary.ids(["<pad>", "</s>", "<s>", "a"]) == [UNK, UNK, UNK, 4]


def test_digest_tells_vocabularies_apart() -> None:
    first, second = Vocabulary.build([["a", "b"]]), Vocabulary.build([["a b"]])
    assert first.digest() != second.digest()
    assert first.digest() == Vocabulary([*SPECIALS, "a", "b"]).digest()
    assert hash(first) == hash(Vocabulary([*SPECIALS, "a", "b"]))
    assert first != second


@given(lists=TOKENS)
def test_known_tokens_round_trip(lists: list[list[str]]) -> None:
    vocabulary = Vocabulary.build(lists)
    counted = Counter(token for tokens in lists for token in tokens if token not in SPECIALS)
    assert dict(zip(vocabulary.entries[4:], vocabulary.counts[4:], strict=True)) == counted
    for tokens in lists:
        known = [token for token in tokens if token not in SPECIALS]
        assert vocabulary.tokens(vocabulary.ids(known)) == known


@given(lists=TOKENS)
def test_file_round_trip(lists: list[list[str]], tmp_path_factory: pytest.TempPathFactory) -> None:
    path = tmp_path_factory.mktemp("vocabulary") / "vocabulary.json"
    vocabulary = Vocabulary.build(lists)
    vocabulary.save(path)
    again = Vocabulary.load(path)
    assert again == vocabulary
    assert again.counts == vocabulary.counts
    assert [file.name for file in path.parent.iterdir()] == ["vocabulary.json"]


def test_saving_into_nowhere_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="No such file"):
        Vocabulary.build([]).save(tmp_path / "missing" / "vocabulary.json")
    assert list(tmp_path.iterdir()) == []


GOOD = [*SPECIALS, "a"]


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"not json",
        b"\xff\xfe",
        b"[" * 100_000,
        b'{"tokens": [' + b"9" * 10_000 + b"]}",
        json.dumps(GOOD).encode(),
        json.dumps({"tokens": "abc"}).encode(),
        json.dumps({"counts": [1]}).encode(),
        json.dumps({"tokens": [*GOOD, 3]}).encode(),
        json.dumps({"tokens": [*GOOD, None]}).encode(),
        json.dumps({"tokens": [*GOOD, "a"]}).encode(),
        json.dumps({"tokens": ["a", "b"]}).encode(),
        json.dumps({"tokens": [*GOOD, "\ud800"]}).encode(),
        json.dumps({"tokens": GOOD, "counts": [1]}).encode(),
        json.dumps({"tokens": GOOD, "counts": [0, 0, 0, 0, -1]}).encode(),
        json.dumps({"tokens": GOOD, "counts": [0, 0, 0, 0, True]}).encode(),
        json.dumps({"tokens": GOOD, "more": 1}).encode(),
    ],
)
def test_hostile_files(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "vocabulary.json"
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match=r"vocabulary\.json"):
        Vocabulary.load(path)


def test_missing_file(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="No such file"):
        Vocabulary.load(tmp_path / "none.json")


def test_not_a_list_of_strings() -> None:
    with pytest.raises(DataError, match="list of strings"):
        Vocabulary("<pad>")
