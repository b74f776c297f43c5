"""TextField: a tokenizer and a vocabulary together turn texts into ids and ids into texts."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from gpuprop.errors import DataError
from gpuprop.text.tokenize import Tokenizer, ngrams, tokenizer_from_config
from gpuprop.text.vocabulary import BOS, EOS, PAD, UNK, Vocabulary


class TextField:
    """How one kind of text becomes ids.

    Texts are cut after `max_length` tokens (None: never). With `ngram` above 1 the n-grams follow the words;
    an n-gram that the vocabulary lacks is left out, since only a word's absence is news. A text without any
    token becomes one `<unk>`, so that no row of a batch is empty.
    """

    def __init__(
        self, tokenizer: Tokenizer, vocabulary: Vocabulary, ngram: int = 1, max_length: int | None = None
    ) -> None:
        for name, value in (("ngram", ngram), ("max_length", max_length)):
            if not (type(value) is int and value >= 1) and not (name == "max_length" and value is None):
                raise DataError(f"{name} must be a whole number of at least 1, got {value!r}")
        self.tokenizer, self.vocabulary = tokenizer, vocabulary
        self.ngram, self.max_length = ngram, max_length

    @classmethod
    def build(
        cls,
        texts: Iterable[str],
        tokenizer: Tokenizer,
        min_frequency: int = 1,
        max_size: int | None = None,
        ngram: int = 1,
        max_length: int | None = None,
    ) -> TextField:
        """A field whose vocabulary is counted on `texts` (the training part)."""
        field = cls(tokenizer, Vocabulary.build([]), ngram, max_length)
        counted = (ngrams(field.tokens(text), ngram) for text in texts)
        field.vocabulary = Vocabulary.build(counted, min_frequency, max_size)
        return field

    def tokens(self, text: str) -> list[str]:
        """The tokens of `text` (no n-grams), cut to `max_length`."""
        return self.tokenizer.encode(text)[: self.max_length]

    def ids(self, text: str) -> list[int]:
        """The ids of `text`: its tokens, then the known n-grams; never empty."""
        tokens = self.tokens(text)
        ids = self.vocabulary.ids(tokens)
        if self.ngram > 1:
            find = self.vocabulary.id
            ids += [i for gram in ngrams(tokens, self.ngram)[len(tokens) :] if (i := find(gram)) is not None]
        return ids or [UNK]

    def encode(self, texts: Iterable[str]) -> list[list[int]]:
        """`ids` of every text."""
        return [self.ids(text) for text in texts]

    def decode(self, ids: Iterable[int]) -> str:
        """The text of a sequence of word ids up to the first `</s>`; padding and `<s>` are left out."""
        return self.tokenizer.decode(self.decode_tokens(ids))

    def decode_tokens(self, ids: Iterable[int]) -> list[str]:
        """Like `decode`, as a list of tokens."""
        kept: list[int] = []
        for i in ids:
            if i == EOS:
                break
            if i not in (PAD, BOS):
                kept.append(int(i))
        return self.vocabulary.tokens(kept)

    def unknown(self, rows: Sequence[Sequence[int]]) -> float:
        """The share of ids that are `<unk>`, 0 to 1."""
        total = sum(map(len, rows))
        return sum(list(row).count(UNK) for row in rows) / total if total else 0.0

    def to_config(self) -> dict[str, Any]:
        """JSON values for a run's configuration; the vocabulary has a file of its own."""
        return {"tokenizer": self.tokenizer.to_config(), "ngram": self.ngram, "max_length": self.max_length}

    @classmethod
    def from_config(cls, config: Mapping[str, Any], vocabulary: Vocabulary) -> TextField:
        """The field that `to_config` described. Raises `DataError` for unknown keys or wrong types."""
        if not isinstance(config, Mapping) or set(config) != {"tokenizer", "ngram", "max_length"}:
            raise DataError("a text field is described by exactly: tokenizer, ngram, max_length")
        return cls(
            tokenizer_from_config(config["tokenizer"]), vocabulary, config["ngram"], config["max_length"]
        )

    def __repr__(self) -> str:
        options = f"ngram={self.ngram}, max_length={self.max_length}"
        return f"TextField({self.tokenizer!r}, {self.vocabulary!r}, {options})"
