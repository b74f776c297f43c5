"""TextField: from texts to ids and back."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gpuprop.errors import DataError
from gpuprop.text import BOS, EOS, PAD, UNK, CharTokenizer, TextField, WhitespaceTokenizer, WordTokenizer

TEXTS = ["a good film", "a bad film", "not a good one"]


def test_words() -> None:
    field = TextField.build(TEXTS, WhitespaceTokenizer(), min_frequency=2)
    assert field.vocabulary.entries[4:] == ("a", "film", "good")
    assert field.encode(["a good day", "film"]) == [[4, 6, UNK], [5]]
    assert field.unknown(field.encode(["a good day", "film"])) == 0.25
    assert field.unknown([]) == 0.0
    assert field.ids("") == [UNK]


def test_ngrams_follow_and_unknown_ones_are_left_out() -> None:
    field = TextField.build(TEXTS, WhitespaceTokenizer(), ngram=2)
    names = field.vocabulary.tokens(field.ids("a good day film"))
    assert names == ["a", "good", "<unk>", "film", "a good"]


def test_texts_are_cut() -> None:
    field = TextField.build(TEXTS, WhitespaceTokenizer(), max_length=2, ngram=2)
    assert "film" not in field.vocabulary
    assert field.vocabulary.tokens(field.ids("a good film")) == ["a", "good", "a good"]


def test_decode_stops_at_the_end_mark() -> None:
    field = TextField.build(TEXTS, WordTokenizer())
    ids = [BOS, *field.ids("a good film"), EOS, *field.ids("bad"), PAD]
    assert field.decode(ids) == "a good film"
    assert field.decode_tokens(ids) == ["a", "good", "film"]
    assert field.decode([]) == ""


@given(st.lists(st.text(min_size=1), min_size=1, max_size=5))
def test_characters_round_trip(texts: list[str]) -> None:
    field = TextField.build(texts, CharTokenizer())
    assert [field.decode(ids) for ids in field.encode(texts)] == texts


def test_config_round_trip() -> None:
    field = TextField.build(TEXTS, WordTokenizer(lowercase=False), ngram=2, max_length=7)
    again = TextField.from_config(json.loads(json.dumps(field.to_config())), field.vocabulary)
    assert again.encode(TEXTS) == field.encode(TEXTS)
    assert (again.tokenizer, again.ngram, again.max_length) == (field.tokenizer, 2, 7)
    assert "ngram=2" in repr(again)


@pytest.mark.parametrize(
    "change",
    [
        {"ngram": 0},
        {"ngram": "2"},
        {"ngram": True},
        {"ngram": None},
        {"max_length": 0},
        {"max_length": 1.5},
        {"tokenizer": None},
        {"more": 1},
    ],
)
def test_hostile_config(change: dict[str, object]) -> None:
    field = TextField.build(TEXTS, WordTokenizer())
    with pytest.raises(DataError):
        TextField.from_config({**field.to_config(), **change}, field.vocabulary)
    with pytest.raises(DataError):
        TextField.from_config({"ngram": 1}, field.vocabulary)
