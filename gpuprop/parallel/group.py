"""All ranks of a training, and what they do together."""

from __future__ import annotations

import os
from typing import Any

import numpy as np

from ..backend import cuda_setup
from ..backend.arrays import Array, is_cupy, to_host
from ..backend.recording import again, capturing
from ..errors import DataError, DeviceError
from .collectives import OPERATIONS, Pending, Traffic, Transport, described, wait
from .environment import Place

TIMEOUT = 600.0  # seconds that a rank waits for the others


class Started:
    """A collective of a group that was started; `finish` before its array is used."""

    def __init__(self, group: Group, pending: Pending, what: str, on_device: bool) -> None:
        self.group, self.pending, self.what, self.on_device = group, pending, what, on_device

    def poll(self) -> None:
        """Drive it on, where the host has to."""
        if not self.on_device:
            self.pending.done()

    def finish(self) -> None:
        """On the host wait for it; on a GPU let what is computed next wait for it."""
        if self.on_device:
            self.pending.join()
        else:
            wait(self.pending, self.what, self.group.name, self.group.timeout)


class Group:
    """The ranks, by a transport for host arrays and, with GPUs, one for theirs. Without `host` the host's
    small arrays travel through the GPU. One rank alone needs neither.

    timeout: seconds after which a rank that waits for others gives up. traffic: counts what is sent.
    """

    def __init__(
        self,
        place: Place,
        host: Transport | None = None,
        device: Transport | None = None,
        timeout: float = TIMEOUT,
    ) -> None:
        self.place, self.host, self.device, self.timeout = place, host, device, timeout
        self.rank, self.size = place.rank, place.size
        self.traffic = Traffic(place.size)
        self._outstanding: list[Started] = []

    @property
    def name(self) -> str:
        """This rank, for messages."""
        return f"rank {self.rank} of {self.size}"

    def start_all_reduce(self, array: Array, op: str = "sum", what: str = "all_reduce") -> Started:
        """Begin to reduce an array in place over all ranks. what: named where it fails, and in `traffic`."""
        if op not in OPERATIONS:
            raise DataError(f"an all_reduce is by one of {', '.join(OPERATIONS)}, not {op!r}")
        _check_contiguous(array)
        size = int(array.nbytes)
        self.traffic.add(what, size)
        again(lambda: self.traffic.add(what, size))
        on_device, transport = self._transport(array)
        return self._started(transport.start_all_reduce(array, op), described(what, array), on_device)

    def all_reduce(self, array: Array, op: str = "sum", what: str = "all_reduce") -> Array:
        """Reduce a NumPy or CuPy array in place over all ranks, by "sum", "max" or "min"; returns it."""
        if self.size > 1:
            self._through(array, lambda a: self.start_all_reduce(a, op, what))
        return array

    def broadcast(self, array: Array, root: int = 0) -> Array:
        """Overwrite the array with that of rank `root`; returns it."""
        if not 0 <= root < self.size:
            raise DataError(f"there is no rank {root} among {self.size}")
        if self.size > 1:
            self._through(array, lambda a: self._start_broadcast(a, root))
        return array

    def all_gather(self, array: Array) -> Array:
        """The arrays of all ranks, (ranks, *shape); all of one shape and type."""
        if self.size == 1:
            return array[None].copy()
        source = self._to_movable(array)
        xp = cuda_setup.import_cupy() if is_cupy(source) else np
        into = xp.empty((self.size, *source.shape), source.dtype)
        on_device, transport = self._transport(source)
        pending = transport.start_all_gather(source, into)
        self._started(pending, described("all_gather", source), on_device).finish()
        return into if is_cupy(array) == is_cupy(into) else to_host(into)

    def barrier(self, what: str = "barrier") -> None:
        """Wait until every rank is here."""
        self.all_reduce(np.zeros(1), what=what)
        self.settle()

    def gather_texts(self, text: str) -> list[str]:
        """The text of each rank."""
        content = np.frombuffer(text.encode("utf-8"), np.uint8)
        sizes = self.all_gather(np.array([content.size], np.int64))[:, 0]
        padded = np.zeros(max(1, int(sizes.max())), np.uint8)
        padded[: content.size] = content
        rows = self.all_gather(padded)
        return [bytes(row[:size]).decode("utf-8") for row, size in zip(rows, sizes, strict=True)]

    def settle(self) -> None:
        """Wait for the GPU's collectives so far, for `timeout` seconds at most: a wait for the device itself
        would have no end."""
        outstanding, self._outstanding = self._outstanding, []
        for started in outstanding:
            wait(started.pending, started.what, self.name, self.timeout)
        if outstanding and self.device is not None:
            self.device.check()

    def _started(self, pending: Pending, what: str, on_device: bool) -> Started:
        started = Started(self, pending, what, on_device)
        if on_device and not capturing():  # within a graph nothing is under way yet
            self._outstanding.append(started)
        return started

    def watch_device(self, what: str) -> None:
        """Let `settle` wait for what the GPU has been given so far: a graph with collectives in it."""
        if self.device is not None:
            self._outstanding.append(Started(self, self.device.mark(), what, True))

    def _start_broadcast(self, array: Array, root: int) -> Started:
        _check_contiguous(array)
        on_device, transport = self._transport(array)
        what = described(f"broadcast from rank {root}", array)
        return self._started(transport.start_broadcast(array, root), what, on_device)

    def _through(self, array: Array, start: Any) -> None:
        """Start and finish a collective that changes `array`, by way of the GPU where only that can."""
        moved = self._to_movable(array)
        start(moved).finish()
        if moved is not array:
            self.settle()
            array[...] = to_host(moved)

    def _to_movable(self, array: Array) -> Array:
        if is_cupy(array) or self.host is not None:
            return array
        return cuda_setup.import_cupy().asarray(array)

    def _transport(self, array: Array) -> tuple[bool, Transport]:
        found = self.device if is_cupy(array) else self.host
        if found is None:
            raise DeviceError(
                f"{self.name} has no way to send arrays on {'a GPU' if is_cupy(array) else 'the CPU'}: call "
                "gp.parallel.init() after gp.set_device(...), and start CPU ranks with mpirun"
            )
        return is_cupy(array), found


def _check_contiguous(array: Array) -> None:
    if not hasattr(array, "flags") or not array.flags.c_contiguous:
        raise DataError("ranks exchange C-contiguous NumPy or CuPy arrays, changed in place")


def wanted_timeout(given: float | None) -> float:
    """Seconds to wait: as given, else GPUPROP_TIMEOUT, else 600."""
    if given is None:
        text = os.environ.get("GPUPROP_TIMEOUT", "").strip()
        try:
            given = float(text) if text else TIMEOUT
        except ValueError:
            given = -1.0
    if not 0 < given < float("inf"):
        raise DataError("GPUPROP_TIMEOUT, or timeout, is a number of seconds above 0")
    return given
