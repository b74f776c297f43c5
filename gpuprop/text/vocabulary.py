"""The vocabulary: tokens to ids and back."""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from gpuprop.errors import CheckpointError, DataError
from gpuprop.text.files import open_regular

PAD, UNK, BOS, EOS = 0, 1, 2, 3
SPECIALS = ("<pad>", "<unk>", "<s>", "</s>")


class Vocabulary:
    """Tokens numbered from 0: `<pad>`, `<unk>`, `<s>`, `</s>`, then the others.

    `tokens` are all entries in the order of their ids, the four specials first. `counts`, where given, says
    how often each was seen in training. Raises `DataError` for duplicates, missing specials or entries that
    are not text.
    """

    def __init__(self, tokens: Sequence[str], counts: Sequence[int] | None = None) -> None:
        if isinstance(tokens, str) or not all(isinstance(token, str) for token in tokens):
            raise DataError("a vocabulary is a list of strings")
        if tuple(tokens[: len(SPECIALS)]) != SPECIALS:
            raise DataError(
                f"a vocabulary starts with {' '.join(SPECIALS)}, got {list(tokens[: len(SPECIALS)])}"
            )
        self.entries = tuple(tokens)
        self._ids = {token: i for i, token in enumerate(self.entries)}
        if len(self._ids) != len(self.entries):
            twice = next(token for token, n in Counter(self.entries).items() if n > 1)
            raise DataError(f"the vocabulary holds {twice!r} twice")
        self.counts = (0,) * len(self.entries) if counts is None else tuple(counts)
        if len(self.counts) != len(self.entries):
            raise DataError(
                f"a vocabulary of {len(self.entries)} tokens cannot have {len(self.counts)} counts"
            )
        # A text that happens to contain "</s>" or "<pad>" must not end a sentence or look like padding.
        self._text_ids = {token: i for token, i in self._ids.items() if i >= len(SPECIALS)}

    @classmethod
    def build(
        cls, token_lists: Iterable[Iterable[str]], min_frequency: int = 1, max_size: int | None = None
    ) -> Vocabulary:
        """Counts the tokens and keeps those seen `min_frequency` times or more, most frequent first.

        Equal counts are ordered by the token itself, so that the order of the data does not matter.
        `max_size` is the greatest length of the vocabulary, the four specials included.
        """
        if min_frequency < 1:
            raise DataError(f"min_frequency must be at least 1, got {min_frequency}")
        if max_size is not None and max_size <= len(SPECIALS):
            raise DataError(f"max_size must be greater than {len(SPECIALS)} (the specials), got {max_size}")
        counter: Counter[str] = Counter()
        for tokens in token_lists:
            counter.update(tokens)
        for special in SPECIALS:
            counter.pop(special, None)
        kept = sorted(
            ((t, n) for t, n in counter.items() if n >= min_frequency), key=lambda item: (-item[1], item[0])
        )
        if max_size is not None:
            kept = kept[: max_size - len(SPECIALS)]
        return cls(
            [*SPECIALS, *(token for token, _ in kept)], [*[0] * len(SPECIALS), *(count for _, count in kept)]
        )

    def __len__(self) -> int:
        return len(self.entries)

    def __contains__(self, token: object) -> bool:
        return token in self._ids

    def __iter__(self) -> Iterator[str]:
        return iter(self.entries)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Vocabulary) and self.entries == other.entries

    def __hash__(self) -> int:
        return hash(self.entries)

    def __repr__(self) -> str:
        return f"Vocabulary({len(self)} tokens)"

    def id(self, token: str) -> int | None:
        """The id of a token of the text, or None where it is unknown."""
        return self._text_ids.get(token)

    def ids(self, tokens: Iterable[str]) -> list[int]:
        """One id a token; unknown tokens, and text that spells a special, become `<unk>` (1)."""
        find = self._text_ids.get
        return [find(token, UNK) for token in tokens]

    def tokens(self, ids: Iterable[int]) -> list[str]:
        """One token an id, specials included. Raises `DataError` for an id out of range."""
        found = []
        for i in ids:
            if not 0 <= i < len(self.entries):
                raise DataError(f"id {i} is outside the vocabulary of {len(self.entries)} tokens")
            found.append(self.entries[i])
        return found

    def digest(self) -> str:
        """SHA-256 (hex) of the entries in order: two runs with equal digests number tokens alike."""
        return hashlib.sha256(json.dumps(self.entries, ensure_ascii=True).encode("ascii")).hexdigest()

    def save(self, path: str | Path) -> None:
        """Writes UTF-8 JSON, `{"tokens": [...], "counts": [...]}`; the old file stays until the new one is
        whole.
        """
        content = json.dumps({"tokens": self.entries, "counts": self.counts}, ensure_ascii=False, indent=0)
        path = Path(path)
        handle, temporary = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
        try:
            with os.fdopen(handle, "w", encoding="utf-8", newline="\n") as file:
                file.write(content + "\n")
            Path(temporary).chmod(0o644)
            os.replace(temporary, path)
        except BaseException:
            Path(temporary).unlink(missing_ok=True)
            raise

    @classmethod
    def load(cls, path: str | Path) -> Vocabulary:
        """Reads what `save` wrote. Raises `CheckpointError` where the file is missing, damaged or something
        else.
        """
        try:
            with open_regular(path) as file:
                content = json.loads(file.read().decode("utf-8"))
        except OSError as error:
            raise CheckpointError(
                f"{path}: the vocabulary cannot be read: {error.strerror}; copy it again or train again"
            ) from error
        except (ValueError, RecursionError) as error:
            raise CheckpointError(
                f"{path}: not a vocabulary (no UTF-8 JSON): {error}; copy it again or train again"
            ) from error
        try:
            return cls(*_check_content(content))
        except DataError as error:
            raise CheckpointError(
                f"{path}: not a vocabulary: {error}; copy it again or train again"
            ) from error


def _check_content(content: Any) -> tuple[list[str], list[int] | None]:
    if not isinstance(content, dict) or not set(content) <= {"tokens", "counts"} or "tokens" not in content:
        raise DataError('expected {"tokens": [...], "counts": [...]}')
    tokens, counts = content["tokens"], content.get("counts")
    if not isinstance(tokens, list) or not all(isinstance(token, str) for token in tokens):
        raise DataError("tokens must be a list of strings")
    for token in tokens:
        if not token.isascii() and any("\ud800" <= letter <= "\udfff" for letter in token):
            raise DataError(f"{token!r} is not text (half of a surrogate pair)")
    if counts is not None and not (
        isinstance(counts, list) and all(type(n) is int and n >= 0 for n in counts)
    ):
        raise DataError("counts must be a list of whole numbers")
    return tokens, counts
