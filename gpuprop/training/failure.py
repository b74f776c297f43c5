"""What a failed step leaves in the run folder, and the step once more from it.

failure/failure.json          what happened, the random state, how the batches are put together
failure/weights.safetensors   the weights before the step
failure/batch.safetensors     the arrays of its batches
failure/config.json           and the vocabularies, where the run folder still has those of the model before
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields, is_dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ..backend import random
from ..backend.arrays import to_host
from ..errors import CheckpointError
from ..nn.module import Module
from ..tensors import Tensor
from ..text.batches import PairBatch, TextBatch
from ..text.files import open_regular
from .accumulation import backward_of_mean
from .checkpoint import load, save
from .files import write_error, write_json
from .locate import Finder, Finding, find_first
from .precision import Precision
from .resumable import mark

FAILURE = "failure"  # the folder inside the run's
_JSON, _WEIGHTS, _BATCH = "failure.json", "weights.safetensors", "batch.safetensors"
_FORMAT = "gpuprop-failure"
DESCRIPTION = (
    "config.json",
    "vocabulary.json",
    "source_vocabulary.json",
    "target_vocabulary.json",
)  # of a run
_KINDS = {kind.__name__: kind for kind in (TextBatch, PairBatch)}


def named_arrays(batches: Sequence[Any]) -> dict[str, np.ndarray[Any, Any]]:
    """The arrays of a step's batches by name ("0.ids"), on the host."""
    return {
        f"{number}.{name}": to_host(value.data if isinstance(value, Tensor) else value)
        for number, batch in enumerate(batches)
        for name, value in _parts(batch).items()
        if hasattr(value, "dtype") and hasattr(value, "shape")
    }


def save_failure(
    run: str | Path, model: Module, batches: Sequence[Any], random_step: int, record: Mapping[str, Any]
) -> Path:
    """Write the folder `failure` of a run; returns it. Batches that are no arrays are left out."""
    folder = Path(run) / FAILURE
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise write_error(folder, error) from error
    save(model, folder / _WEIGHTS)
    save(named_arrays(batches), folder / _BATCH)
    state = {**mark(None, model)["random"], "step": random_step, "row": random.state.row_offset}
    kinds = [type(batch).__name__ if _parts(batch) else "" for batch in batches]
    write_json(folder / _JSON, {"format": _FORMAT, **record, "random": state, "batches": kinds})
    return folder


def read_failure(run: str | Path) -> dict[str, Any]:
    """failure.json of a run: message, step, epoch, operation, layer. Raises CheckpointError where there is
    none."""
    file = Path(run) / FAILURE / _JSON
    try:
        with open_regular(file) as content:
            record = json.loads(content.read())
    except (OSError, ValueError, RecursionError) as error:
        raise CheckpointError(f"{file}: no failed step can be read here: {error}") from error
    if not isinstance(record, dict) or record.get("format") != _FORMAT:
        raise CheckpointError(f"{file}: was not written by gpuprop")
    return record


def failure_after(run: str | Path, step: int) -> dict[str, Any] | None:
    """failure.json where the training ended with a failed step later than `step`, else None: training went
    on, or the folder holds another one's model, so that the failed step has a configuration of its own."""
    folder = Path(run) / FAILURE
    if not (folder / _JSON).exists() or (folder / DESCRIPTION[0]).exists():
        return None
    record = read_failure(run)
    return record if isinstance(record.get("step"), int) and record["step"] > step else None


def forget_failure(run: str | Path) -> None:
    """Remove the files that `save_failure` made: another training begins in this folder."""
    for name in (_JSON, _WEIGHTS, _BATCH, *DESCRIPTION):
        with contextlib.suppress(OSError):
            (Path(run) / FAILURE / name).unlink()
    with contextlib.suppress(OSError):
        (Path(run) / FAILURE).rmdir()


@dataclass(frozen=True)
class Failure:
    """A failed step read from its folder. record: failure.json."""

    record: dict[str, Any]
    weights: dict[str, np.ndarray[Any, Any]]
    batches: list[Any]

    def replay(
        self,
        model: Module,
        loss: Callable[[Any], Tensor],
        count: Callable[[Any], float] | None = None,
        precision: Precision | None = None,
    ) -> Finding:
        """Give the model the weights of the failed step, compute it once more, and say what was not finite
        first. loss, count: as of the Trainer; precision: None is fp32."""
        model.load_state_dict(self.weights)
        saved, modules = self.record["random"], dict(model.named_modules())
        for name, stream in saved["streams"].items():
            layer, _, attribute = name.rpartition(".")
            if layer in modules:
                setattr(modules[layer], attribute, stream)
        seed, random.state.seed = random.state.seed, int(saved["seed"])
        try:
            with random.rows_from(int(saved.get("row", 0))):
                return replay(
                    model, loss, count or (lambda batch: getattr(batch, "size", 1)), self.batches,
                    int(saved["step"]), precision or Precision(),
                )  # fmt: skip
        finally:
            random.state.seed = seed


def load_failure(run: str | Path) -> Failure:
    """The failed step in the folder `failure` of a run. Raises CheckpointError where there is none."""
    folder, record = Path(run) / FAILURE, read_failure(run)
    arrays = load(folder / _BATCH)
    batches = [_rebuilt(kind, number, arrays) for number, kind in enumerate(record["batches"])]
    return Failure(record, load(folder / _WEIGHTS), batches)


def replay(
    model: Module,
    loss: Callable[[Any], Tensor],
    count: Callable[[Any], float],
    batches: Sequence[Any],
    random_step: int,
    precision: Precision,
) -> Finding:
    """Compute a step once more, without an update, with the random numbers of `random_step`, and say what was
    not finite first."""

    def run(finder: Finder) -> None:
        def checked(batch: Any) -> Tensor:
            value = loss(batch)
            finder.check_loss(value.edge)
            return value

        with precision.computing():
            backward_of_mean(checked, count, batches, precision)

    was_training, before = model.training, random.state.step
    model.train()
    random.state.step = random_step
    random.state.calls.clear()
    try:
        return find_first(model, run, named_arrays(batches))
    finally:
        random.state.step = before
        random.state.calls.clear()
        model.train(was_training)


def _parts(batch: Any) -> dict[str, Any]:
    if is_dataclass(batch) and not isinstance(batch, type):
        return {field.name: getattr(batch, field.name) for field in fields(batch)}
    if isinstance(batch, Mapping):
        return {str(name): value for name, value in batch.items()}
    if isinstance(batch, (list, tuple)):
        return {str(i): value for i, value in enumerate(batch)}
    return {"": batch} if hasattr(batch, "dtype") else {}


def _rebuilt(kind: str, number: int, arrays: Mapping[str, Any]) -> Any:
    prefix = f"{number}."
    parts = {name.removeprefix(prefix): a for name, a in arrays.items() if name.startswith(prefix)}
    if kind in _KINDS:
        made = _KINDS[kind]
        return made(**{field.name: parts.get(field.name) for field in fields(made)})
    if kind == "dict":
        return parts
    if kind in ("list", "tuple"):
        values = [parts[name] for name in sorted(parts, key=int)]
        return tuple(values) if kind == "tuple" else values
    return parts.get("", parts)
