"""Tokenizers: from a text to a list of tokens and back.

A tokenizer has a `name`, `encode(text)`, `decode(tokens)` and `to_config()`; `tokenizer_from_config` rebuilds
it from the dictionary that `to_config` gave, and trusts nothing in it.
"""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, ClassVar

from gpuprop.errors import DataError

# Everything that is not a space, punctuation or a pictograph belongs to a word. Said this way round,
# combining marks (Devanagari vowels, decomposed accents) stay inside their word, which `\w` does not grant.
_NOT_WORD = (
    r"\s!-/:-@\[-^`{-~\u00a1-\u00a9\u00ab-\u00b1\u00b4\u00b6-\u00b8\u00bb\u00bf\u2010-\u206f\u2190-\u2bff"
    r"\u3001-\u3003\u3008-\u3020\u30fb\uff01-\uff0f\uff1a-\uff20\U0001f000-\U0001faff"
)
_WORD = rf"[^{_NOT_WORD}]"
_CLITIC = r"['\u2019](?:s|m|d|re|ve|ll)"

WORD_PATTERN = (
    rf"n['\u2019]t(?!{_WORD})"  # the second half of "don't"
    rf"|{_WORD}+?(?=n['\u2019]t(?!{_WORD}))"  # and the first
    rf"|{_CLITIC}(?!{_WORD})"  # 's 'm 'd 're 've 'll
    r"|\d+(?:[.,:]\d+)+"  # 1,000 and 3.5 and 10:30
    rf"|{_WORD}+"
    r"|\.{2,}"  # an ellipsis
    r"|\S"  # any other sign, one by one
)
"""What `WordTokenizer` finds by default. Clitics are split off as in Kim (2014) and the Penn Treebank."""

_LONGEST_PATTERN = 2_000
_SPACE_BEFORE = re.compile(rf"(?<={_WORD}) (?=(?:[.,!?;:%)\]]|{_CLITIC}|n['\u2019]t)(?:\s|$))", re.IGNORECASE)
_SPACE_AFTER = re.compile(r"(?:(?<=\s)|(?<=^))([(\[]) (?=\S)")


class Tokenizer(ABC):
    """What all tokenizers share. `name` is the word the command line and saved configurations use."""

    name: ClassVar[str]

    @abstractmethod
    def encode(self, text: str) -> list[str]:
        """The tokens of `text`, in order."""

    @abstractmethod
    def decode(self, tokens: Sequence[str]) -> str:
        """A text made of `tokens`."""

    def to_config(self) -> dict[str, Any]:
        """A dictionary of JSON values that `tokenizer_from_config` turns into an equal tokenizer."""
        return {"name": self.name, **self._options()}

    def _options(self) -> dict[str, Any]:
        return {}

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Tokenizer) and self.to_config() == other.to_config()

    def __hash__(self) -> int:
        return hash((self.name, str(self._options())))

    def __repr__(self) -> str:
        shown = ", ".join(f"{key}={str(value)[:60]!r}" for key, value in self._options().items())
        return f"{type(self).__name__}({shown})"


class WordTokenizer(Tokenizer):
    """Words, clitics, numbers and punctuation found by a regular expression.

    `WordTokenizer().encode("It isn't 3.5 stars!")` gives `it is n't 3.5 stars !`.
    """

    name = "word"

    def __init__(self, lowercase: bool = True, pattern: str = WORD_PATTERN) -> None:
        self.lowercase = _check_flag(self.name, "lowercase", lowercase)
        if not isinstance(pattern, str) or not 0 < len(pattern) <= _LONGEST_PATTERN:
            raise DataError(f"tokenizer 'word': pattern must be 1 to {_LONGEST_PATTERN} characters of text")
        self.pattern = pattern
        try:
            self._find = re.compile(pattern, re.IGNORECASE).finditer
        except (re.error, RecursionError, OverflowError) as error:
            raise DataError(f"tokenizer 'word': bad pattern {pattern!r}: {error}") from error

    def encode(self, text: str) -> list[str]:
        if self.lowercase:
            text = text.lower()
        return [token for match in self._find(text) if (token := match.group())]

    def decode(self, tokens: Sequence[str]) -> str:
        """Joins with spaces, and sets clitics and closing punctuation against the word before them."""
        return _SPACE_AFTER.sub(r"\1", _SPACE_BEFORE.sub("", " ".join(tokens)))

    def _options(self) -> dict[str, Any]:
        return {"lowercase": self.lowercase, "pattern": self.pattern}


class WhitespaceTokenizer(Tokenizer):
    """Splits at white space only: for texts that are tokenised already (MR, SST, Reuters)."""

    name = "whitespace"

    def __init__(self, lowercase: bool = True) -> None:
        self.lowercase = _check_flag(self.name, "lowercase", lowercase)

    def encode(self, text: str) -> list[str]:
        return (text.lower() if self.lowercase else text).split()

    def decode(self, tokens: Sequence[str]) -> str:
        return " ".join(tokens)

    def _options(self) -> dict[str, Any]:
        return {"lowercase": self.lowercase}


class CharTokenizer(Tokenizer):
    """One token a character (a code point), spaces included."""

    name = "char"

    def __init__(self, lowercase: bool = False) -> None:
        self.lowercase = _check_flag(self.name, "lowercase", lowercase)

    def encode(self, text: str) -> list[str]:
        return list(text.lower() if self.lowercase else text)

    def decode(self, tokens: Sequence[str]) -> str:
        return "".join(tokens)

    def _options(self) -> dict[str, Any]:
        return {"lowercase": self.lowercase}


class SymbolTokenizer(Tokenizer):
    """Symbols that a single space separates, such as phonemes: `HH AH L OW`. Nothing is changed."""

    name = "symbol"

    def encode(self, text: str) -> list[str]:
        return [symbol for symbol in text.split(" ") if symbol]

    def decode(self, tokens: Sequence[str]) -> str:
        return " ".join(tokens)


class BPETokenizer(Tokenizer):
    """Byte-level byte-pair encoding (Sennrich et al. 2016; Radford et al. 2019) by the `tokenizers` package.

    Any text comes back unchanged from `decode(encode(text))`, in small letters with `lowercase`. `model` is
    the package's JSON text; make one with `BPETokenizer.train(lines, vocab_size)`.
    """

    name = "bpe"

    def __init__(self, model: str, lowercase: bool = False) -> None:
        self.lowercase = _check_flag(self.name, "lowercase", lowercase)
        if not isinstance(model, str):
            raise DataError("tokenizer 'bpe': model must be the JSON text of a trained tokenizer")
        package = _import_tokenizers()
        try:
            self._tokenizer = package.Tokenizer.from_str(model)
        except Exception as error:  # the package raises bare Exception
            raise DataError(f"tokenizer 'bpe': the model cannot be read: {error}") from error
        # Rebuilt around the merges alone: a file from elsewhere does not get to add steps of its own.
        if not isinstance(self._tokenizer.model, package.models.BPE):
            raise DataError("tokenizer 'bpe': the model is not byte-pair encoding")
        _set_byte_level(package, self._tokenizer)
        self.model = model

    @classmethod
    def train(cls, lines: Iterable[str], vocab_size: int = 8_000, lowercase: bool = False) -> BPETokenizer:
        """Learns merges from `lines` until there are `vocab_size` pieces (at least 257: the bytes and a
        merge).
        """
        if not isinstance(vocab_size, int) or vocab_size < 257:
            raise DataError(
                f"BPE needs a vocabulary of at least 257 pieces (256 bytes and one merge), got {vocab_size}"
            )
        package = _import_tokenizers()
        tokenizer = package.Tokenizer(package.models.BPE())
        _set_byte_level(package, tokenizer)
        trainer = package.trainers.BpeTrainer(
            vocab_size=vocab_size,
            show_progress=False,
            initial_alphabet=sorted(package.pre_tokenizers.ByteLevel.alphabet()),
        )
        tokenizer.train_from_iterator((line.lower() for line in lines) if lowercase else lines, trainer)
        return cls(tokenizer.to_str(), lowercase)

    def encode(self, text: str) -> list[str]:
        text = text.lower() if self.lowercase else text
        return list(self._tokenizer.encode(text, add_special_tokens=False).tokens)

    def decode(self, tokens: Sequence[str]) -> str:
        return str(self._tokenizer.decoder.decode(list(tokens))) if tokens else ""

    def _options(self) -> dict[str, Any]:
        return {"model": self.model, **({"lowercase": True} if self.lowercase else {})}


_TOKENIZERS: dict[str, type[Tokenizer]] = {
    kind.name: kind
    for kind in (WordTokenizer, WhitespaceTokenizer, CharTokenizer, SymbolTokenizer, BPETokenizer)
}
_OPTIONS: dict[str, frozenset[str]] = {
    "word": frozenset({"lowercase", "pattern"}),
    "whitespace": frozenset({"lowercase"}),
    "char": frozenset({"lowercase"}),
    "symbol": frozenset(),
    "bpe": frozenset({"model", "lowercase"}),
}
TOKENIZER_NAMES = tuple(_TOKENIZERS)


def tokenizer_from_config(config: Mapping[str, Any]) -> Tokenizer:
    """The tokenizer that `config` describes; a `DataError` for an unknown name, option or type.

    `tokenizer_from_config({"name": "word"})` gives the defaults.
    """
    if not isinstance(config, Mapping):
        raise DataError(f"a tokenizer is described by a dictionary with a name, got {type(config).__name__}")
    options = dict(config)
    name = options.pop("name", None)
    if not isinstance(name, str) or name not in _TOKENIZERS:
        raise DataError(f"unknown tokenizer {name!r}; known are {', '.join(TOKENIZER_NAMES)}")
    unknown = sorted(str(key) for key in options if key not in _OPTIONS[name])
    if unknown:
        allowed = ", ".join(sorted(_OPTIONS[name])) or "none"
        raise DataError(f"tokenizer {name!r}: unknown option {unknown[0]!r}; its options are: {allowed}")
    if name == "bpe" and "model" not in options:
        raise DataError("tokenizer 'bpe' needs a trained model: use BPETokenizer.train(lines, vocab_size)")
    return _TOKENIZERS[name](**options)


def create_tokenizer(
    name: str, lines: Iterable[str] = (), vocab_size: int = 8_000, **options: Any
) -> Tokenizer:
    """A new tokenizer by its command-line name. `lines` and `vocab_size` are used by `bpe` only, to train
    it.
    """
    if name == "bpe":
        unknown = next((option for option in options if option != "lowercase"), None)
        if unknown is not None:
            raise DataError(f"tokenizer 'bpe': unknown option {unknown!r}; it takes vocab_size, lowercase")
        return BPETokenizer.train(lines, vocab_size, **options)
    return tokenizer_from_config({"name": name, **options})


def ngrams(tokens: Sequence[str], n: int) -> list[str]:
    """The tokens followed by their 2-grams, 3-grams up to `n`-grams, each joined with a space."""
    if n < 1:
        raise DataError(f"the order of n-grams must be at least 1, got {n}")
    grams = list(tokens)
    for order in range(2, n + 1):
        grams.extend(" ".join(tokens[i : i + order]) for i in range(len(tokens) - order + 1))
    return grams


def _check_flag(tokenizer: str, option: str, value: object) -> bool:
    if not isinstance(value, bool):
        raise DataError(f"tokenizer {tokenizer!r}: {option} must be true or false, got {value!r}")
    return value


def _import_tokenizers() -> Any:
    try:
        import tokenizers
    except ImportError as error:
        raise DataError('BPE needs the tokenizers package: pip install "gpuprop[text]"') from error
    return tokenizers


def _set_byte_level(package: Any, tokenizer: Any) -> None:
    tokenizer.pre_tokenizer = package.pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = package.decoders.ByteLevel()
    tokenizer.normalizer = None
    tokenizer.post_processor = None
    tokenizer.no_truncation()
    tokenizer.no_padding()
