"""What `gpuprop predict` writes for the lines it reads: labels, texts, n best texts, JSON, pictures."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ..errors import DataError, GpupropError
from ..models import Hypothesis
from ..text.vocabulary import UNK
from ..training.attention_picture import Attention
from ..training.classify import Classification
from ..training.curves import figure_class
from ..training.decoding import Decoding
from ..training.seq2seq import SequenceToSequence
from .support import say

_ONE_LINE = str.maketrans("\t\n\r", "   ")


class Answers:
    """A block of output lines for each text. `failed` counts what went wrong beside the reading."""

    failed = 0

    def answer(self, texts: Sequence[str], numbers: Sequence[int]) -> list[str]:
        """The blocks of texts that stand in these lines."""
        raise NotImplementedError(f"{type(self).__name__} needs an answer")

    def refused(self, reason: str) -> str:
        """The block of a line that cannot be read."""
        return "\n"

    def close(self) -> None:
        """Say what is to be said at the end."""


class LabelAnswers(Answers):
    """label<TAB>probability, or {"input", "label", "probability"}."""

    def __init__(self, task: Classification, as_json: bool) -> None:
        self.task, self.as_json = task, as_json

    def answer(self, texts: Sequence[str], numbers: Sequence[int]) -> list[str]:
        if not self.as_json:
            return [f"{line}\n" for line in self.task.predict_lines(texts)]
        return [
            json_line({"input": text, "label": label, "probability": probability})
            for text, (label, probability) in zip(texts, self.task.predict(texts), strict=True)
        ]

    def refused(self, reason: str) -> str:
        return json_line({"input": None, "error": reason}) if self.as_json else "\n"


class WrittenAnswers(Answers):
    """A text a line; of n best n lines text<TAB>score; or {"input", "outputs"}."""

    def __init__(
        self, task: SequenceToSequence, how: Decoding, as_json: bool, pictures: Pictures | None
    ) -> None:
        self.task, self.how, self.as_json, self.pictures = task, how, as_json, pictures
        self.lines, self.strange = 0, 0
        self.example = ""
        # Words are many, and a text may well hold new ones; letters and symbols that are new are a mistake.
        self.strict = task.source.tokenizer.name in ("char", "symbol")

    def answer(self, texts: Sequence[str], numbers: Sequence[int]) -> list[str]:
        sources = self.task.source.encode(texts)
        found = self.task.hypotheses(sources, self.how, [number - 1 for number in numbers])
        unknown = [self._unknown(text, source) for text, source in zip(texts, sources, strict=True)]
        for text, tokens, number, best in zip(texts, unknown, numbers, found, strict=True):
            self._notice(tokens, number)
            if self.pictures is not None:
                self._draw(self.pictures, text, number, best[0])
        return [self._block(*parts) for parts in zip(texts, unknown, found, strict=True)]

    def refused(self, reason: str) -> str:
        return json_line({"input": None, "error": reason}) if self.as_json else "\n" * self.how.n_best

    def close(self) -> None:
        if self.strange:
            say(
                f"{self.strange} of {self.lines} lines hold tokens that the model does not know and reads as "
                f"one and the same, for example {self.example}: spell them as in the training file"
            )

    def _block(self, text: str, unknown: Sequence[str], best: Sequence[Hypothesis]) -> str:
        outputs = [self.task.target.decode(hypothesis.tokens) for hypothesis in best]
        if self.as_json:
            scored = [
                {
                    "text": output,
                    "score": h.score,
                    "log_probability": h.log_probability,
                    "finished": h.finished,
                }
                for output, h in zip(outputs, best, strict=True)
            ]
            return json_line({"input": text, "unknown": list(unknown), "outputs": scored})
        lines = [output.translate(_ONE_LINE) for output in outputs]
        if self.how.n_best > 1:
            lines = [f"{line}\t{h.score:.4f}" for line, h in zip(lines, best, strict=True)]
            lines += [""] * (self.how.n_best - len(lines))
        return "".join(f"{line}\n" for line in lines)

    def _unknown(self, text: str, source: Sequence[int]) -> list[str]:
        """The tokens of a text that the vocabulary lacks, each once, in order."""
        if UNK not in source:
            return []
        tokens = self.task.source.tokens(text)
        return list(dict.fromkeys(t for t, i in zip(tokens, source, strict=False) if i == UNK))

    def _notice(self, unknown: Sequence[str], number: int) -> None:
        self.lines += 1
        if not unknown:
            return
        shown = ", ".join(repr(token) for token in unknown[:3]) + (", ..." if len(unknown) > 3 else "")
        if self.strict:
            self.failed += 1
            say(
                f"standard input, line {number}: {shown} did not occur in training, the answer is a guess: "
                "spell it as in the training file"
            )
            return
        self.strange += 1
        self.example = self.example or f"{unknown[0]!r} in line {number}"

    def _draw(self, pictures: Pictures, text: str, number: int, best: Hypothesis) -> None:
        try:
            pictures.add(self.task.attention(text, best.tokens, best.finished), number)
        except DataError as error:
            say(f"standard input, line {number}: no picture of attention: {error}")
            self.failed += 1


class Pictures:
    """PNG files of attention: `path` for a single line; of several each has the number of its line before the
    suffix."""

    def __init__(self, path: Path) -> None:
        if path.suffix.lower() != ".png":
            raise DataError(f"--attention makes PNG pictures: name a file that ends in .png, not {path}")
        if not path.parent.is_dir():
            raise DataError("there is no such folder; make it, or choose another --attention", path.parent)
        figure_class("picture of attention")
        self.path = path
        self.lines, self.single = 0, 0  # lines so far; which of them has `path`

    def add(self, attention: Attention, number: int) -> None:
        """Draw the attention of a line."""
        self.lines += 1
        if self.lines == 1:
            attention.draw(self.path)
            self.single = number
            return
        if self.single:
            os.replace(self.path, self.numbered(self.single))
            self.single = 0
        attention.draw(self.numbered(number))

    def numbered(self, number: int) -> Path:
        """The file of a line among several."""
        return self.path.with_name(f"{self.path.stem}-{number}{self.path.suffix}")


def json_line(value: dict[str, Any]) -> str:
    """One line of strict JSON."""
    try:
        return json.dumps(value, ensure_ascii=False, allow_nan=False) + "\n"
    except ValueError as error:
        raise GpupropError(f"a score is not a number: {error}; the model's weights are broken") from error
