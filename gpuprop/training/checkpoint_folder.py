"""The checkpoints of a training: the last few and the best, in one folder, or in two for safety."""

from __future__ import annotations

import contextlib
import re
import time
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from ..errors import CheckpointError, DataError, TrainingError
from .files import write_error
from .state_file import read_state, write_state

CHECKPOINTS = "checkpoints"  # the folder inside a run's
_NAME = re.compile(r"step-(\d{8,})\.safetensors")


class CheckpointFolder:
    """Where a training saves its whole state at the end of every epoch, and more often on request.

    keep: so many of the last checkpoints stay, and the one of the best epoch. every_steps, every_seconds:
    save within epochs too. also: a second folder, on another disk, say; everything is written to both, and
    training goes on while one of them can be written to. report: told what went wrong with a file or folder
    (default: a warning).
    """

    def __init__(
        self,
        path: str | Path,
        *,
        also: str | Path | None = None,
        keep: int = 2,
        every_steps: int | None = None,
        every_seconds: float | None = None,
        report: Callable[[str], None] | None = None,
    ) -> None:
        for name, value in (("keep", keep), ("every_steps", every_steps), ("every_seconds", every_seconds)):
            if value is not None and not value >= 1:
                raise DataError(f"{name} must be at least 1, not {value}")
        self.paths = [Path(path)] + ([] if also is None else [Path(also)])
        self.keep, self.every_steps, self.every_seconds = keep, every_steps, every_seconds
        self.report = report or _warn
        self.saved: Path | None = None  # the last one that this object wrote
        self.note: Mapping[str, Any] = {}  # goes into each checkpoint as "note"
        self._last = time.monotonic()
        self._failed: set[Path] = set()

    def prepare(self) -> None:
        """Make the folders, so that a place that cannot be written to shows before the training."""
        self._last = time.monotonic()
        for path in self.paths:
            _make(path, parents=True)
            for file in path.glob(".step-*.safetensors.*"):  # a killed writer left it
                _unlink(file)

    def due(self, step: int) -> bool:
        """Whether to save now, after `step` steps and within an epoch."""
        if self.every_steps is not None and step % self.every_steps == 0:
            return True
        return self.every_seconds is not None and time.monotonic() - self._last >= self.every_seconds

    def save(self, state: Mapping[str, Any], step: int, best_step: int | None = None) -> None:
        """Save the state after `step` steps, and let go of all but the last few and that of `best_step`.

        Raises TrainingError where no folder can be written to; what was saved before is then still there.
        """
        errors: dict[Path, TrainingError] = {}
        done: Path | None = None
        for path in self._targets():
            file = path / f"step-{step:08d}.safetensors"
            try:
                _make(path, parents=False)
                write_state(file, {**state, "note": self.note})
                self._remove_others(path, step, best_step)
                done = done or file
            except TrainingError as error:
                errors[path] = error
        self._last = time.monotonic()
        if done is None:
            raise next(iter(errors.values()))
        self.saved = done
        for path, reason in errors.items():
            if path not in self._failed:
                self.report(f"{reason}; training goes on with the other folder of checkpoints")
            self._failed.add(path)

    def _targets(self) -> list[Path]:
        """The folders that can take a checkpoint now."""
        return self.paths

    def files(self) -> list[Path]:
        """All checkpoints, the newest first."""
        found = [(step, path) for folder in self.paths for step, path in _listed(folder).items()]
        return [path for _, path in sorted(found, key=lambda entry: -entry[0])]

    def latest(self) -> tuple[Path, dict[str, Any]] | None:
        """The newest checkpoint that is whole, with its state; None where there is none at all.

        Damaged ones are reported and passed over. Raises CheckpointError where all are damaged.
        """
        refused = []
        for path in self.files():
            try:
                state = read_state(path)
            except CheckpointError as error:
                refused.append(str(error))
                continue
            for message in refused:
                self.report(message)
            if refused:
                self.report(f"{path}: the last good checkpoint is used")
            return path, state
        if refused:
            raise CheckpointError(f"no checkpoint is whole: {'; '.join(refused)}; train again")
        return None

    def forget(self) -> None:
        """Remove all checkpoints: another training begins here."""
        for folder in self.paths:
            for file in _listed(folder).values():
                _unlink(file)

    def abandon(self) -> None:
        """Take back folders that are empty."""
        for folder in self.paths:
            with contextlib.suppress(OSError):
                folder.rmdir()

    def _remove_others(self, folder: Path, step: int, best_step: int | None) -> None:
        """Later ones too: they were left by a training that went on from before them."""
        there = _listed(folder)
        last = [number for number in there if number <= step][-self.keep :]
        for number, file in there.items():
            if number not in last and number != best_step:
                _unlink(file)


def _warn(message: str) -> None:
    warnings.warn(message, RuntimeWarning, stacklevel=4)


def _listed(folder: Path) -> dict[int, Path]:
    """Step -> its file, in the order of the steps."""
    try:
        names = [file.name for file in folder.iterdir()] if folder.is_dir() else []
    except OSError as error:
        raise CheckpointError(f"{folder}: cannot be read: {error.strerror or error}") from error
    found = {int(match[1]): folder / match[0] for name in names if (match := _NAME.fullmatch(name))}
    return dict(sorted(found.items()))


def _make(folder: Path, parents: bool) -> None:
    """`parents` is for the beginning: a run folder that is removed meanwhile must not come back empty."""
    try:
        if parents:
            folder.parent.mkdir(parents=True, exist_ok=True)
        folder.mkdir(exist_ok=True)
    except OSError as error:
        raise write_error(folder, error) from error


def _unlink(file: Path) -> None:
    try:
        file.unlink(missing_ok=True)
    except OSError as error:
        raise write_error(file, error) from error
