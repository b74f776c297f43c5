"""Batches on their way to a GPU: through pinned memory, by a stream of its own, while the step before runs.

    staging = Staging(cupy)
    staged = staging.send(batch)          # the host goes on at once
    ...                                   # launches of the step before run meanwhile
    staged.copy_to(block)                 # on the current stream, which waits for the copy; the host does not

The device has two blocks, one that is filled while the other is read. A block is read by one copy, to where
the step reads its inputs, rather than by the step itself: that costs some two microseconds, but a graph reads
from fixed addresses, so that inputs in two places would need two graphs for each signature.

A step that is no graph copies its batch to memory of its own, and goes on with the batch of the host, from
which a loss may take what it likes: inside `arrived`, operations find what is on the device already, as long
as nobody changed it on the host.

    with arrived(staged.arrays_on_device()):
        loss = criterion(model(batch.ids, batch.mask), batch.labels)
"""

from __future__ import annotations

import contextlib
import contextvars
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from .arrays import Array
from .static import ALIGNMENT, flatten, offsets, part

Arrived = Mapping[int, tuple[bytes, Array]]  # by the `id` of arrays of the host: what they held, where it is
_arrived: contextvars.ContextVar[Arrived | None] = contextvars.ContextVar("arrived", default=None)
MOST_COPIES = 16  # on their way from pinned memory: past that the host waits for the oldest


class PinnedRing:
    """Pinned memory of the host: as many buffers as there are copies on their way, which is what lets the
    host write the next one without waiting. Of a buffer whose copy is done, the next is made."""

    def __init__(self, xp: Any) -> None:
        self.xp = xp
        self._sent: list[tuple[Array, Any]] = []  # buffers and the events after their copies, oldest first
        self._next: tuple[Array, Any] | None = None

    def next(self, size: int) -> Array:
        """A buffer of `size` bytes, uint8, that no copy reads from."""
        buffer, event = self._free() or (None, self.xp.cuda.Event(disable_timing=True))
        if buffer is None or len(buffer) < size:
            room = 1 << max(0, size - 1).bit_length()
            buffer = np.frombuffer(self.xp.cuda.alloc_pinned_memory(room), np.uint8, room)
        self._next = buffer, event
        return buffer[:size]

    def send(self, block: Array, stream: Any) -> Any:
        """Copy what `next` gave to the device, block (size,) uint8, in the order of a stream. Returns an
        event after it."""
        assert self._next is not None
        (buffer, event), self._next = self._next, None
        block.set(buffer[: len(block)], stream=stream)
        stream.record(event)
        self._sent.append((buffer, event))
        return event

    def close(self) -> None:
        """Give the memory back (waits for copies that are on their way)."""
        for _, event in self._sent:
            event.synchronize()
        self._sent = []

    def _free(self) -> tuple[Array, Any] | None:
        if not self._sent:
            return None
        if not self._sent[0][1].done:
            if len(self._sent) < MOST_COPIES:
                return None
            self._sent[0][1].synchronize()
        return self._sent.pop(0)


class Staged:
    """A batch that is on its way to the device, or there. tree: as it was given; arrays: those of the host
    that it holds; size: bytes that they take, one after another as in `static.Inputs`."""

    def __init__(self, tree: Any, arrays: list[Array], size: int, place: _Place) -> None:
        self.tree, self.arrays, self.size, self._place = tree, arrays, size, place
        self._turn = place.turn

    def copy_to(self, block: Array) -> None:
        """Copy the arrays to the beginning of `block`, uint8, on the current stream; before two more batches
        are sent."""
        place, stream = self._place, self._place.xp.cuda.get_current_stream()
        assert place.turn == self._turn, "the batch was sent too long ago: others took its place"
        stream.wait_event(place.filled)
        block[: self.size] = place.block[: self.size]
        stream.record(place.read)

    def arrays_on_device(self) -> dict[int, tuple[bytes, Array]]:
        """The arrays in memory of the current stream, for `arrived`. They are not to be written to: an array
        that a step reads twice is one array."""
        block = self._place.xp.empty(self.size, np.uint8)
        self.copy_to(block)
        starts, _ = offsets(self.arrays, ALIGNMENT)
        placed = zip(self.arrays, starts, strict=True)
        return {id(a): (a.tobytes(), part(block, start, a)) for a, start in placed}


@contextlib.contextmanager
def arrived(arrays: Arrived) -> Iterator[None]:
    """Inside, `on_device` finds these arrays, while those of the host that they are of live."""
    token = _arrived.set(arrays)
    try:
        yield
    finally:
        _arrived.reset(token)


def on_device(a: Array, gpu: int) -> Array | None:
    """What is on this GPU already of an array of the host; None where there is nothing, or it changed."""
    known = _arrived.get()
    held, found = (b"", None) if known is None else known.get(id(a), (b"", None))
    return found if found is not None and found.device.id == gpu and a.tobytes() == held else None


class _Place:
    """A block of the device's memory with what orders its use. turn: how many batches it has held."""

    def __init__(self, xp: Any) -> None:
        self.xp, self.turn = xp, 0
        self.block: Array = None  # none yet
        self.filled: Any = None
        self.read = xp.cuda.Event(disable_timing=True)

    def make_room(self, size: int) -> None:
        """At least `size` bytes, from the memory of the current stream."""
        if self.block is not None and self.block.size >= size:
            return
        self.release()
        self.block = self.xp.empty(1 << max(0, size - 1).bit_length(), np.uint8)
        self.xp.cuda.get_current_stream().record(
            self.read
        )  # what this memory was before may be read until now

    def release(self) -> None:
        """Give the block back to the current stream, which then waits for a copy that is on its way."""
        if self.filled is not None:
            self.xp.cuda.get_current_stream().wait_event(self.filled)
        self.block = self.filled = None


class Staging:
    """See the file's text. xp: the module cupy, whose current device is used."""

    def __init__(self, xp: Any) -> None:
        self.xp = xp
        self.stream = xp.cuda.Stream(non_blocking=True)
        self._pinned = PinnedRing(xp)
        self._places = [_Place(xp), _Place(xp)]
        self._turn = 0

    def send(self, tree: Any) -> Staged | None:
        """Begin to copy the arrays of a tree to the device. None, with nothing done, where it holds no arrays
        or some that are not NumPy's, or not of numbers."""
        arrays = flatten(tree)[1]
        if not arrays or not all(isinstance(a, np.ndarray) and a.dtype.kind in "biufV" for a in arrays):
            return None
        starts, size = offsets(arrays, ALIGNMENT)
        buffer = self._pinned.next(size)
        for start, array in zip(starts, arrays, strict=True):
            part(buffer, start, array)[...] = array
        self._turn = 1 - self._turn
        place = self._places[self._turn]
        place.make_room(size)
        self.stream.wait_event(place.read)
        place.filled = self._pinned.send(place.block[:size], self.stream)
        place.turn += 1
        return Staged(tree, arrays, size, place)

    def close(self) -> None:
        """Give all memory back (waits for copies that are on their way)."""
        self._pinned.close()
        for place in self._places:
            place.release()
