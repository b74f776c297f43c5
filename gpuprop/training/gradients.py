"""Records what training does to each layer, at intervals: gradients.jsonl of a run folder.

A line for each recorded step:

    {"step": 400, "gradient": 0.71, "clipped": 0.05, "layers": {"output": {"activation": 1.2, "flow": 0.03,
     "gradient": 0.4, "weight": 9.1, "update": 0.002, "dead": 0.0}, ...}, "gpu": {"power": 240.0, ...}}

gradient: 2-norm of all gradients before clipping. clipped: share of the steps since the line before whose
norm was above the clip norm. Of a layer: activation, root of the mean square of its outputs y; flow, 2-norm
of dL/dy; gradient, weight, update: 2-norms over its parameters; dead: share of ReLU units that gave 0 for
the whole step. gpu: watts, bytes in use, and joules since the line before. graph: in the first line, pairs of
a layer and one that reads what it puts out. What is not finite is null.
"""

from __future__ import annotations

import contextlib
import json
import math
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ..backend.arrays import get_xp, is_cupy, to_host
from ..backprop import watching
from ..errors import CheckpointError, TrainingError
from ..nn.attribution import Layers
from ..nn.module import Module
from ..tensors import Tensor
from .energy import EnergyMeter
from .files import append_line, atomic_write
from .observer import Observer
from .progress import Display
from .step_watch import StepWatch, Values

GRADIENTS = "gradients.jsonl"
RECORDS = 150  # in a training, or fewer
LEAST_INTERVAL = 10
MOST_TIME = 0.02  # of the training
ITSELF = "(model)"  # the layer of parameters that belong to no layer

Record = dict[str, Any]


class GradientLog:
    """gradients.jsonl of the run folder `path`. Records wait in memory until `ready()`: a folder is not
    touched before it has its first model. Where the file cannot be written, training goes on without it:
    `warn` is told once (default: a TrainingWarning)."""

    def __init__(
        self, path: Path, ready: Callable[[], bool], warn: Callable[[str], None] | None = None
    ) -> None:
        self.path, self.ready, self.warn = path, ready, warn or Display().warn
        self._waiting: list[Record] = []
        self._given_up = False

    def start(self, step: int) -> None:
        """Training begins with this step. Where it was cut off and goes on there are records of this and
        later steps: they are forgotten."""
        self._waiting = []
        if self.ready():
            kept = [record for record in read_gradients(self.path) if record["step"] < step]
            content = "".join(map(_line, kept)).encode()
            self._write(lambda: atomic_write(self.path / GRADIENTS, content))

    def append(self, record: Record) -> None:
        """Keep one record."""
        if not self._given_up:
            self._waiting.append(record)
            self.flush()

    def flush(self) -> None:
        """Write what waited, where the folder is ready."""
        if self._waiting and self.ready():
            lines, self._waiting = "".join(map(_line, self._waiting))[:-1], []
            self._write(lambda: append_line(self.path / GRADIENTS, lines, sync=False))

    def _write(self, write: Callable[[], None]) -> None:
        try:
            write()
        except TrainingError as error:
            self._given_up = True
            self.warn(f"{error}; training goes on without {GRADIENTS}")


def _line(record: Record) -> str:
    return json.dumps(record, allow_nan=False) + "\n"


class GradientRecorder(Observer):
    """Writes a record of every `interval`-th step, the first one included, to `log`.

    most_time: the largest share of the time that recording may take: records that would be too many are left
    out. 1 for no limit.
    On a GPU the numbers of a record are fetched when the next one is made, so that no step waits for them.
    """

    def __init__(
        self, log: GradientLog, interval: int, clip_norm: float | None = None, most_time: float = 1.0
    ) -> None:
        self.log, self.interval, self.clip_norm = log, max(1, interval), clip_norm
        self._layers: Layers | None = None
        self._watch: StepWatch | None = None
        self._watching = contextlib.ExitStack()
        self._gradients: Values = {}
        self._norms: list[Tensor] = []
        self._pending: Callable[[], Record] | None = None
        self._meter: EnergyMeter | None = None
        self._step = 0
        self.most_time = most_time
        self._not_before = -math.inf
        self._graph_known = False

    def before_step(self, model: Module, step: int) -> None:
        if self._layers is None:
            self._layers = Layers(model)
            self._meter = EnergyMeter(next(model.parameters()).device)
            self.log.start(step)
        self._step = step
        if (step - 1) % self.interval == 0 and time.perf_counter() >= self._not_before:
            self._write_pending()
            self._watch = StepWatch(self._layers)
            self._watching.enter_context(watching(self._watch))

    def after_backward(self) -> None:
        self._watching.close()
        if self._watch is not None:
            with self._watch.timed():
                self._gradients = self._watch.gradients()
                self._watch.keep_parameters()

    def after_step(self, norm: Tensor | None) -> None:
        if norm is not None:
            self._norms.append(norm)
        watch, self._watch = self._watch, None
        if watch is None:
            return
        with watch.timed():
            self._make_record(watch)
        if self.most_time < 1.0:
            self._not_before = time.perf_counter() + watch.seconds * (1.0 / self.most_time - 1.0)

    def _make_record(self, watch: StepWatch) -> None:
        values = watch.values() | self._gradients
        graph, self._graph_known = [] if self._graph_known else watch.graph(), True
        clipped, self._norms, self._gradients = self._norms, [], {}
        gpu = self._meter.read() if self._meter is not None else None
        more: Record = {"graph": graph} if graph else {}
        more |= {} if gpu is None else {"gpu": gpu}
        self._pending = _deferred(self._step, values, clipped, self.clip_norm, more)
        if not any(is_cupy(value) for value in values.values()):
            self._write_pending()

    def finish(self) -> None:
        self._watching.close()
        self._watch = None
        self._write_pending()
        self.log.flush()
        if self._meter is not None:
            self._meter.close()
        self._layers = self._meter = None

    def _write_pending(self) -> None:
        pending, self._pending = self._pending, None
        if pending is not None:
            self.log.append(pending())


def interval_of(steps: int) -> int:
    """Steps between two records in a training of so many steps."""
    return max(LEAST_INTERVAL, -(-steps // RECORDS))


def _deferred(
    step: int, values: Values, norms: list[Tensor], clip_norm: float | None, more: Record
) -> Callable[[], Record]:
    """The record, fetched from the device when it is called."""
    numbers, above = _stacked(list(values.values())), None
    if norms and clip_norm is not None:
        above = (_stacked([norm.data for norm in norms]) > clip_norm).mean()

    def record() -> Record:
        layers: dict[str, Record] = {}
        for (layer, name), number in zip(values, to_host(numbers).tolist(), strict=True):
            value = number if name == "dead" else math.sqrt(max(0.0, number))
            layers.setdefault(layer or ITSELF, {})[name] = _finite(value)
        parts = [of["gradient"] for of in layers.values() if "gradient" in of]
        total = None if None in parts else math.sqrt(sum(g * g for g in parts))
        result: Record = {"step": step, "gradient": _finite(total), "layers": layers}
        if above is not None:
            result["clipped"] = round(float(to_host(above)), 4)
        return result | more

    return record


def _stacked(numbers: list[Any]) -> Any:
    """Numbers of one element, on the device or not, as one array."""
    xp = get_xp(*(n for n in numbers if is_cupy(n)))
    return xp.stack([xp.asarray(n, dtype="float32").reshape(()) for n in numbers])


def _finite(value: float | None) -> float | None:
    """Six digits; None for what JSON has no number for."""
    return float(f"{value:.6g}") if value is not None and math.isfinite(value) else None


def read_gradients(path: str | Path) -> list[Record]:
    """The records of a run folder, [] where there are none; a last line cut off by a crash is left out."""
    file = Path(path) / GRADIENTS
    if not file.exists():
        return []
    try:
        return [json.loads(line) for line in file.read_text("utf-8").split("\n")[:-1]]
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{file}: damaged: {error}; delete it, the model does not need it") from error
