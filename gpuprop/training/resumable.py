"""A trainer's whole state as one nested dict or file, and back: checked first, then taken over."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from ..backend import random
from ..errors import CheckpointError
from ..nn.module import Module
from ..optim import Optimizer, Schedule
from .checkpoint_folder import CheckpointFolder
from .divergence import check_divergence
from .observer import Observer
from .state_file import read_state, write_state
from .training_state import Record, TrainingState

_STREAMS = ("stream", "_stream")  # attributes of layers that draw random numbers
_MAY_BE_NOTHING = ("schedule.best",)
_PARTS = ("optimizer", "schedule", "precision")  # of a trainer, where they have a state


class Stateful(Protocol):
    """What has a state beside the trainer's own."""

    def state_dict(self) -> dict[str, Any]: ...

    def load_state_dict(self, saved: Mapping[str, Any]) -> None: ...


class Resumable:
    """The part of `Trainer` that saves a training and goes on with it."""

    model: Module
    optimizer: Optimizer
    schedule: Schedule | None
    checkpoints: CheckpointFolder | None
    patience: int | None
    on_best: Callable[[Record], None] | None
    state: TrainingState
    best_weights: dict[str, np.ndarray[Any, Any]] | None
    mark: dict[str, Any]
    observers: list[Observer]
    guard: Stateful
    _position: Any

    def state_dict(self) -> dict[str, Any]:
        """All that training needs to go on with the same bits: nested dicts of JSON values and host arrays.

        {"training": where it stands, and the history, "model": weights, "best": those of the best epoch (None
        where "model" has them), "optimizer", "schedule", "guard", "observers", "random", "batches": where
        they stand}. Take it between two steps or in `on_epoch`; after `fit` the model holds its best weights,
        not the last ones.
        """
        last_is_best = self.state.progress is None and self.state.best_epoch == self.state.epoch
        return {
            "training": self.state.state_dict(),
            "model": self.model.state_dict(),
            "best": None if self.state.best is None or last_is_best else self.best_weights,
            **{name: part.state_dict() for name, part in self._parts().items()},
            "guard": self.guard.state_dict(),
            "observers": {type(o).__name__: state for o in self.observers if (state := o.state_dict())},
            **self.mark,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on where `state_dict` was taken, in a trainer that is made in the same way.

        Raises CheckpointError, before anything changes, where the state is of another model, optimizer or
        schedule. `fit` then needs batches of the same data, size and seed.
        """
        self._check(state)
        for observer in self.observers:
            if type(observer).__name__ in state["observers"]:
                observer.load_state_dict(state["observers"][type(observer).__name__])
        if "guard" in state:
            self.guard.load_state_dict(state["guard"])
        self.state.load_state_dict(state["training"])
        self.model.load_state_dict(state["model"])
        for name, part in self._parts().items():
            part.load_state_dict(state[name])
        self.best_weights = state["best"]
        if state["best"] is None and self.state.best is not None:
            self.best_weights = self.model.state_dict()
        _restore_random(self.model, state["random"])
        self.mark = {"random": state["random"], "batches": state["batches"]}
        self._position = state["batches"]

    def save(self, path: str | Path) -> None:
        """Write `state_dict` to one file, atomically. TrainingError where that fails."""
        write_state(path, self.state_dict())

    def load(self, path: str | Path) -> None:
        """Read what `save` wrote. CheckpointError, naming the file, where it is damaged or does not fit."""
        self._restore_from(path, read_state(path))

    def resume(self) -> Path | None:
        """Load the newest whole checkpoint of `checkpoints`; returns its file, None where there is none."""
        found = None if self.checkpoints is None else self.checkpoints.latest()
        if found is None:
            return None
        self._restore_from(*found)
        return found[0]

    def _restore_from(self, path: str | Path, state: Mapping[str, Any]) -> None:
        try:
            self.load_state_dict(state)
        except CheckpointError as error:
            raise CheckpointError(f"{path}: {error}") from error

    def _take_position(self, batches: Iterable[Any]) -> None:
        """Put batches that know a position where the loaded state stands."""
        position, self._position = self._position, None
        if position is not None and hasattr(batches, "load_state_dict"):
            batches.load_state_dict(position)
        self.mark = {**self.mark, "random": mark(None, self.model)["random"]}

    def _put_back(self, batches: Iterable[Any]) -> None:
        """What was taken since the last step is still to come."""
        if hasattr(batches, "load_state_dict"):
            batches.load_state_dict(self.mark["batches"])

    def finished(self, epochs: int) -> bool:
        """Whether `epochs` epochs are done, or no better one came for `patience`."""
        out_of_patience = self.patience is not None and self.state.waited >= self.patience
        return self.state.progress is None and (self.state.epoch >= epochs or out_of_patience)

    def _keep_unfinished(self) -> None:
        """Interrupted in the first epoch: what there is is the best there is."""
        if self.best_weights is None and self.state.step:
            self.best_weights = self.model.state_dict()
            if self.on_best is not None:
                self.on_best({"epoch": self.state.epoch, "step": self.state.step})

    def _restore_best(self) -> None:
        if self.best_weights is not None:
            self.model.load_state_dict(self.best_weights)
        self.model.eval()

    def _parts(self) -> dict[str, Any]:
        """What has a state beside the model: name -> an object with `state_dict` and `load_state_dict`."""
        found = {name: getattr(self, name, None) for name in _PARTS}
        return {name: part for name, part in found.items() if hasattr(part, "state_dict")}

    def _check(self, saved: Mapping[str, Any]) -> None:
        if not isinstance(saved, Mapping):
            raise CheckpointError(f"a trainer's state is a dictionary, not {type(saved).__name__}")
        own = self.state_dict()
        missing = [name for name in own if name not in saved and name != "guard"]  # older ones have none
        if missing:
            raise CheckpointError(f"the checkpoint has no {', '.join(missing)}; it is of another trainer")
        for name in ("model", *self._parts()):
            _check_alike(own[name], saved[name], name)
        TrainingState().load_state_dict(saved["training"])
        _check_finite(saved["model"], "model")
        if saved["best"] is not None:
            _check_alike(own["model"], saved["best"], "best")
            _check_finite(saved["best"], "best")
        _check_random(own["random"], saved["random"])
        if "guard" in saved:
            check_divergence(saved["guard"])
        if not isinstance(saved["observers"], Mapping):
            raise CheckpointError(f"the state of the observers is {saved['observers']!r}")
        if saved["batches"] is not None and not isinstance(saved["batches"], Mapping):
            raise CheckpointError(f"the position of the batches is {saved['batches']!r}")


def mark(batches: Any, model: Module) -> dict[str, Any]:
    """What must be noted right after a step, before the next batch is taken: the random state and where the
    batches stand."""
    streams = {f"{name}.{attribute}": stream for name, attribute, stream in _streams(model)}
    return moved({"random": {"streams": streams}}, batches)


def moved(before: Mapping[str, Any], batches: Any) -> dict[str, Any]:
    """The mark after a further step: layers keep their streams, so that no walk over them is needed."""
    position = batches.state_dict() if hasattr(batches, "state_dict") else None
    streams = before["random"]["streams"]
    return {"random": {**random.state.state_dict(), "streams": streams}, "batches": position}


def _streams(model: Module) -> list[tuple[str, str, int]]:
    """(layer, attribute, stream) of the layers that draw random numbers."""
    return [
        (name, attribute, value)
        for name, module in model.named_modules()
        for attribute in _STREAMS
        if type(value := vars(module).get(attribute)) is int
    ]


def _restore_random(model: Module, saved: Mapping[str, Any]) -> None:
    random.state.load_state_dict(saved)
    modules = dict(model.named_modules())
    for name, attribute, _ in _streams(model):
        setattr(modules[name], attribute, saved["streams"][f"{name}.{attribute}"])


def _check_random(own: Mapping[str, Any], saved: Any) -> None:
    _check_alike(own, {**saved, "calls": own["calls"]} if isinstance(saved, Mapping) else saved, "random")
    numbers = [saved["seed"], saved["step"], saved["next_stream"], *saved["streams"].values()]
    calls = saved.get("calls")
    if not isinstance(calls, Mapping) or not all(name.isascii() and name.isdigit() for name in calls):
        raise CheckpointError("random.calls does not say how often streams were used")
    if not all(type(n) is int and 0 <= n < 1 << 64 for n in [*numbers, *calls.values()]):
        raise CheckpointError("random holds numbers outside 0 to 2^64 - 1")


def _check_finite(arrays: Mapping[str, Any], place: str) -> None:
    for name, array in arrays.items():
        if not np.isfinite(array).all():
            raise CheckpointError(f"{place}.{name} holds values that are not finite")


def _check_alike(own: Any, saved: Any, place: str) -> None:
    """Raise CheckpointError unless both have the same names, and arrays of the same shapes and types."""
    if isinstance(own, Mapping):
        if not isinstance(saved, Mapping):
            raise CheckpointError(f"{place} is a {type(saved).__name__}, this trainer has a dictionary")
        for name in [*own, *saved]:
            if (name in own) != (name in saved):
                where = "this trainer" if name in own else "the checkpoint"
                raise CheckpointError(f"only {where} has {place}.{name}")
            _check_alike(own[name], saved[name], f"{place}.{name}")
    elif isinstance(own, (list, tuple)):
        if not isinstance(saved, (list, tuple)) or len(saved) != len(own):
            raise CheckpointError(f"{place} is {saved!r}, this trainer has {own!r}")
        for i, (mine, theirs) in enumerate(zip(own, saved, strict=True)):
            _check_alike(mine, theirs, f"{place}.{i}")
    elif not _fits(own, saved, place):
        raise CheckpointError(f"{place} is {_kind(saved)}, this trainer has {_kind(own)}")


def _fits(own: Any, saved: Any, place: str) -> bool:
    """The same kind of value; a number may stand where there is none yet."""
    whole = type(saved) is int or (type(own) is int and type(saved) is float)
    if whole and not -(1 << 63) <= saved < 1 << 63:
        return place == "random.seed"
    if own is None or (saved is None and place in _MAY_BE_NOTHING):
        return saved is None or _kind(saved) == "a number"
    return _kind(own) == _kind(saved)


def _kind(value: Any) -> str:
    if hasattr(value, "shape") and hasattr(value, "dtype"):
        return f"an array of shape {tuple(value.shape)} and type {value.dtype}"
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        return "a number"
    return "nothing" if value is None else f"a {type(value).__name__}"
