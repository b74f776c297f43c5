"""The figures of a report as numbers and captions; how they are drawn is in svg.py and pictures.py."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ..progress import score_name

MOST_LINES = 8  # more layers than these are drawn as a map of colours

Record = Mapping[str, Any]
Point = tuple[float, float]


@dataclass(frozen=True)
class Chart:
    """series: name -> (x, y) points, y finite. log: the y axis counts powers of ten; only y above 0 is shown.
    limits: of the y axis, where they are fixed. picture: of which report_<picture>.png it is a part."""

    title: str
    caption: str
    x: str
    y: str
    series: Mapping[str, list[Point]]
    picture: str
    log: bool = False
    limits: tuple[float, float] | None = None

    @property
    def as_map(self) -> bool:
        """Drawn as a map: a row a series, colour for y."""
        return len(self.series) > MOST_LINES


def charts_of(metrics: Sequence[Record], gradients: Sequence[Record]) -> list[Chart]:
    """Every chart there are numbers for."""
    made = [*_curves(metrics), *_whole(gradients), *_layers(gradients), *_parts(gradients), *_gpu(gradients)]
    return [chart for chart in made if any(chart.series.values())]


def layer_names(gradients: Sequence[Record]) -> list[str]:
    """The layers in the model's order."""
    return list(dict.fromkeys(name for record in gradients for name in record["layers"]))


def _curves(metrics: Sequence[Record]) -> list[Chart]:
    losses = {"training": "train_loss", "validation": "valid_loss"}
    scores = {
        score_name(name): name
        for record in metrics[:1]
        for name in record
        if name.startswith("valid_") and name != "valid_loss"
    }
    return [
        Chart(
            "Loss",
            "The mean loss of each epoch. Healthy: both fall; when validation turns up while training goes "
            "on falling, the model learns its rows by heart.",
            "epoch", "loss", _by_epoch(metrics, losses), "curves",
        ),
        Chart(
            "Validation scores",
            "The scores on the validation rows after each epoch. Healthy: they rise (error rates fall) and "
            "level off.",
            "epoch", "score", _by_epoch(metrics, scores), "curves",
        ),
    ]  # fmt: skip


def _whole(gradients: Sequence[Record]) -> list[Chart]:
    norm = {"all parameters": _points(gradients, lambda r: r.get("gradient"), above=0.0)}
    clipped = {"clipped": _points(gradients, lambda r: r.get("clipped"))}
    return [
        Chart(
            "Gradient",
            "The 2-norm of all gradients together, before clipping. Healthy: within one or two powers of "
            "ten, without jumps.",
            "step", "norm", norm, "curves", log=True,
        ),
        Chart(
            "Clipped steps",
            "The share of steps since the record before whose gradient was clipped. Healthy: near 0 after "
            "the start; near 1 the clip norm sets the length of every step.",
            "step", "share", clipped, "curves", limits=(0.0, 1.0),
        ),
    ]  # fmt: skip


def _layers(gradients: Sequence[Record]) -> list[Chart]:
    def of(value: Callable[[Record], float | None], log: bool = True) -> dict[str, list[Point]]:
        found = {
            name: _points(gradients, lambda r, n=name: value(r["layers"].get(n, {})), 0.0 if log else None)  # type: ignore[misc]
            for name in layer_names(gradients)
        }
        return {name: points for name, points in found.items() if points}

    return [
        Chart(
            "Activations",
            "The root mean square of what each layer puts out. Healthy: neither growing without end nor "
            "shrinking to nothing from layer to layer.",
            "step", "root mean square", of(lambda v: v.get("activation")), "layers", log=True,
        ),
        Chart(
            "Gradients of activations",
            "The 2-norm of dL/dy for what each layer puts out: the signal on its way back from the loss. "
            "Healthy: layers stay within a few powers of ten of each other.",
            "step", "norm", of(lambda v: v.get("flow")), "layers", log=True,
        ),
        Chart(
            "Gradients of parameters",
            "The 2-norm of the gradient of each layer's parameters, before clipping. Healthy: layers stay "
            "within a few powers of ten of each other, and fall slowly.",
            "step", "norm", of(lambda v: v.get("gradient")), "layers", log=True,
        ),
        Chart(
            "Updates",
            "How far a step moves each layer's parameters, relative to their own 2-norm. Healthy: about "
            "0.001; above 0.1 the learning rate is too high, below 0.00001 the layer hardly learns.",
            "step", "update / weight", of(relative_update), "layers", log=True,
        ),
        Chart(
            "Dead units",
            "The share of each layer's ReLU units that gave 0 for the whole step. Healthy: near 0; units "
            "that stay dead get no gradient and never come back.",
            "step", "share", of(lambda v: v.get("dead"), log=False), "layers", limits=(0.0, 1.0),
        ),
    ]  # fmt: skip


def _parts(gradients: Sequence[Record]) -> list[Chart]:
    """The parts of an encoder-decoder; none for other models."""
    parts = list(dict.fromkeys(name.split(".")[0] for name in layer_names(gradients)))
    if not {"encoder", "decoder"} <= set(parts):
        return []
    series = {part: _points(gradients, lambda r, p=part: share_of(r, p)) for part in parts}  # type: ignore[misc]
    return [
        Chart(
            "Gradient that reaches the encoder",
            "Each part's share of the squared norm of all gradients. Healthy: the encoder keeps a share of "
            "some percent or more; near 0 the decoder learns without looking at the source.",
            "step", "share", series, "encoder", limits=(0.0, 1.0),
        )
    ]  # fmt: skip


def _gpu(gradients: Sequence[Record]) -> list[Chart]:
    def of(name: str, unit: float) -> list[Point]:
        return _points(gradients, lambda r: r["gpu"][name] / unit if name in r.get("gpu", {}) else None)

    return [
        Chart(
            "GPU power",
            "Power of the GPU when a record was made. Healthy: steady and high; a GPU far below its limit "
            "waits for the CPU.",
            "step", "watts", {"power": of("power", 1.0)}, "gpu",
        ),
        Chart(
            "GPU memory",
            "Memory in use on the GPU, of all processes. Healthy: level after the first epoch.",
            "step", "GiB", {"memory": of("memory", 2**30)}, "gpu",
        ),
    ]  # fmt: skip


def joules(gradients: Sequence[Record]) -> float | None:
    """The energy of the GPU from the first record to the last; None where none was read."""
    found = [r["gpu"]["joules"] for r in gradients if "joules" in r.get("gpu", {})]
    return sum(found) if found else None


def share_of(record: Record, part: str) -> float | None:
    """Of the squared norm of all gradients, that of the layers inside `part`."""
    squares = {
        name: v["gradient"] ** 2 for name, v in record["layers"].items() if v.get("gradient") is not None
    }
    total = sum(squares.values())
    return sum(s for name, s in squares.items() if name.split(".")[0] == part) / total if total else None


def relative_update(values: Record) -> float | None:
    """How far a step moved a layer's parameters, relative to their norm."""
    update, weight = values.get("update"), values.get("weight")
    return update / weight if update is not None and weight else None


def _by_epoch(metrics: Sequence[Record], names: Mapping[str, str]) -> dict[str, list[Point]]:
    series = {
        label: [(float(r["epoch"]), float(r[name])) for r in metrics if r.get(name) is not None]
        for label, name in names.items()
    }
    return {label: points for label, points in series.items() if points}


def _points(
    records: Sequence[Record], value: Callable[[Record], float | None], above: float | None = None
) -> list[Point]:
    """(step, value) where there is a finite one (above `above`)."""
    found = []
    for record in records:
        y = value(record)
        if y is not None and math.isfinite(y) and (above is None or y > above):
            found.append((float(record["step"]), float(y)))
    return found
