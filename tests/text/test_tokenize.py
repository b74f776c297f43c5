"""Tokenizers: what they find, what they give back, and what they refuse."""

from __future__ import annotations

import json
import sys
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gpuprop.errors import DataError
from gpuprop.text import (
    TOKENIZER_NAMES,
    BPETokenizer,
    CharTokenizer,
    SymbolTokenizer,
    WhitespaceTokenizer,
    WordTokenizer,
    create_tokenizer,
    ngrams,
    tokenizer_from_config,
)

LINES = ["the cat sat on the mat", "the dog sat on the log"] * 20


@pytest.mark.parametrize(
    ("text", "tokens"),
    [
        ("It's good, isn't it?!", "it 's good , is n't it ? !"),
        ("Don't you'll we've they're I'd I'm", "do n't you 'll we 've they 're i 'd i 'm"),
        ("It isn\u2019t over", "it is n\u2019t over"),
        ("can't cannot", "ca n't cannot"),
        ("1,000 films at 10:30 for 3.5 stars, in 2004.", "1,000 films at 10:30 for 3.5 stars , in 2004 ."),
        ("wait... what", "wait ... what"),
        (
            "na\u00efve Stra\u00dfe \u0444\u0438\u043b\u044c\u043c",
            "na\u00efve stra\u00dfe \u0444\u0438\u043b\u044c\u043c",
        ),
        (
            "\u0939\u093f\u0928\u094d\u0926\u0940 \u092e\u0947\u0902",
            "\u0939\u093f\u0928\u094d\u0926\u0940 \u092e\u0947\u0902",
        ),
        ("caf\u0065\u0301", "cafe\u0301"),
        ("great\U0001f600\U0001f600", "great \U0001f600 \U0001f600"),
        ("well-made 'quoted'", "well - made ' quoted '"),
        ("snake_case a/b", "snake_case a / b"),
        (" \t\u3000 ", ""),
    ],
)
def test_words(text: str, tokens: str) -> None:
    assert WordTokenizer().encode(text) == tokens.split(" ") if tokens else WordTokenizer().encode(text) == []


def test_words_keep_case_when_asked() -> None:
    assert WordTokenizer(lowercase=False).encode("ISN'T it") == ["IS", "N'T", "it"]


@pytest.mark.parametrize(
    "text", ["it isn't good, is it?", "the film's end (a good one) pays off!", "3.5 stars."]
)
def test_words_decode_to_readable_text(text: str) -> None:
    tokenizer = WordTokenizer()
    assert tokenizer.decode(tokenizer.encode(text)) == text


@given(st.text())
def test_words_lose_nothing_but_space(text: str) -> None:
    tokens = WordTokenizer(lowercase=False).encode(text)
    assert "".join(tokens) == "".join(text.split())
    assert all(token and not token.isspace() for token in tokens)


@pytest.mark.parametrize(
    "text", ["a" * 300_000, "n't" * 100_000, "a'" * 150_000, "1," * 150_000, "." * 300_000]
)
def test_words_take_linear_time(text: str) -> None:
    start = time.perf_counter()
    WordTokenizer().encode(text)
    assert time.perf_counter() - start < 30.0


def test_own_pattern() -> None:
    tokenizer = WordTokenizer(pattern=r"(a)|(b*)")
    assert tokenizer.encode("aXbbY") == ["a", "bb"]


@given(st.text())
def test_characters_round_trip(text: str) -> None:
    tokenizer = CharTokenizer()
    assert tokenizer.decode(tokenizer.encode(text)) == text
    assert len(tokenizer.encode(text)) == len(text)


@given(st.lists(st.text(st.characters(exclude_characters=" "), min_size=1)))
def test_symbols_round_trip(symbols: list[str]) -> None:
    tokenizer = SymbolTokenizer()
    assert tokenizer.encode(tokenizer.decode(symbols)) == symbols


@given(st.text())
def test_whitespace_round_trip(text: str) -> None:
    tokenizer = WhitespaceTokenizer(lowercase=False)
    tokens = tokenizer.encode(text)
    assert tokenizer.encode(tokenizer.decode(tokens)) == tokens
    assert tokens == text.split()


@pytest.fixture(scope="module")
def bpe() -> BPETokenizer:
    pytest.importorskip("tokenizers")
    return BPETokenizer.train(LINES, 280)


@given(text=st.text())
def test_bpe_round_trip(bpe: BPETokenizer, text: str) -> None:
    assert bpe.decode(bpe.encode(text)) == text


def test_bpe_merges_what_is_frequent(bpe: BPETokenizer) -> None:
    assert len(bpe.encode("the cat sat on the mat")) < len("the cat sat on the mat") / 2
    assert BPETokenizer.train(LINES, 280) == bpe


def test_bpe_refuses(bpe: BPETokenizer) -> None:
    with pytest.raises(DataError, match="257"):
        BPETokenizer.train(LINES, 10)
    with pytest.raises(DataError, match="cannot be read"):
        BPETokenizer("{}")
    other = json.loads(bpe.model)
    other["model"] = {"type": "WordLevel", "vocab": {"a": 0}, "unk_token": "a"}
    with pytest.raises(DataError, match="not byte-pair"):
        BPETokenizer(json.dumps(other))


def test_bpe_without_the_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tokenizers", None)
    with pytest.raises(DataError, match=r'pip install "gpuprop\[text\]"'):
        BPETokenizer.train(LINES)


@pytest.mark.parametrize("name", TOKENIZER_NAMES)
def test_config_round_trip(name: str) -> None:
    if name == "bpe":
        pytest.importorskip("tokenizers")
    tokenizer = create_tokenizer(name, LINES, 270)
    config = json.loads(json.dumps(tokenizer.to_config()))
    again = tokenizer_from_config(config)
    assert again == tokenizer
    assert hash(again) == hash(tokenizer)
    assert type(again) is type(tokenizer)
    assert again.encode("The cat's mat") == tokenizer.encode("The cat's mat")
    assert name in TOKENIZER_NAMES
    assert type(tokenizer).__name__ in repr(tokenizer)


@pytest.mark.parametrize(
    "config",
    [
        None,
        [],
        "word",
        {},
        {"name": 3},
        {"name": ["word"]},
        {"name": "__class__"},
        {"name": "word", "lowercase": 1},
        {"name": "word", "extra": True},
        {"name": "word", 3: True},
        {"name": "word", "pattern": "("},
        {"name": "word", "pattern": ""},
        {"name": "word", "pattern": None},
        {"name": "word", "pattern": "a" * 100_000},
        {"name": "char", "pattern": "a"},
        {"name": "symbol", "lowercase": True},
        {"name": "bpe"},
        {"name": "bpe", "model": 5},
        {"name": "bpe", "model": "not json"},
    ],
)
def test_hostile_config(config: object) -> None:
    with pytest.raises(DataError):
        tokenizer_from_config(config)  # type: ignore[arg-type]


def test_ngrams() -> None:
    assert ngrams(["a", "b", "c"], 1) == ["a", "b", "c"]
    assert ngrams(["a", "b", "c"], 3) == ["a", "b", "c", "a b", "b c", "a b c"]
    assert ngrams(["a"], 2) == ["a"]
    assert ngrams([], 2) == []
    with pytest.raises(DataError):
        ngrams(["a"], 0)
