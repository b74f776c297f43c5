"""Signals, checkpoints and display of a rank among others."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from types import FrameType
from typing import Any

from .checkpoint_folder import CheckpointFolder
from .progress import Display
from .signals import Interrupted, Signals


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
