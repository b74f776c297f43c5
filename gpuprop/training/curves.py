"""Learning curves as a PNG: losses on the left, validation scores on the right."""

from __future__ import annotations

import importlib
from collections.abc import Mapping, Sequence
from io import BytesIO
from pathlib import Path
from typing import Any

from ..errors import GpupropError
from .files import atomic_write
from .progress import score_name
from .text_metrics import POINTS

MISSING = 'no {}: matplotlib is not installed (pip install "gpuprop[plots]")'
_COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#56b4e9")  # told apart by colour-blind readers too
_DASHES = ("-", "--", "-.", ":", "-")  # equal curves still show
_LEAST_RANGE = 0.1
_LOSSES = ("valid_loss", "valid_perplexity")
_GREY = "#666666"


class PlotError(GpupropError):
    """matplotlib is missing."""


def draw_curves(runs: Mapping[str, Sequence[Mapping[str, Any]]], path: str | Path, title: str = "") -> None:
    """Write a PNG of one or more histories (records of `Trainer.history`), one row of panels a run.

    The best epoch is marked by a dotted line. Raises PlotError, with the remedy, where matplotlib is missing.
    """
    make_figure = figure_class("learning curves")
    shown = {name: list(history) for name, history in runs.items() if history}
    if not shown:
        return
    figure = make_figure(figsize=(8.0, 3.0 * len(shown)), dpi=120, layout="constrained")
    rows = figure.subplots(len(shown), 2, squeeze=False)
    for (name, history), (left, right) in zip(shown.items(), rows, strict=True):
        _panel(left, history, _losses(history), name, "loss")
        _panel(right, history, _scores(history), "", "validation score")
    if title:
        figure.suptitle(title, fontsize=11)
    picture = BytesIO()
    figure.savefig(picture, format="png")
    atomic_write(path, picture.getvalue())


def figure_class(what: str) -> Any:
    """matplotlib's Figure. Raises PlotError, saying `what` there is none of, where it is missing."""
    try:
        figure_module = importlib.import_module("matplotlib.figure")
        importlib.import_module("matplotlib.backends.backend_agg")  # draws without a window
    except ImportError as error:
        raise PlotError(MISSING.format(what)) from error
    return figure_module.Figure


def _panel(
    axes: Any, history: Sequence[Mapping[str, Any]], names: Mapping[str, str], title: str, what: str
) -> None:
    if not names:
        axes.set_axis_off()
        return
    epochs = [record["epoch"] for record in history]
    marker = "o" if len(epochs) <= 30 else None
    for (name, label), colour, dashes in zip(names.items(), _COLOURS, _DASHES, strict=False):
        values = [_scale(name) * record[name] for record in history]
        axes.plot(epochs, values, dashes, marker=marker, markersize=3, color=colour, label=label)
    best = [record["epoch"] for record in history if record.get("best")]
    if best:
        axes.axvline(best[-1], color=_GREY, linestyle=":", linewidth=1, label=f"best: epoch {best[-1]}")
    axes.margins(y=0.15)
    low, high = axes.get_ylim()
    if high - low < _LEAST_RANGE:  # else noise looks like a collapse
        axes.set_ylim((low + high - _LEAST_RANGE) / 2, (low + high + _LEAST_RANGE) / 2)
    axes.set_xlabel("epoch", fontsize=9)
    axes.set_ylabel(what, fontsize=9)
    axes.set_title(title, fontsize=10, loc="left")
    axes.xaxis.get_major_locator().set_params(integer=True)
    axes.tick_params(labelsize=8, color=_GREY)
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(axis="y", color="#e0e0e0", linewidth=0.8)
    axes.set_axisbelow(True)
    axes.legend(fontsize=8, frameon=False)


def _losses(history: Sequence[Mapping[str, Any]]) -> dict[str, str]:
    names = {"train_loss": "training", "valid_loss": "validation"}
    return {name: label for name, label in names.items() if all(name in record for record in history)}


def _scores(history: Sequence[Mapping[str, Any]]) -> dict[str, str]:
    names = [name for name in history[0] if name.startswith("valid_") and name not in _LOSSES]
    return {
        name: score_name(name) + (" / 100" if _scale(name) != 1.0 else "")
        for name in names
        if all(name in record for record in history)
    }


def _scale(name: str) -> float:
    """Scores in points are drawn as fractions, beside the others."""
    return 0.01 if name.removeprefix("valid_") in POINTS else 1.0
