"""What orders the work of a GPU's streams, and what goes wrong without.

Every stream, every event and the host have a clock: how many operations of each stream are known to be done
when the next one begins. An event carries the clock of its stream to those who wait for it (Lamport 1978,
Time, clocks, and the ordering of events; Mattern 1989 for one number a process). Two operations that touch
the same memory must be in an order by these clocks, and so must a copy from pinned memory and what the host
does with that memory next.
"""

from __future__ import annotations

import weakref
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np

Clock = dict[int, int]


class RaceViolation(RuntimeError):
    """Two operations on the same memory of which either may come first."""


def merge(clock: Clock, other: Clock) -> None:
    """Everything that is done by `other` is done by `clock`, too."""
    for stream, time in other.items():
        clock[stream] = max(clock.get(stream, 0), time)


@dataclass
class Copy:
    """From pinned memory, on its way since operation number `time` of a stream."""

    stream: int
    time: int
    source: weakref.ref[np.ndarray]
    start: int
    sent: np.ndarray

    def check(self) -> None:
        owner = self.source()
        if owner is None:
            raise RaceViolation("pinned memory was freed while a copy from it was on its way")
        now = owner[self.start : self.start + self.sent.size]
        if not np.array_equal(now, self.sent):
            raise RaceViolation("pinned memory was written to while a copy from it was on its way")


class Order:
    """Of the operations of one machine. pinned: address -> the owner, and bytes, of the host's memory that a
    GPU copies from."""

    def __init__(self) -> None:
        self.host: Clock = {}
        self.users: dict[int, Clock] = {}  # address -> the last operation of each stream there
        self.copies: list[Copy] = []
        self.pinned: dict[int, tuple[weakref.ref[np.ndarray], int]] = {}

    def work(self, stream: int, clock: Clock, name: str, places: Iterable[int]) -> None:
        """An operation begins on a stream with this clock, and touches memory at these addresses."""
        self.check()
        merge(clock, self.host)
        clock[stream] = clock.get(stream, 0) + 1
        for place in places:
            users = self.users.setdefault(place, {})
            for other, time in users.items():
                if clock.get(other, 0) < time:
                    raise RaceViolation(
                        f"{name} touches memory that another stream may still use: wait for its event"
                    )
            users[stream] = clock[stream]

    def copy(self, stream: int, clock: Clock, source: np.ndarray) -> None:
        """The operation that has begun copies from the host: pinned memory is read later."""
        address = source.ctypes.data
        for start, (ref, size) in self.pinned.items():
            owner = ref()
            if owner is not None and start <= address < start + size:
                sent = source.reshape(-1).view(np.uint8).copy()
                self.copies.append(Copy(stream, clock[stream], ref, address - owner.ctypes.data, sent))

    def learn(self, clock: Clock) -> None:
        """The host has waited for what this clock knows."""
        self.check()
        merge(self.host, clock)
        self.copies = [c for c in self.copies if self.host.get(c.stream, 0) < c.time]

    def check(self) -> None:
        """Raise unless the sources of all copies on their way are as they were sent."""
        for one in self.copies:
            one.check()

    def pin(self, block: np.ndarray) -> Any:
        """The block, a view of memory of its own, noted as pinned memory."""
        assert block.base is not None
        self.pinned[block.ctypes.data] = weakref.ref(block.base), block.nbytes
        return block

    def pinned_bytes(self) -> int:
        """Of pinned memory that somebody holds."""
        return sum(size for ref, size in self.pinned.values() if ref() is not None)
