"""What a decoder attended to while it wrote, as a PNG: source tokens as columns, target tokens as rows."""

from __future__ import annotations

import contextlib
import importlib
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from io import BytesIO
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import DataError
from ..text.field import TextField
from ..text.tokenize import BPETokenizer
from .curves import figure_class
from .files import atomic_write, write_error

FOLDER = "attention"  # of a run: a picture an epoch
MOST = 120  # tokens of a side: the picture is then about a metre wide on paper
LONGEST_LABEL = 18  # letters
SPACE = "␣"
_CELL, _DPI, _FONT = 0.24, 130, 9.0  # inches, dots an inch, points
_FONTS = (
    "DejaVu Sans",
    "Noto Sans",
    "Noto Sans CJK JP",
    "WenQuanYi Zen Hei",
    "Arial Unicode MS",
    "Hiragino Sans",
)
_GREY = "#666666"


@dataclass(frozen=True)
class Attention:
    """weights (T, S), each row adding up to 1, with the S source tokens and the T target tokens."""

    source: list[str]
    target: list[str]
    weights: np.ndarray[Any, Any]

    def draw(self, path: str | Path, title: str = "") -> None:
        """Write the picture. Raises PlotError, with the remedy, where matplotlib is missing, and DataError
        for more than MOST tokens on a side."""
        rows, columns = self.weights.shape
        if max(rows, columns) > MOST:
            raise DataError(f"{max(rows, columns)} tokens are too many to draw, the most are {MOST}")
        figure = figure_class("picture of attention")(figsize=(columns * _CELL, rows * _CELL), dpi=_DPI)
        axes = figure.add_axes((0.0, 0.0, 1.0, 1.0))
        image = axes.imshow(
            self.weights.astype(np.float32),
            cmap="Blues",
            vmin=0.0,
            vmax=1.0,
            aspect="auto",
            interpolation="nearest",
        )
        _label(axes, self.source, self.target)
        scale = figure.add_axes((1.0 + 0.15 / (columns * _CELL), 0.0, 0.09 / (columns * _CELL), 1.0))
        figure.colorbar(image, cax=scale, ticks=[0.0, 0.5, 1.0]).outline.set_visible(False)
        scale.tick_params(labelsize=_FONT - 2, color=_GREY, labelcolor=_GREY, length=2)
        if title:
            axes.set_title(title, fontsize=_FONT, loc="left", color=_GREY, parse_math=False)
        picture = BytesIO()
        with warnings.catch_warnings():  # a script that no font here has: boxes instead of letters
            warnings.filterwarnings("ignore", "Glyph .* missing", UserWarning)
            figure.savefig(picture, format="png", bbox_inches="tight", pad_inches=0.1)
        atomic_write(path, picture.getvalue())


def picture_of_epoch(run: str | Path, epoch: int) -> Path:
    """Where a run keeps the picture drawn after this epoch; makes the folder."""
    folder = Path(run) / FOLDER
    try:
        folder.mkdir(exist_ok=True)
    except OSError as error:
        raise write_error(folder, error) from error
    return folder / f"epoch-{epoch}.png"


def forget_pictures(run: str | Path) -> None:
    """Remove the pictures of all epochs: another training begins in this folder."""
    folder = Path(run) / FOLDER
    for file in folder.glob("epoch-*.png"):
        file.unlink(missing_ok=True)
    with contextlib.suppress(OSError):  # not there, or it holds files of the user's
        folder.rmdir()


def _label(axes: Any, source: Sequence[str], target: Sequence[str]) -> None:
    """Tokens at the edges: columns above, upright where one has more than two letters."""
    fonts = _installed_fonts()
    upright = max(map(len, source)) > 2
    axes.xaxis.tick_top()
    axes.set_xticks(range(len(source)))
    axes.set_xticklabels(
        source, rotation=90 if upright else 0, fontsize=_FONT, family=fonts, parse_math=False
    )
    axes.set_yticks(range(len(target)))
    axes.set_yticklabels(target, fontsize=_FONT, family=fonts, parse_math=False)
    axes.tick_params(length=0, pad=3)
    axes.set_xticks(np.arange(1, len(source)) - 0.5, minor=True)
    axes.set_yticks(np.arange(1, len(target)) - 0.5, minor=True)
    axes.grid(which="minor", color="#e8e8e8", linewidth=0.5)
    axes.tick_params(which="minor", length=0)
    for spine in axes.spines.values():
        spine.set_color("#cccccc")


def _installed_fonts() -> list[str]:
    """Of the fonts that spell many scripts those that are here."""
    manager = importlib.import_module("matplotlib.font_manager")
    here = {font.name for font in manager.fontManager.ttflist}
    return [name for name in _FONTS if name in here] or ["sans-serif"]


def labels(field: TextField, tokens: Sequence[str]) -> list[str]:
    """Tokens as one reads them, nothing endless. Of BPE the letters behind the bytes, without the space
    before a word; a piece that goes on with a word begins with a dot."""
    texts = list(tokens)
    if isinstance(field.tokenizer, BPETokenizer):
        texts = [_letters(field.tokenizer, token) for token in tokens]
        joined = [before[-1:].isalnum() and text[:1].isalnum() for before, text in pairwise(["", *texts])]
        texts = [f"·{t}" if j else t.removeprefix(" ") or t for j, t in zip(joined, texts, strict=True)]
    return [_printable(text) for text in texts]


def _letters(tokenizer: BPETokenizer, token: str) -> str:
    """What a piece spells; as it is where it holds half a letter, or is `</s>`."""
    text = tokenizer.decode([token])
    return text if text and "\ufffd" not in text else token


def _printable(text: str) -> str:
    shown = "".join(SPACE if c == " " else c if c.isprintable() else f"\\x{ord(c):02x}" for c in text)
    return shown if len(shown) <= LONGEST_LABEL else shown[: LONGEST_LABEL - 1] + "…"
