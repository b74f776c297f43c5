"""What a transport does, and waiting for it: no wait is endless, and each says who waited for what."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import Any, Protocol

from ..backend.arrays import Array
from ..errors import TrainingError

OPERATIONS = ("sum", "max", "min")
SPIN, NAP, LONGEST_NAP = 2e-4, 5e-5, 1e-3  # seconds of looking without a pause, and the pauses after that


class Pending(Protocol):
    """A collective that was started."""

    def done(self) -> bool:
        """Whether it is over; asking drives it on."""

    def join(self) -> None:
        """After `done`, or where the device itself can wait: what is computed next sees the result."""


class Transport(Protocol):
    """Moves arrays between ranks. Arrays are C-contiguous; every rank makes the same calls in one order."""

    name: str

    def start_all_reduce(self, array: Array, op: str) -> Pending:
        """Reduce in place, by one of `OPERATIONS`; all ranks get the same bits."""

    def start_broadcast(self, array: Array, root: int) -> Pending:
        """Overwrite with the array of rank `root`."""

    def start_all_gather(self, array: Array, into: Array) -> Pending:
        """into (ranks, *array.shape) gets the array of each rank."""

    def mark(self) -> Pending:
        """Over when the device has done all that it was given so far."""

    def check(self) -> None:
        """Raise DeviceError where the transport has failed by itself."""

    def end_all(self, code: int) -> None:
        """End every rank now with this exit code; does not return."""


@dataclass
class Traffic:
    """Counts what this rank sends. By ring or by halving and doubling, an all-reduce of B bytes over N ranks
    sends and receives 2 (N - 1) / N x B a rank, the least there is (Patarasuk and Yuan 2009)."""

    ranks: int
    payload: dict[str, int] = field(default_factory=dict)  # bytes of the arrays, by what they were for

    def add(self, what: str, size: int) -> None:
        """An all-reduce of `size` bytes, for `what`."""
        self.payload[what] = self.payload.get(what, 0) + size

    def sent(self, what: str) -> float:
        """Bytes that this rank sends for `what`."""
        return 2.0 * (self.ranks - 1) / self.ranks * self.payload.get(what, 0)


def wait(pending: Pending, what: str, place: str, timeout: float) -> None:
    """Wait until a collective is over. what: the operation, place: the rank, both for the message.

    Raises TrainingError after `timeout` seconds. Sleeps in between, so that ranks that share a core work.
    """
    started = time.monotonic()
    nap = NAP
    while not pending.done():
        waited = time.monotonic() - started
        if waited > timeout:
            raise TrainingError(
                f"{place} waited {waited:.0f} s in {what}: another rank hangs, has ended, or is that far "
                "behind. Look at the other ranks' messages; a longer wait: GPUPROP_TIMEOUT=seconds"
            )
        if waited > SPIN:
            time.sleep(nap)
            nap = min(1.5 * nap, LONGEST_NAP)
    pending.join()


def described(operation: str, array: Any) -> str:
    """An operation in words: "all_reduce of (1024,) float32"."""
    return f"{operation} of {tuple(array.shape)} {array.dtype}"
