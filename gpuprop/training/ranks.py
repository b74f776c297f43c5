"""What a trainer does with other ranks: nothing in one process, and together under a launcher.

Losses and gradients are reduced in every step, so that whatever is decided from them (skipped steps, the
loss scale, clipping, the best epoch, the end) is decided alike on every rank.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from types import FrameType
from typing import Any

import numpy as np

from ..backend import random
from ..errors import DataError
from ..nn.module import Module
from ..optim import Optimizer
from ..parallel.agreement import check_alike, parameter_facts
from ..parallel.current import current
from ..parallel.data_parallel import GradientReducer
from ..parallel.group import Group
from ..parallel.shards import ShardedBatches
from ..parallel.sharing import sharing_rows
from ..parallel.step_plan import StepPlan, exchange
from ..tensors import Tensor
from ..text.batches import Batches
from .accumulation import backward_of_mean, float_loss
from .checkpoint_folder import CheckpointFolder
from .precision import Precision
from .progress import Display
from .signals import Interrupted, Signals

Loss = Callable[[Any], Tensor]
Count = Callable[[Any], float]


class Ranks:
    """One process."""

    first = True  # this rank writes and prints
    several = False
    first_row = 0  # the number of this rank's first row of a step, among those of all ranks

    def start(self, model: Module) -> None:
        """Training begins."""

    def cut(self, batches: Iterable[Any]) -> Iterable[Any]:
        """This rank's part of the batches."""
        return batches

    def groups(self, groups: Iterator[list[Any]], count: Count, most: int) -> Iterator[list[Any]]:
        """The batches of each step, as long as any rank has some. most: batches of a step."""
        return groups

    def backward(
        self, loss: Loss, count: Count, batches: Sequence[Any], precision: Precision
    ) -> list[tuple[Tensor, float]]:
        """`backward_of_mean`, over the batches of all ranks."""
        return backward_of_mean(loss, count, batches, precision)

    def taken(self, batches: Sequence[Any]) -> int:
        """How many batches the step has, on the rank with most."""
        return len(batches)

    def tokens(self, batches: Sequence[Any]) -> int:
        """Tokens of the step, on all ranks."""
        return sum(getattr(batch, "tokens", 0) for batch in batches)

    def scores(self, validate: Callable[[], Mapping[str, float]]) -> dict[str, float]:
        """What `validate` gives, on every rank the same."""
        return {name: float(value) for name, value in validate().items()}

    def due(self, due: bool) -> bool:
        """Whether to save now, as rank 0 says."""
        return due

    def told_by(self, knows: bool, tell: Callable[[], str]) -> str:
        """`tell()` of the first rank that knows; of rank 0 where none does."""
        return tell()

    def read(self) -> None:
        """The host is about to wait for the device."""

    def signals(self) -> Signals:
        """How Ctrl-C and SIGTERM are taken."""
        return Signals()

    def checkpoints(self, folder: CheckpointFolder | None) -> CheckpointFolder | None:
        """Where this rank saves."""
        return folder

    def display(self, display: Display) -> Display:
        """Where this rank shows its progress."""
        return display


class ParallelRanks(Ranks):
    """All ranks of a group, in step. gradient_type: how gradients travel, "fp32" or "bf16"."""

    several = True

    def __init__(self, group: Group, optimizer: Optimizer, gradient_type: str = "fp32") -> None:
        self.group, self.first = group, group.rank == 0
        self.reducer = GradientReducer(group, optimizer.arenas, gradient_type=gradient_type)
        self._signals = CommonSignals()
        self._plan: StepPlan | None = None
        self._by_clock = False  # checkpoints are saved when rank 0's clock says so

    @property
    def plan(self) -> StepPlan:
        assert self._plan is not None
        return self._plan

    @property
    def first_row(self) -> int:  # type: ignore[override]
        return 0 if self._plan is None else self._plan.first_row(0)

    def start(self, model: Module) -> None:
        """Raise DataError where the ranks do not begin with the same weights and random numbers."""
        self._signals.common = None
        check_alike(self.group, parameter_facts(model))

    def cut(self, batches: Iterable[Any]) -> Iterable[Any]:
        """`gp.text` batches are those of all ranks, and cut; others are taken for this rank's own."""
        if isinstance(batches, Batches):
            return ShardedBatches(batches, self.group.rank, self.group.size)
        return batches

    def groups(self, groups: Iterator[list[Any]], count: Count, most: int) -> Iterator[list[Any]]:
        while True:
            mine = next(groups, [])
            self._plan = exchange(self.group, mine, count, most, self._signals.pending or 0)
            self._signals.common = self._plan.signal or None
            if not self._plan.batches:
                return
            yield mine

    def backward(
        self, loss: Loss, count: Count, batches: Sequence[Any], precision: Precision
    ) -> list[tuple[Tensor, float]]:
        plan, total = self.plan, self.plan.weight
        self.reducer.begin()
        mine = [k for k in range(len(batches)) if plan.rows[plan.rank, k]]
        part: Any = 0.0
        checks: list[Callable[[], None]] = []
        for k in mine:
            share = float(plan.weights[plan.rank, k]) / total if total else 0.0
            last = self.reducer.overlapping() if k == mine[-1] else contextlib.nullcontext()
            with random.rows_from(random.state.row_offset + plan.first_row(k)):
                value = float_loss(loss(batches[k]))
                with last:
                    value.backward(precision.scaled(value, share))
            part = part + value.data.astype(np.float64) * share
            checks += value._checks
        mean = Tensor(self.reducer.finish(part))
        for check in checks:
            mean.add_check(check)
        return [(mean, total)]

    def taken(self, batches: Sequence[Any]) -> int:
        return self.plan.batches

    def tokens(self, batches: Sequence[Any]) -> int:
        return int(self.plan.tokens.sum())

    def scores(self, validate: Callable[[], Mapping[str, float]]) -> dict[str, float]:
        with sharing_rows():
            found = super().scores(validate)
        values = self.group.broadcast(np.array(list(found.values()), np.float64))
        return dict(zip(found, values.tolist(), strict=True))

    def due(self, due: bool) -> bool:
        if not self._by_clock:
            return due
        return bool(self.group.broadcast(np.array([float(due)]))[0])

    def told_by(self, knows: bool, tell: Callable[[], str]) -> str:
        known = self.group.all_gather(np.array([float(knows)]))[:, 0]
        teller = int(known.argmax())
        text = tell() if self.group.rank == teller else ""
        return self.group.gather_texts(text)[teller]

    def read(self) -> None:
        self.group.settle()

    def signals(self) -> Signals:
        return self._signals

    def checkpoints(self, folder: CheckpointFolder | None) -> CheckpointFolder | None:
        self._by_clock = folder is not None and folder.every_seconds is not None
        return folder if folder is None or self.first else Elsewhere(folder)

    def display(self, display: Display) -> Display:
        return display if self.first else SilentDisplay()


def make_ranks(parallel: bool, optimizer: Optimizer, gradient_type: str = "fp32") -> Ranks:
    """The ranks of a trainer. DataError where there are several and they are to train apart from each
    other."""
    group = current()
    if group.size == 1:
        return Ranks()
    if not parallel:
        raise DataError(f"{group.size} ranks have been started: train with Trainer(..., parallel=True)")
    return ParallelRanks(group, optimizer, gradient_type)


class CommonlyInterrupted(Interrupted):
    """Every rank stops here."""

    common = True


class CommonSignals(Signals):
    """A signal to one rank is a signal to all: each learns of it before the next step, and all stop behind
    that step. A second signal does not wait."""

    def __init__(self) -> None:
        super().__init__()
        self.common: int | None = None  # the signal that all ranks know of

    @property
    def pending(self) -> int | None:
        """The signal that this rank was sent."""
        return self._pending

    @contextlib.contextmanager
    def hold(self) -> Iterator[None]:
        yield
        if self.common is not None:
            raise CommonlyInterrupted(self.common)

    def _receive(self, number: int, frame: FrameType | None) -> None:
        if self._pending is not None:
            raise Interrupted(number)
        self._pending = number


class Elsewhere(CheckpointFolder):
    """Checkpoints that another rank writes, at the same steps."""

    def __init__(self, folder: CheckpointFolder) -> None:
        super().__init__(folder.paths[0], every_steps=folder.every_steps, every_seconds=folder.every_seconds)

    def prepare(self) -> None:
        """Nothing is written here."""

    def save(self, state: Mapping[str, Any], step: int, best_step: int | None = None) -> None:
        """Nothing is written here."""


class SilentDisplay(Display):
    """Says nothing at all: another rank does."""

    def warn(self, text: str) -> None:
        """Another rank warns."""
