"""Where a training stands: plain values, saved beside the weights; and the losses of the epoch so far."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from typing import Any

from ..errors import CheckpointError, TrainingError
from ..optim import Optimizer
from ..tensors import Tensor

Record = dict[str, Any]
_LOWER_IS_BETTER = ("loss", "error", "error_rate", "perplexity", "_wer", "_per")


@dataclass
class EpochProgress:
    """What is done of an unfinished epoch."""

    steps: int = 0
    batches: int = 0
    tokens: int = 0
    loss: float = 0.0  # the sum of loss x weight over the batches whose loss has been read
    weight: float = 0.0
    seconds: float = 0.0
    over: bool = False  # no batch is left; validation comes next


@dataclass
class TrainingState:
    """Where training stands. Plain values, so that it can be saved beside weights and optimizer."""

    epoch: int = 0  # epochs finished
    step: int = 0  # optimizer steps taken
    best: list[float] | None = None  # what was watched, signed so that more is better
    best_epoch: int = 0
    waited: int = 0  # epochs since then
    history: list[Record] = field(default_factory=list)
    progress: EpochProgress | None = None  # None between two epochs

    def state_dict(self) -> dict[str, Any]:
        """JSON values that `load_state_dict` needs."""
        return asdict(self)

    def load_state_dict(self, saved: Mapping[str, Any]) -> None:
        """Go on where `state_dict` was taken. CheckpointError for values that are no such state."""
        _check(saved, TrainingState())
        progress = saved["progress"]
        if progress is not None:
            _check(progress, EpochProgress())
        best, history = saved["best"], saved["history"]
        if best is not None and not (isinstance(best, list) and all(type(v) is float for v in best)):
            raise CheckpointError(f"the state of training has best {best!r}, not numbers")
        if not all(isinstance(r, dict) and type(r.get("epoch")) is int for r in history):
            raise CheckpointError("the history of training is not a list of records with an epoch each")
        for f in fields(self):
            setattr(self, f.name, saved[f.name])
        self.history = [dict(record) for record in history]
        self.progress = None if progress is None else EpochProgress(**progress)


def _check(saved: Any, example: Any) -> None:
    """Same names, and values of the example's types (where the example has None: anything)."""
    names = [f.name for f in fields(example)]
    if not isinstance(saved, Mapping) or set(saved) != set(names):
        raise CheckpointError(f"a {type(example).__name__} holds {', '.join(names)}")
    for name in names:
        value, like = saved[name], getattr(example, name)
        if like is not None and (
            type(value) is not type(like) or (type(value) is int and not 0 <= value < 1 << 63)
        ):
            raise CheckpointError(f"the state of training has {name} {value!r}")


class LossMeter:
    """Losses as they come from the device, read in bunches; a value that is not finite stops training.

    They are added up one by one, so that the sum does not depend on when they are read.
    """

    def __init__(self, state: TrainingState, progress: EpochProgress, optimizer: Optimizer) -> None:
        self.state, self.progress, self.optimizer = state, progress, optimizer
        self.pending: list[tuple[int, Tensor, float]] = []
        self.recent = math.nan

    def add(self, loss: Tensor, weight: float) -> None:
        """Take the loss of the step just done; its value is looked at later."""
        self.pending.append((self.state.step, loss, weight))

    def read(self) -> None:
        """Look at the losses since the last time (waits for the device)."""
        total, weight = 0.0, 0.0
        while self.pending:
            step, loss, share = self.pending[0]
            value = float(loss.item())
            if not math.isfinite(value):
                self._refuse(step, value)
            self.progress.loss += value * share
            self.progress.weight += share
            total, weight = total + value * share, weight + share
            del self.pending[0]
        if weight:
            self.recent = total / weight

    def mean(self) -> float:
        """The mean over the epoch so far."""
        self.read()
        return self.progress.loss / self.progress.weight if self.progress.weight else math.nan

    def _refuse(self, step: int, value: float) -> None:
        lr = self.optimizer.param_groups[0]["lr"]
        raise TrainingError(
            f"the loss is {value} at step {step} (epoch {self.state.epoch + 1}): training has diverged. "
            f"Lower the learning rate (now {lr:.3g}) or clip gradients (clip norm 1, say)"
        )


def watched(watch: str | Sequence[str] | None, validated: bool) -> list[tuple[str, float]]:
    """The names to watch, each with the sign that makes more better."""
    if watch is None:
        watch = "valid_loss" if validated else "train_loss"
    names = [watch] if isinstance(watch, str) else list(watch)
    return [(name, -1.0 if name.endswith(_LOWER_IS_BETTER) else 1.0) for name in names]
