"""The training loop: epochs, validation, early stopping, the best model, and a clean end on Ctrl-C.

trainer = gp.Trainer(
    model, lambda batch: criterion(model(batch.ids, batch.mask), batch.labels), optimizer,
    validate=lambda: {"accuracy": accuracy_of(model)}, watch="valid_accuracy", patience=3,
)
history = trainer.fit(batches, epochs=10)
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence, Sized
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from ..backend.device import Device
from ..backprop import no_grad
from ..errors import DataError, TrainingError
from ..nn.module import Module
from ..optim import Optimizer, ReduceLROnPlateau, Schedule
from ..tensors import Tensor
from .accumulation import groups_of
from .checkpoint_folder import CheckpointFolder
from .device_step import DeviceStep
from .guard import Guard
from .lookahead import Ahead
from .memory import memory_explained
from .observer import Observer
from .precision import make_precision
from .progress import Display, make_display
from .ranks import make_ranks
from .resumable import Resumable, mark, moved
from .training_state import EpochProgress, LossMeter, Record, TrainingState, watched

READ_EVERY = 10  # steps between two looks at the loss: each look waits for a GPU


class Trainer(Resumable):
    """Trains a model.

    loss(batch): the mean loss of a batch, a tensor of one number. count(batch): how much the batch weighs
    in the epoch's mean (default: its `size`, else 1). accumulate: batches a step, whose losses are averaged
    by their counts; the rest of an epoch is a smaller last step. precision: "fp32", "tf32", "bf16" or
    "fp16" over float32 weights; validation is in float32. validate(): scores of the model, recorded as
    "valid_<name>"; it runs in evaluation mode without gradients. watch: which record entries decide what is
    best, later ones where earlier ones are equal; names that end in loss, error, error_rate, perplexity,
    _wer or _per are better when lower, others when higher. patience: stop after so many epochs without a
    better one. on_best(record) and on_epoch(record) are called after the epoch is over, in this order.
    observers: see `Observer`; they are told of every step. run_folder: gets what a step that fails leaves,
    for `load_failure`. progress: "auto", "live", "plain", "off" or a Display. parallel: train together with
    the other ranks of `gp.parallel.init`, of which rank 0 writes and shows progress; gradient_type: how
    gradients travel between them, "fp32" or "bf16". capture: each step is one CUDA graph on a GPU, see
    `gp.capture`: None where it can be, True or an error, False never.

    After `fit` the model holds its best weights. Two runs from one seed give the same bits on a CPU.
    """

    guard: Guard

    def __init__(
        self,
        model: Module,
        loss: Callable[[Any], Tensor],
        optimizer: Optimizer,
        *,
        schedule: Schedule | None = None,
        clip_norm: float | None = None,
        validate: Callable[[], Mapping[str, float]] | None = None,
        watch: str | Sequence[str] | None = None,
        patience: int | None = None,
        count: Callable[[Any], float] | None = None,
        accumulate: int = 1,
        precision: str = "fp32",
        on_best: Callable[[Record], None] | None = None,
        on_epoch: Callable[[Record], None] | None = None,
        observers: Sequence[Observer] = (),
        run_folder: str | Path | None = None,
        progress: str | Display = "auto",
        checkpoints: CheckpointFolder | None = None,
        parallel: bool = False,
        gradient_type: str = "fp32",
        capture: bool | None = None,
    ) -> None:
        if patience is not None and patience < 1:
            raise DataError(f"patience is a number of epochs of at least 1, not {patience}")
        if accumulate < 1:
            raise DataError(f"accumulate is a number of batches of at least 1, not {accumulate}")
        self.model, self.loss, self.optimizer, self.schedule = model, loss, optimizer, schedule
        self.clip_norm, self.validate, self.patience = clip_norm, validate, patience
        self.watch = watched(watch, validate is not None)
        self.count = count or (lambda batch: getattr(batch, "size", 1))
        self.accumulate = accumulate
        self.precision = make_precision(precision, model, optimizer)
        self.ranks = make_ranks(parallel, optimizer, gradient_type)
        self.on_best, self.on_epoch = (on_best, on_epoch) if self.ranks.first else (None, None)
        self.observers = list(observers)
        self.display = self.ranks.display(make_display(progress) if isinstance(progress, str) else progress)
        self.checkpoints = self.ranks.checkpoints(checkpoints)
        self.state = TrainingState()
        self.guard = Guard(self, run_folder)
        self.device_step = DeviceStep(self, capture)
        self.best_weights: dict[str, np.ndarray[Any, Any]] | None = None
        self.mark = mark(None, model)
        self._position: Any = None
        self._meter = LossMeter(self.state, EpochProgress(), optimizer)
        self._whole = True  # not in the middle of a step
        self._signals = self.ranks.signals()
        self._ahead: Ahead[list[Any]] = Ahead(iter(()), self.device_step.prefetch)

    @property
    def history(self) -> list[Record]:
        """One record an epoch: epoch, step, train_loss, valid_..., lr, seconds, tokens_per_second, device,
        best; with fp16 skipped_steps and loss_scale."""
        return self.state.history

    @property
    def best(self) -> Record | None:
        """The record of the best epoch so far."""
        return next((r for r in self.history if r["epoch"] == self.state.best_epoch), None)

    @property
    def device(self) -> Device:
        """Where the model's parameters are."""
        return next(self.model.parameters()).device

    def fit(self, batches: Iterable[Any], epochs: int) -> list[Record]:
        """Train until `epochs` epochs are done in all, or no better one came for `patience`; returns the
        history.

        batches: anything that gives one epoch of batches each time it is iterated. Raises TrainingError at
        most 10 steps after a loss or a gradient is not finite, naming the operation, and KeyboardInterrupt
        after Ctrl-C: the model then holds its best weights (those of the unfinished epoch when there is no
        other) and `on_best` has seen them.
        """
        if not hasattr(batches, "__iter__") or iter(batches) is batches:
            raise DataError(
                "batches must be iterable once an epoch: pass a list or gp.text.text_batches(...)"
            )
        batches = self.ranks.cut(batches)
        self._take_position(batches)
        self.ranks.start(self.model)
        steps = -(-len(batches) // self.accumulate) if isinstance(batches, Sized) else None
        if self.checkpoints is not None:
            self.checkpoints.prepare()
        # NumPy's warnings would only come before the error that a loss out of range becomes
        with self._signals, self.display, np.errstate(over="ignore", invalid="ignore", divide="ignore"):
            self.display.start(epochs, steps, self.device)
            self.precision.start()
            try:
                while not self.finished(epochs):
                    self._epoch(batches)
            except KeyboardInterrupt:
                self._save_unfinished()
                self._keep_unfinished()
                raise
            finally:
                for observer in self.observers:
                    observer.finish()
                self.device_step.finish()
                if self._ahead.dropped():
                    self._put_back(batches)
                self.state.progress = None
                self._restore_best()
        return self.history

    def _epoch(self, batches: Iterable[Any]) -> None:
        state, started = self.state, time.perf_counter()
        progress = state.progress = state.progress or EpochProgress()
        before = progress.seconds
        meter = self._meter = LossMeter(state, progress, self.optimizer)
        self.model.train()
        self.display.epoch(state.epoch + 1)
        groups = self.ranks.groups(self._groups(batches, progress), self.count, self.accumulate)
        self._ahead = Ahead(groups, self.device_step.prefetch)
        for group in self._ahead:
            fit = memory_explained(group, self.loss, self.model, self.device)
            with self._signals.hold(), fit:
                self._whole = False
                for loss, weight in self._step(group):
                    meter.add(loss, weight)
                taken = self.ranks.taken(group)
                progress.steps, progress.batches = progress.steps + 1, progress.batches + taken
                progress.tokens += self.ranks.tokens(group)
                progress.over = taken < self.accumulate  # such batches have noticed their end
                progress.seconds = before + time.perf_counter() - started
                self.mark, self._whole = moved(self.mark, batches), True
                if self.checkpoints is not None and self.ranks.due(self.checkpoints.due(state.step)):
                    self._checkpoint()
            if progress.steps % READ_EVERY == 1:
                self._read()
            self.display.step(progress.steps, meter.recent, progress.tokens)
        if not progress.steps:
            state.progress = None
            raise DataError("there are no batches to train on")
        with self._signals.hold():
            progress.over, self.mark = True, moved(self.mark, batches)
        self._end_epoch(progress, before - started)

    def _groups(self, batches: Iterable[Any], progress: EpochProgress) -> Iterator[list[Any]]:
        """The batches of each step that is left of the epoch."""
        if progress.over:
            return iter(())
        knows = hasattr(batches, "state_dict")
        return groups_of(batches if knows else islice(batches, progress.batches, None), self.accumulate)

    def _end_epoch(self, progress: EpochProgress, since: float) -> None:
        """Validate, record and save. since: perf_counter() + since are the seconds of the epoch."""
        self.guard.read(self.state.epoch + 1)
        state, seconds = self.state, time.perf_counter() + since
        record: Record = {"epoch": state.epoch + 1, "step": state.step, "train_loss": self._meter.mean()}
        record |= self._validated()
        with self._signals.hold():
            record |= {
                "lr": float(self.optimizer.param_groups[0]["lr"]),
                "seconds": round(time.perf_counter() + since, 3),
                "tokens_per_second": round(progress.tokens / seconds, 1) if seconds else 0.0,
                "device": str(self.device),
                **self.precision.record(),
            }
            self._finish_epoch(record)

    def _read(self) -> None:
        """Hear of the steps since the last time (waits for the device, once the next batches are on their
        way to it)."""
        if self.device_step.looks_ahead():
            self._ahead.look()
        self.guard.read(self.state.epoch + 1)
        self._meter.read()
        self.precision.read()

    def _step(self, batches: Sequence[Any]) -> list[tuple[Tensor, float]]:
        for observer in self.observers:
            observer.before_step(self.model, self.state.step + 1)
        losses, norm = self.device_step.run(self.state.step + 1, batches)
        if self.schedule is not None and not isinstance(self.schedule, ReduceLROnPlateau):
            self.schedule.step()
        self.state.step += 1
        for observer in self.observers:
            observer.after_step(norm)
        return losses

    def _validated(self) -> Record:
        if self.validate is None:
            return {}
        self.display.validating()
        self.model.eval()
        with no_grad():
            scores = {f"valid_{name}": value for name, value in self.ranks.scores(self.validate).items()}
        bad = [f"{name} {value}" for name, value in scores.items() if not math.isfinite(value)]
        if bad:
            raise TrainingError(
                f"epoch {self.state.epoch + 1} gives {', '.join(bad)}: lower the learning rate"
            )
        return scores

    def _finish_epoch(self, record: Record) -> None:
        state = self.state
        missing = [name for name, _ in self.watch if name not in record]
        if missing:
            raise DataError(f"cannot watch {missing[0]!r}: the records have {', '.join(record)}")
        value = [sign * record[name] for name, sign in self.watch]
        self._whole = False
        record["best"] = state.best is None or value > state.best
        if record["best"]:
            self.best_weights = self.model.state_dict()
            state.best, state.best_epoch, state.waited = value, record["epoch"], 0
        else:
            state.waited += 1
        if isinstance(self.schedule, ReduceLROnPlateau):
            name, sign = self.watch[0]
            falls = self.schedule.mode == "min"
            self.schedule.step(record[name] if falls == (sign < 0) else -record[name])
        state.epoch, state.progress = state.epoch + 1, None
        state.history.append(record)
        self.mark["random"], self._whole = moved(self.mark, None)["random"], True
        self._checkpoint()  # first, so that a disk that fills up now takes nothing away
        if record["best"] and self.on_best is not None:
            self.on_best(record)
        if self.on_epoch is not None:
            self.on_epoch(record)
        self.display.finished(record)

    def _checkpoint(self) -> None:
        if self.checkpoints is None:
            return
        self.guard.read(self.state.epoch + 1)
        self._meter.read()
        best = self.best
        self.checkpoints.save(self.state_dict(), self.state.step, None if best is None else best["step"])

    def _save_unfinished(self) -> None:
        """Interrupted within an epoch: save where training stands, unless a step was cut in two."""
        if self._whole and self.state.progress is not None and self.state.progress.steps:
            self._checkpoint()
