"""What a training shows while it runs, on standard error: live on a terminal, a line an epoch elsewhere."""

from __future__ import annotations

import importlib
import math
import os
import sys
import time
import warnings
from collections.abc import Mapping
from types import TracebackType
from typing import Any, TextIO

from ..backend.device import Device
from ..errors import DataError, TrainingWarning

MODES = ("auto", "live", "plain", "off")
SAY_EVERY = 30.0  # seconds between two plain lines within a long epoch
NARROWEST = 7  # letters of a column
_SPELLED = {"bleu": "BLEU", "chrf": "chrF", "rougeL": "ROUGE-L", "wer": "WER", "per": "PER"}


class Display:
    """Shows nothing, and says what a display is told: the calls come in this order, step by step."""

    def __enter__(self) -> Display:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        return None

    def start(self, epochs: int, steps: int | None, device: Device) -> None:
        """Training begins: `epochs` in all, `steps` in each (None where unknown)."""

    def epoch(self, number: int) -> None:
        """Epoch `number`, from 1, begins."""

    def step(self, number: int, loss: float, tokens: int) -> None:
        """Step `number` of the epoch is done; loss: newest known (NaN at first); tokens: in this epoch so
        far."""

    def warn(self, text: str) -> None:
        """Something the user should know of, while training goes on."""
        warnings.warn(text, TrainingWarning, stacklevel=2)

    def validating(self) -> None:
        """The epoch's steps are done; validation begins."""

    def finished(self, record: Mapping[str, Any]) -> None:
        """The epoch is over."""


class Warnings(Display):
    """Shows nothing but what the user should know of, a line each."""

    def __init__(self, stream: TextIO | None = None) -> None:
        self.stream = stream or sys.stderr

    def warn(self, text: str) -> None:
        print(f"warning: {text}", file=self.stream, flush=True)


class PlainDisplay(Display):
    """A line an epoch, and one every half minute within long ones: for logs and pipes."""

    def __init__(self, stream: TextIO | None = None) -> None:
        self.stream = stream or sys.stderr
        self.epochs, self.steps, self.number = 0, None, 0  # type: int, int | None, int
        self.began = self.said = time.monotonic()
        self.headed = False

    def start(self, epochs: int, steps: int | None, device: Device) -> None:
        self.epochs, self.steps, self.headed = epochs, steps, False

    def epoch(self, number: int) -> None:
        self.number = number
        self.began = self.said = time.monotonic()

    def step(self, number: int, loss: float, tokens: int) -> None:
        now = time.monotonic()
        if now - self.said >= SAY_EVERY:
            self.said = now
            of = "" if self.steps is None else f"/{self.steps}"
            rate = speed(tokens, now - self.began)
            self._say(f"  epoch {self.number}/{self.epochs}  step {number}{of}  loss {loss:.4f}  {rate}")

    def warn(self, text: str) -> None:
        self._say(f"warning: {text}")

    def finished(self, record: Mapping[str, Any]) -> None:
        if not self.headed:
            self._say(epoch_header(record))
        self.headed = True
        self._say(epoch_row(record, self.epochs))

    def _say(self, line: str) -> None:
        print(line, file=self.stream, flush=True)


def make_display(mode: str) -> Display:
    """A display by its name: "auto" is live on a terminal and plain elsewhere, "off" shows nothing."""
    if mode not in MODES:
        raise DataError(f"progress is one of {', '.join(MODES)}, not {mode!r}")
    if mode == "off":
        return Display()
    if mode == "live" or (mode == "auto" and sys.stderr.isatty() and os.environ.get("TERM") != "dumb"):
        live: Display = importlib.import_module("gpuprop.training.live").LiveDisplay()  # rich, on first use
        return live
    return PlainDisplay()


def epoch_header(record: Mapping[str, Any]) -> str:
    """The line above the epochs: the names of the columns."""
    return "  ".join(["  epoch", *(name.rjust(NARROWEST) for name, _ in _columns(record)), "seconds"])


def epoch_row(record: Mapping[str, Any], epochs: int) -> str:
    """One epoch in columns as wide as their names, or as most numbers."""
    cells = [f"{record['epoch']}/{epochs}".rjust(7)]
    cells += [f"{value:.4f}".rjust(max(len(name), NARROWEST)) for name, value in _columns(record)]
    cells.append(f"{record['seconds']:.1f}".rjust(7))
    return "  ".join(cells) + ("  best" if record.get("best") else "")


def score_name(name: str) -> str:
    """A recorded score for a reader: "valid_macro_f1" is "macro F1"."""
    name = name.removeprefix("valid_")
    return _SPELLED.get(name) or name.replace("_", " ").replace("f1", "F1")


def _columns(record: Mapping[str, Any]) -> list[tuple[str, float]]:
    losses = [
        (name.replace("_", " "), record[name]) for name in ("train_loss", "valid_loss") if name in record
    ]
    scores = [(score_name(n), v) for n, v in record.items() if n.startswith("valid_") and n != "valid_loss"]
    return losses + scores


def speed(tokens: int, seconds: float) -> str:
    """Tokens a second in few letters: "845", "12.3k", "1.20M tokens/s"; empty where nothing is known."""
    if not tokens or seconds <= 0:
        return ""
    rate = tokens / seconds
    text = f"{rate / 1e6:.2f}M" if rate >= 1e6 else f"{rate / 1e3:.1f}k" if rate >= 1e3 else f"{rate:.0f}"
    return f"{text} tokens/s"


def clock(seconds: float) -> str:
    """Seconds as 0:07, 12:34 or 1:02:03."""
    if not math.isfinite(seconds):
        return "-:--"
    minutes, rest = divmod(round(max(0.0, seconds)), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"
