"""The checkpoints of a run, and what becomes of a training whose run folder cannot be written to any more.

With a second folder on another disk, training goes on: its state goes there, and so does its best model. In
the end the run folder is tried once more.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from ..errors import TrainingError
from ..nn.module import Module
from . import checkpoint
from .averaging import keep_epoch
from .checkpoint_folder import CheckpointFolder
from .gradients import settle_gradients
from .run import BEST, FORMAT, MODEL, RunFolder, clean, write_metrics

BEST_MODEL = "best.safetensors"  # in the second folder, when the run folder could not take it


class RunCheckpoints(CheckpointFolder):
    """The checkpoints of a run. They hold its configuration too, and may come before its first model."""

    def attach(self, folder: RunFolder, model: Module) -> None:
        """Belong to this run folder, in which the model is trained."""
        self.folder, self.model = folder, model
        self.note = {"config": folder.config}
        self.cleared = False
        self.incomplete = False  # something could not be written to the run folder

    def save(self, state: Mapping[str, Any], step: int, best_step: int | None = None) -> None:
        if not self.folder.begun:
            self.write(lambda: self.folder.save_model(self.model))
            if not self.cleared:
                self._clear_second()
        super().save(state, step, best_step)

    def write(self, write: Callable[[], None]) -> bool:
        """Write something of the run folder; returns whether that went well. Where it did not, it is said
        once and training goes on with the second folder; without one the TrainingError is raised."""
        try:
            write()
        except TrainingError as error:
            if len(self.paths) == 1:
                raise
            if not self.incomplete:
                self.report(f"{error}; training goes on, and what it needs is kept in {self.paths[1]}")
            self.incomplete = True
            return False
        return True

    def save_best(self) -> None:
        """Keep the model, as it is now, as the best one: in the run folder, or else in the second."""
        if not self.write(lambda: self.folder.save_model(self.model)):
            checkpoint.save(self.model, self.paths[1] / BEST_MODEL, {"format": FORMAT})

    def complete(self, history: list[dict[str, Any]]) -> None:
        """Training is over, and the model holds its best weights: write what the run folder lacks. Raises
        TrainingError where that is still not possible."""
        try:
            if self.incomplete:
                self.folder.save_model(self.model)
                write_metrics(self.folder.path, history)
        except TrainingError as error:
            best = self.paths[1] / BEST_MODEL
            raise TrainingError(
                f"{error}. Training is done, and its best model is {best}: make room, then complete the run "
                "folder with the command above"
            ) from error
        self.incomplete = False
        for path in self.paths[1:]:
            (path / BEST_MODEL).unlink(missing_ok=True)

    def _targets(self) -> list[Path]:
        """Not the folder of a run that still has the checkpoints of another."""
        return self.paths if self.folder.begun else self.paths[1:]

    def _clear_second(self) -> None:
        for path in self.paths[1:]:
            CheckpointFolder(path).forget()  # those of another training
            (path / BEST_MODEL).unlink(missing_ok=True)
        self.cleared = True


def settle(path: str | Path, state: Mapping[str, Any], keep_last: int = 0, finished: bool = False) -> None:
    """Make a run folder agree with the state of its training: a kill may have come between the checkpoint and
    the files written after it. A finished run's model is left alone where an average took its place."""
    path, training = Path(path), state["training"]
    clean(path)
    best = state["model"] if state["best"] is None else state["best"]
    averaged = (path / BEST).exists()
    if training["best"] is not None and not (finished and averaged):
        checkpoint.save(best, path / MODEL, {"format": FORMAT})
        (path / BEST).unlink(missing_ok=True)
    write_metrics(path, training["history"])
    settle_gradients(path, state.get("observers", {}), training["step"])
    if keep_last and training["epoch"] and training["progress"] is None:
        keep_epoch(path, state["model"], training["epoch"], keep_last)
