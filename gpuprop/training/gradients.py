"""Records what training does to each layer, at intervals: gradients.jsonl of a run folder.

A line for each recorded step:

    {"step": 400, "gradient": 0.71, "clipped": 0.05, "layers": {"output": {"activation": 1.2, "flow": 0.03,
     "gradient": 0.4, "weight": 9.1, "update": 0.002, "dead": 0.0}, ...}, "gpu": {"power": 240.0, ...}}

gradient: 2-norm of all gradients before clipping. clipped: share of the steps since the line before whose
norm was above the clip norm. Of a layer: activation, root of the mean square of its outputs y; flow, 2-norm
of dL/dy; gradient, weight, update: 2-norms over its parameters; dead: share of ReLU units that gave 0 for
the whole step. gpu: watts, bytes in use, and joules since the line before. graph: in the first line, pairs of
a layer and one that reads what it puts out. What is not finite is null. Which steps are recorded depends on
their numbers only, so that a training that is stopped and goes on has the same records.
"""

from __future__ import annotations

import contextlib
import json
import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from ..backend.arrays import get_xp, is_cupy, to_host
from ..backprop import watching
from ..errors import CheckpointError, TrainingError
from ..nn.attribution import Layers
from ..nn.module import Module
from ..tensors import Tensor
from ..text.files import open_regular
from .energy import EnergyMeter
from .files import append_line, atomic_write
from .observer import Observer
from .progress import Display
from .step_watch import StepWatch, Values

GRADIENTS = "gradients.jsonl"
ITSELF = "(model)"  # the layer of parameters that belong to no layer

Record = dict[str, Any]


class GradientLog:
    """gradients.jsonl of the run folder `path`. Records wait in memory until `ready()`: a folder is not
    touched before it has its first model. Where the file cannot be written, they wait too, and `warn` is told
    once (default: a TrainingWarning)."""

    def __init__(
        self, path: Path, ready: Callable[[], bool], warn: Callable[[str], None] | None = None
    ) -> None:
        self.path, self.ready, self.warn = path, ready, warn or Display().warn
        self.waiting: list[Record] = []
        self.rewrite = False  # the file: a part of a line may be there, or lines that wait too
        self._warned = False

    def start(self, step: int) -> None:
        """Training begins with this step. Where it was cut off and goes on there are records of this and
        later steps: they are forgotten."""
        self.waiting = [record for record in self.waiting if record["step"] < step]
        if self.ready():
            self._try(lambda: self._write_all(step))

    def append(self, record: Record) -> None:
        """Keep one record."""
        self.waiting.append(record)
        self.flush()

    def flush(self) -> None:
        """Write what waited, where the folder is ready."""
        if not self.waiting or not self.ready():
            return
        if self.rewrite:
            self._try(lambda: self._write_all(self.waiting[-1]["step"] + 1))
        else:
            lines = "".join(map(_line, self.waiting))[:-1]
            self._try(lambda: append_line(self.path / GRADIENTS, lines, sync=False))

    def _write_all(self, before: int) -> None:
        """What is there and what waits, of steps before this one."""
        kept = {r["step"]: r for r in [*read_gradients(self.path), *self.waiting] if r["step"] < before}
        atomic_write(self.path / GRADIENTS, "".join(_line(kept[at]) for at in sorted(kept)).encode())

    def _try(self, write: Callable[[], None]) -> None:
        try:
            write()
            self.waiting, self.rewrite = [], False
        except TrainingError as error:
            self.rewrite = True
            if not self._warned:
                self.warn(f"{error}; training goes on, and {GRADIENTS} is tried again with the next record")
            self._warned = True


def _line(record: Record) -> str:
    return json.dumps(record, allow_nan=False) + "\n"


class GradientRecorder(Observer):
    """Writes a record of every `interval`-th step, the first one included, to `log`; None is what
    `interval_at` says.

    On a GPU the numbers of a record are fetched when the next one is made, so that no step waits for them.
    """

    def __init__(self, log: GradientLog, interval: int | None = None, clip_norm: float | None = None) -> None:
        self.log, self.interval, self.clip_norm = log, interval, clip_norm
        self._layers: Layers | None = None
        self._watch: StepWatch | None = None
        self._watching = contextlib.ExitStack()
        self._gradients: Values = {}
        self._norms: list[Tensor] = []  # of the steps since the record before
        self._counted, self._above = (
            0,
            0,
        )  # of these, steps of the process before, and those that were clipped
        self._pending: Callable[[], Record] | None = None
        self._meter: EnergyMeter | None = None
        self._step = 0
        self._graph_known = False

    def before_step(self, model: Module, step: int) -> None:
        if self._layers is None:
            self._layers = Layers(model)
            self._meter = EnergyMeter(next(model.parameters()).device)
            self.log.start(step)
        self._step = step
        if (step - 1) % (self.interval or interval_at(step)) == 0:
            self._write_pending()
            self._watch = StepWatch(self._layers)
            self._watching.enter_context(watching(self._watch))

    def looks(self) -> bool:
        return self._watch is not None

    def after_backward(self) -> None:
        self._watching.close()
        if self._watch is not None:
            self._gradients = self._watch.gradients()
            self._watch.keep_parameters()

    def after_step(self, norm: Tensor | None) -> None:
        if norm is not None:
            self._norms.append(norm)
        watch, self._watch = self._watch, None
        if watch is not None:
            self._make_record(watch)

    def state_dict(self) -> Record:
        """What the next records depend on, and those that are not written yet. Waits for the device."""
        self._write_pending()
        above = self._above + (int(_above(self._norms, self.clip_norm)) if self._norms else 0)
        return {
            "graph_known": self._graph_known,
            "counted": self._counted + len(self._norms),
            "above": above,
            "waiting": list(self.log.waiting),
        }

    def load_state_dict(self, saved: Mapping[str, Any]) -> None:
        if not _is_state(saved):
            raise CheckpointError(f"the state of {GRADIENTS} is {str(saved)[:80]}")
        self._graph_known, self._norms = saved["graph_known"], []
        self._counted, self._above = saved["counted"], saved["above"]
        self.log.waiting, self.log.rewrite = list(saved["waiting"]), True

    def _make_record(self, watch: StepWatch) -> None:
        values = watch.values() | self._gradients
        graph, self._graph_known = [] if self._graph_known else watch.graph(), True
        clipped = self._share_clipped()
        self._norms, self._gradients, self._counted, self._above = [], {}, 0, 0
        gpu = self._meter.read() if self._meter is not None else None
        more: Record = {"graph": graph} if graph else {}
        more |= {} if gpu is None else {"gpu": gpu}
        self._pending = _deferred(self._step, values, clipped, more)
        if not any(is_cupy(value) for value in values.values()):
            self._write_pending()

    def _share_clipped(self) -> Callable[[], float] | None:
        """Of the steps since the record before, fetched from the device when it is called."""
        if not self._norms or self.clip_norm is None:
            return None
        above, before, steps = (
            _above(self._norms, self.clip_norm),
            self._above,
            self._counted + len(self._norms),
        )
        return lambda: round((before + int(to_host(above))) / steps, 4)

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


def settle_gradients(path: Path, observers: Mapping[str, Any], step: int) -> None:
    """Give gradients.jsonl of a run folder the records up to `step`, those too that waited in a checkpoint's
    state of `observers`."""
    recorder = GradientRecorder(GradientLog(path, lambda: True))
    if (saved := observers.get(type(recorder).__name__)) is not None:
        recorder.load_state_dict(saved)
        recorder.log.start(step + 1)


def interval_at(step: int) -> int:
    """Steps between two records at this step: 1 in the first 5, 5 in the first 30 and 10 in the first 100,
    so that a short training is seen too, then 25, and from 800 on twice as many whenever the number of steps
    has doubled. A record takes about a third of the time of a step of 3 ms on a CPU, and 1.3 times that of
    one of 0.3 ms: of a training of 1,000 steps 2 and 6 %. A million steps give 209 records."""
    early = next((interval for last, interval in ((5, 1), (30, 5), (100, 10)) if step <= last), None)
    return early or 25 << ((step - 1) // 800).bit_length()


def _above(norms: list[Tensor], clip_norm: float | None) -> Any:
    """How many norms are above the clip norm, on the device."""
    return 0 if clip_norm is None else (_stacked([norm.data for norm in norms]) > clip_norm).sum()


def _is_state(saved: Any) -> bool:
    """Whether it is what `GradientRecorder.state_dict` gives."""
    if not isinstance(saved, Mapping) or set(saved) != {"graph_known", "counted", "above", "waiting"}:
        return False
    counted, above, waiting = saved["counted"], saved["above"], saved["waiting"]
    numbers = type(counted) is int and type(above) is int and 0 <= above <= counted < 1 << 63
    records = isinstance(waiting, list) and all(
        isinstance(record, dict) and type(record.get("step")) is int for record in waiting
    )
    return type(saved["graph_known"]) is bool and numbers and records


def _deferred(
    step: int, values: Values, clipped: Callable[[], float] | None, more: Record
) -> Callable[[], Record]:
    """The record, fetched from the device when it is called."""
    numbers = _stacked(list(values.values()))

    def record() -> Record:
        layers: dict[str, Record] = {}
        for (layer, name), number in zip(values, to_host(numbers).tolist(), strict=True):
            value = number if name == "dead" else math.sqrt(max(0.0, number))
            layers.setdefault(layer or ITSELF, {})[name] = _finite(value)
        parts = [of["gradient"] for of in layers.values() if "gradient" in of]
        total = None if None in parts else math.sqrt(sum(g * g for g in parts))
        result: Record = {"step": step, "gradient": _finite(total), "layers": layers}
        if clipped is not None:
            result["clipped"] = clipped()
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
        with open_regular(file) as content:
            return [json.loads(line) for line in content.read().decode("utf-8").split("\n")[:-1]]
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{file}: damaged: {error}; delete it, the model does not need it") from error
