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
from collections.abc import Callable, Iterable, Mapping, Sequence, Sized
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ..backend.device import Device
from ..backprop import no_grad
from ..errors import DataError, TrainingError
from ..nn.module import Module
from ..optim import Optimizer, ReduceLROnPlateau, Schedule, clip_grad_norm_
from ..tensors import Tensor
from .accumulation import backward_of_mean, groups_of
from .observer import Observer
from .precision import make_precision
from .progress import Display, make_display
from .signals import Signals

Record = dict[str, Any]
READ_EVERY = 20  # steps between two looks at the loss: each look waits for a GPU
_LOWER_IS_BETTER = ("loss", "error", "error_rate", "perplexity", "_wer", "_per")


@dataclass
class TrainingState:
    """Where training stands. Plain values, so that it can be saved beside weights and optimizer."""

    epoch: int = 0  # epochs finished
    step: int = 0  # optimizer steps taken
    best: list[float] | None = None  # what was watched, signed so that more is better
    best_epoch: int = 0
    waited: int = 0  # epochs since then
    history: list[Record] = field(default_factory=list)


class LossMeter:
    """Losses as they come from the device, read in bunches; a value that is not finite stops training."""

    def __init__(self, state: TrainingState, optimizer: Optimizer) -> None:
        self.state, self.optimizer = state, optimizer
        self.pending: list[tuple[int, Tensor, float]] = []
        self.total, self.weight = 0.0, 0.0
        self.recent = math.nan

    def add(self, loss: Tensor, weight: float) -> None:
        """Take the loss of the step just done; its value is looked at later."""
        self.pending.append((self.state.step, loss, weight))

    def read(self) -> None:
        """Look at the losses since the last time (waits for the device)."""
        total, weight = 0.0, 0.0
        for step, loss, share in self.pending:
            value = float(loss.item())
            if not math.isfinite(value):
                self._refuse(step, value)
            total, weight = total + value * share, weight + share
        if weight:
            self.recent = total / weight
        self.total, self.weight = self.total + total, self.weight + weight
        self.pending = []

    def mean(self) -> float:
        """The mean over the epoch so far."""
        self.read()
        return self.total / self.weight if self.weight else math.nan

    def _refuse(self, step: int, value: float) -> None:
        lr = self.optimizer.param_groups[0]["lr"]
        raise TrainingError(
            f"the loss is {value} at step {step} (epoch {self.state.epoch + 1}): training has diverged. "
            f"Lower the learning rate (now {lr:.3g}) or clip gradients (clip norm 1, say)"
        )


class Trainer:
    """Trains a model.

    loss(batch): the mean loss of a batch, a tensor of one number. count(batch): how much the batch weighs in
    the epoch's mean (default: its `size`, else 1). accumulate: batches a step, whose losses are averaged by
    their counts; the rest of an epoch is a smaller last step. precision: "fp32", "tf32", "bf16" or "fp16"
    over float32 weights; validation is in float32. validate(): scores of the model, recorded as
    "valid_<name>"; it runs in evaluation mode without gradients. watch: which record entries decide what is
    best, later ones where earlier ones are equal; names that end in loss, error, error_rate, perplexity, _wer
    or _per are better when lower, others when higher. patience: stop after so many epochs without a better
    one. on_best(record) and on_epoch(record) are called after the epoch is over, in this order. observers:
    see `Observer`; they are told of every step. progress: "auto", "live", "plain", "off" or a Display.

    After `fit` the model holds its best weights. Two runs from one seed give the same bits on a CPU.
    """

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
        progress: str | Display = "auto",
    ) -> None:
        if patience is not None and patience < 1:
            raise DataError(f"patience is a number of epochs of at least 1, not {patience}")
        if accumulate < 1:
            raise DataError(f"accumulate is a number of batches of at least 1, not {accumulate}")
        self.model, self.loss, self.optimizer, self.schedule = model, loss, optimizer, schedule
        self.clip_norm, self.validate, self.patience = clip_norm, validate, patience
        self.watch = _watched(watch, validate is not None)
        self.count = count or (lambda batch: getattr(batch, "size", 1))
        self.accumulate = accumulate
        self.precision = make_precision(precision, model, optimizer)
        self.on_best, self.on_epoch = on_best, on_epoch
        self.observers = list(observers)
        self.display = make_display(progress) if isinstance(progress, str) else progress
        self.state = TrainingState()
        self._best_weights: dict[str, np.ndarray[Any, Any]] | None = None
        self._signals = Signals()

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

        batches: anything that gives one epoch of batches each time it is iterated. Raises TrainingError when
        a loss is not finite, and KeyboardInterrupt after Ctrl-C: the model then holds its best weights (those
        of the unfinished epoch when there is no other) and `on_best` has seen them.
        """
        if not hasattr(batches, "__iter__") or iter(batches) is batches:
            raise DataError(
                "batches must be iterable once an epoch: pass a list or gp.text.text_batches(...)"
            )
        steps = -(-len(batches) // self.accumulate) if isinstance(batches, Sized) else None
        # NumPy's warnings would only come before the error that a loss out of range becomes
        with self._signals, self.display, np.errstate(over="ignore", invalid="ignore"):
            self.display.start(epochs, steps, self.device)
            self.precision.start()
            try:
                while self.state.epoch < epochs and not self._out_of_patience():
                    self._epoch(batches)
            except KeyboardInterrupt:
                self._keep_unfinished()
                raise
            finally:
                for observer in self.observers:
                    observer.finish()
                self._restore_best()
        return self.history

    def _epoch(self, batches: Iterable[Any]) -> None:
        state, started, tokens = self.state, time.perf_counter(), 0
        first_step = state.step
        meter = LossMeter(state, self.optimizer)
        self.model.train()
        self.display.epoch(state.epoch + 1)
        for number, group in enumerate(groups_of(batches, self.accumulate), start=1):
            with self._signals.hold():
                for loss, weight in self._step(group):
                    meter.add(loss, weight)
            tokens += sum(getattr(batch, "tokens", 0) for batch in group)
            if number % READ_EVERY == 1:
                meter.read()
                self.precision.read()
            self.display.step(number, meter.recent, tokens)
        if state.step == first_step:
            raise DataError("there are no batches to train on")
        train_loss = meter.mean()
        seconds = time.perf_counter() - started
        record: Record = {"epoch": state.epoch + 1, "step": state.step, "train_loss": train_loss}
        record |= self._validated()
        record |= {
            "lr": float(self.optimizer.param_groups[0]["lr"]),
            "seconds": round(time.perf_counter() - started, 3),
            "tokens_per_second": round(tokens / seconds, 1) if seconds else 0.0,
            "device": str(self.device),
            **self.precision.record(),
        }
        with self._signals.hold():
            self._finish_epoch(record)

    def _step(self, batches: Sequence[Any]) -> list[tuple[Tensor, float]]:
        for observer in self.observers:
            observer.before_step(self.model, self.state.step + 1)
        self.optimizer.zero_grad()
        with self.precision.computing():
            losses = backward_of_mean(self.loss, self.count, batches, self.precision)
        self.optimizer.skip = self.precision.unscale()
        for observer in self.observers:
            observer.after_backward()
        norm = None
        if self.clip_norm is not None:
            groups = self.optimizer.param_groups
            norm = clip_grad_norm_((p for group in groups for p in group["params"]), self.clip_norm)
        self.optimizer.step()
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
            scores = {f"valid_{name}": float(value) for name, value in self.validate().items()}
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
        record["best"] = state.best is None or value > state.best
        if record["best"]:
            self._keep_best(record)
            state.best, state.best_epoch, state.waited = value, record["epoch"], 0
        else:
            state.waited += 1
        if isinstance(self.schedule, ReduceLROnPlateau):
            name, sign = self.watch[0]
            falls = self.schedule.mode == "min"
            self.schedule.step(record[name] if falls == (sign < 0) else -record[name])
        state.epoch += 1
        state.history.append(record)
        if self.on_epoch is not None:
            self.on_epoch(record)
        self.display.finished(record)

    def _keep_best(self, record: Record) -> None:
        self._best_weights = self.model.state_dict()
        if self.on_best is not None:
            self.on_best(record)

    def _keep_unfinished(self) -> None:
        """Interrupted in the first epoch: what there is is the best there is."""
        if self._best_weights is None and self.state.step:
            self._keep_best({"epoch": self.state.epoch, "step": self.state.step})

    def _restore_best(self) -> None:
        if self._best_weights is not None:
            self.model.load_state_dict(self._best_weights)
        self.model.eval()

    def _out_of_patience(self) -> bool:
        return self.patience is not None and self.state.waited >= self.patience


def _watched(watch: str | Sequence[str] | None, validated: bool) -> list[tuple[str, float]]:
    """The names to watch, each with the sign that makes more better."""
    if watch is None:
        watch = "valid_loss" if validated else "train_loss"
    names = [watch] if isinstance(watch, str) else list(watch)
    return [(name, -1.0 if name.endswith(_LOWER_IS_BETTER) else 1.0) for name in names]
