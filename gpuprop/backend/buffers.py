"""Memory that operations on a CPU use again: a new array takes the place of one that nobody refers to now.

A training step makes the same arrays as the step before. Fresh memory for each costs page faults, so `empty`
keeps the memory it hands out, and hands it out again once the pool's own reference is the only one left. An
array that the user keeps, or any view of one, refers to its memory too, so it is never overwritten, and
nothing has to be given back.

Each array begins at a cache line: reading and writing across lines costs NumPy a fifth of its speed and more.

Every array begins at a cache line: NumPy and the matrix library are up to a third slower across lines.

Sizes are rounded up to an eighth of their power of two, so that batches of slightly different shapes share
memory, and a buffer up to twice as large serves where there is no other. What was not needed for some time is
let go, and so is a smaller one where a larger one has to be made. GPUPROP_REUSE_BUFFERS=0 switches it off.
"""

from __future__ import annotations

import math
import os
import threading
from sys import getrefcount
from typing import Any

import numpy as np

from .arrays import Array

LEAST = 1 << 13  # bytes below which the C library is as fast
RECENT = 4  # of the buffers handed out last, which are still in cache, looked at first
LINE = 64  # bytes of a cache line, and of the widest registers
LINE = 64  # bytes of a cache line and of the widest registers
SWEEP = 1 << 14  # arrays handed out between two looks for what is not needed: some dozens of steps


class Memory(np.ndarray):
    """Bytes (n,), the first of them at a cache line `start` bytes in.

    A type of its own, so that arrays in it refer to it and to nothing behind it.
    """

    __slots__ = ("start",)
    start: int

    @classmethod
    def of(cls, size: int) -> Memory:
        """`size` bytes from `start` on."""
        made = np.ndarray.__new__(cls, size + LINE, np.uint8)
        made.start = -made.ctypes.data % LINE
        return made


class _Class:
    """The buffers of one size. out: handed out, oldest first, perhaps free again; idle: known to be free;
    spare: how many of the idle ones were not needed since the last sweep."""

    __slots__ = ("idle", "out", "spare")

    def __init__(self) -> None:
        self.out: list[Memory] = []
        self.idle: list[Memory] = []
        self.spare = 0

    def take(self) -> Memory | None:
        """A free buffer, counted as handed out; None when all are in use."""
        out = self.out
        for i in range(len(out) - 1, max(-1, len(out) - 1 - RECENT), -1):
            if getrefcount(out[i]) == _ALONE:
                out.append(out.pop(i))
                return out[-1]
        if not self.free():
            return None
        out.append(self.idle.pop())
        self.spare = min(self.spare, len(self.idle))
        return out[-1]

    def free(self) -> bool:
        """Whether one is idle, after a look at those handed out if need be."""
        if not self.idle:
            self.collect()
        return bool(self.idle)

    def collect(self) -> None:
        """Find the buffers that are free again."""
        out = self.out
        for i in range(len(out) - 1, -1, -1):
            if getrefcount(out[i]) == _ALONE:
                self.idle.append(out.pop(i))

    def sweep(self) -> None:
        """Let go of what was not needed since the last call."""
        del self.idle[: self.spare]
        self.collect()
        self.spare = len(self.idle)


def _references(kept: list[Any]) -> int:
    return getrefcount(kept[0])


_ALONE = _references([object()])  # what getrefcount says of an object that only one list refers to


class Pool:
    """Buffers by their size. Several threads may take from it."""

    def __init__(self) -> None:
        self.classes: dict[int, _Class] = {}
        self.handed_out = 0
        self.lock = threading.Lock()

    def take(self, size: int) -> Memory:
        """Memory of at least `size` bytes that nobody refers to."""
        unit = 1 << max(0, size.bit_length() - 4)
        size = -(-size // unit) * unit
        with self.lock:
            self.handed_out += 1
            if self.handed_out % SWEEP == 0:
                self.sweep()
            own = self.classes.setdefault(size, _Class())
            found = own.take()
            if found is None:
                larger = (self.classes.get(size + k * unit) for k in range(1, 9))
                found = next((b for c in larger if c is not None and (b := c.take()) is not None), None)
            if found is None:
                self.drop_smaller(size, unit)
                found = Memory.of(size)
                own.out.append(found)
            return found

    def drop_smaller(self, size: int, unit: int) -> None:
        """Let go of a free buffer a little smaller than a new one, which will do its work too."""
        for k in range(1, 9):
            smaller = self.classes.get(size - k * unit)
            if smaller is not None and smaller.free():
                smaller.idle.pop()
                return

    def sweep(self) -> None:
        for size, found in list(self.classes.items()):
            found.sweep()
            if not found.out and not found.idle:
                del self.classes[size]

    def held(self) -> int:
        """Bytes kept, in use or not."""
        with self.lock:
            return sum(size * (len(c.out) + len(c.idle)) for size, c in self.classes.items())

    def clear(self) -> None:
        """Let go of everything; arrays that are in use stay as they are."""
        with self.lock:
            self.classes.clear()

    def renew_lock(self) -> None:
        """After a fork the thread that held it is gone."""
        self.lock = threading.Lock()


pool = Pool()
_switched_on = os.environ.get("GPUPROP_REUSE_BUFFERS", "1") != "0"
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=pool.renew_lock)


def empty(xp: Any, shape: int | tuple[int, ...], dtype: Any) -> Array:
    """An array of this shape whose elements are not set, as xp.empty; on a CPU in memory used before."""
    if xp is not np or not _switched_on:
        return xp.empty(shape, dtype)
    dtype = np.dtype(dtype)
    size = (shape if isinstance(shape, int) else math.prod(shape)) * dtype.itemsize
    if size < LEAST:
        return np.empty(shape, dtype)
    memory = pool.take(int(size))
    return np.ndarray(shape, dtype, memory, memory.start)


def lasting_zeros(xp: Any, size: int, dtype: Any) -> Array:
    """Zeros (size,) to be kept, as xp.zeros; on a CPU from the beginning of a cache line on."""
    if xp is not np:
        return xp.zeros(size, dtype)
    made = np.zeros(size + LINE // np.dtype(dtype).itemsize, dtype)
    first = -made.ctypes.data % LINE // made.itemsize
    return made[first : first + size]


def zeros(xp: Any, shape: int | tuple[int, ...], dtype: Any) -> Array:
    """An array of zeros, as xp.zeros; on a CPU in memory used before."""
    if xp is not np:
        return xp.zeros(shape, dtype)
    y = empty(xp, shape, dtype)
    y.fill(0)
    return y


def copy(xp: Any, x: Array) -> Array:
    """x in an array of its own, in C order."""
    if xp is not np:
        return xp.array(x, order="C")
    y = empty(xp, x.shape, x.dtype)
    y[...] = x
    return y


def contiguous(xp: Any, x: Array) -> Array:
    """x itself where it is in C order, else a copy that is."""
    return x if x.flags.c_contiguous else copy(xp, x)


def plus(a: Array, b: Array) -> Array:
    """a + b for two arrays of one shape."""
    if not isinstance(a, np.ndarray) or a.dtype != b.dtype:
        return a + b
    return np.add(a, b, out=empty(np, a.shape, a.dtype))


def times(a: Array, b: Any) -> Array:
    """a · b for an array and one that broadcasts to its shape, or a number, in the type of a."""
    if not isinstance(a, np.ndarray):
        return a * b
    return np.multiply(a, b, out=empty(np, a.shape, a.dtype))
