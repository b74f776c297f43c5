"""What a trainer does with other ranks: nothing in one process, and together under a launcher.

Losses and gradients are reduced in every step, so that whatever is decided from them (skipped steps, the
loss scale, clipping, the best epoch, the end) is decided alike on every rank.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from ..backend import random
from ..backend.static import signature
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
from .accumulation import backward_of_mean, backward_of_shares, float_loss
from .checkpoint_folder import CheckpointFolder
from .other_ranks import CommonSignals, Elsewhere, SilentDisplay
from .precision import Precision
from .progress import Display
from .signals import Signals

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

    def capture(self, wish: bool, batches: Sequence[Any]) -> bool:
        """Whether the step is to be one graph: where all ranks can, as this rank would like to."""
        return wish

    def given(self, count: Count, batches: Sequence[Any]) -> tuple[Any, Any]:
        """What a captured step needs beside the batches: (shares, an array or None; what a graph is for)."""
        counts = [count(batch) for batch in batches]
        return np.array(counts, np.float32) / np.float32(sum(counts)) if len(counts) > 1 else None, None

    def captured(
        self, loss: Loss, batches: Sequence[Any], given: tuple[Any, Any], precision: Precision
    ) -> list[Tensor]:
        """What of `backward` is captured, with the losses. given: as of `given`, on the device."""
        return backward_of_shares(loss, batches, given[0], precision)

    def counted(
        self, losses: Sequence[Tensor], count: Count, batches: Sequence[Any]
    ) -> list[tuple[Tensor, float]]:
        """The losses of a captured step, with what they count."""
        return list(zip(losses, map(count, batches), strict=True))

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
        self._alike: tuple[int, ...] = ()  # the shapes of the step's batches on each rank
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
        shares, (rows, _) = self._shares(len(batches))
        return [(self._backward(loss, batches, shares.tolist(), rows, precision), self.plan.weight)]

    def _shares(self, batches: int) -> tuple[Any, tuple[Any, ...]]:
        """Of this rank's batches: what each counts in the mean (k,); the numbers of their first rows, or None
        where they have no rows, and the signatures of all ranks."""
        plan = self.plan
        weights = plan.weights[plan.rank, :batches]
        shares = weights / plan.weight if plan.weight else np.zeros(batches)
        rows = tuple(plan.first_row(k) if plan.rows[plan.rank, k] else None for k in range(batches))
        return shares, (rows, self._alike)

    def _backward(
        self,
        loss: Loss,
        batches: Sequence[Any],
        shares: Any,
        rows: Sequence[int | None],
        precision: Precision,
        key: Any = None,
    ) -> Tensor:
        """The mean loss of all ranks. shares: numbers, or an array in device memory."""
        self.reducer.begin()
        mine = [k for k, row in enumerate(rows) if row is not None]
        part: Any = 0.0
        checks: list[Callable[[], None]] = []
        for k in mine:
            last = self.reducer.overlapping() if k == mine[-1] else contextlib.nullcontext()
            with random.rows_from(random.state.row_offset + (rows[k] or 0)):
                value = float_loss(loss(batches[k]))
                if isinstance(shares, list):
                    start = precision.scaled(value, shares[k])
                else:
                    start = precision.scaled(value)
                    start = start * shares[k].astype(start.dtype, copy=False)
                with last:
                    value.backward(start)
            part = part + value.data.astype(np.float64) * shares[k]
            checks += value._checks
        mean = Tensor(self.reducer.finish(part, key))
        for check in checks:
            mean.add_check(check)
        return mean

    def capture(self, wish: bool, batches: Sequence[Any]) -> bool:
        """A captured collective must be captured and replayed alike on all ranks: so a graph is for the
        shapes of the batches on every rank."""
        try:
            shape = hash(signature(list(batches))) & 0xFFFFFFFFFFFF
        except TypeError:
            wish, shape = False, 0
        told = self.group.all_gather(np.array([int(wish), shape], np.int64))
        self._alike = tuple(told[:, 1].tolist())
        return bool(told[:, 0].all())

    def given(self, count: Count, batches: Sequence[Any]) -> tuple[Any, Any]:
        return self._shares(len(batches))

    def captured(
        self, loss: Loss, batches: Sequence[Any], given: tuple[Any, Any], precision: Precision
    ) -> list[Tensor]:
        shares, (rows, alike) = given
        return [self._backward(loss, batches, shares, rows, precision, (rows, alike))]

    def counted(
        self, losses: Sequence[Tensor], count: Count, batches: Sequence[Any]
    ) -> list[tuple[Tensor, float]]:
        self.group.watch_device("a captured step")
        return [(losses[0], self.plan.weight)]

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
