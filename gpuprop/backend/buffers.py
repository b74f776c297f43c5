"""Memory that operations on a CPU use again: a new array takes the place of one that nobody refers to now.

A training step makes the same arrays as the step before. Fresh memory for each costs page faults, so `empty`
keeps the memory it hands out and is told, by a weak reference, when the array has gone. An array that a user
keeps, or any view of one, is not gone, so it is never overwritten, and nothing has to be given back. What was
freed last is handed out first: it is still in the cache.

Sizes are rounded up to an eighth of their power of two, so that batches of slightly different shapes share
memory, and a block up to twice as large serves where there is no other. What was not needed for some time is
let go, and so is a smaller one where a larger one has to be made. GPUPROP_REUSE_BUFFERS=0 switches it off.
"""

from __future__ import annotations

import math
import os
from typing import Any, NamedTuple
from weakref import ref

import numpy as np

from .arrays import Array

LEAST = 1 << 13  # bytes below which the C library is as fast
SWEEP = 1 << 14  # arrays handed out between two looks for what is not needed: some dozens of steps
LINE = 64  # bytes of a cache line and of the widest registers: arrays begin at one


class _Block(NamedTuple):
    """size: bytes that can be used; start: of the first one in `memory`."""

    size: int
    memory: bytearray
    start: int


_Blocks = dict[int, list[_Block]]  # by size


class Pool:
    """Blocks of memory. Several threads may take from it: each step of it is atomic."""

    def __init__(self) -> None:
        self.idle: _Blocks = {}  # the one freed last at the end
        self.spare: _Blocks = {}  # idle since the last sweep
        self.out: dict[int, tuple[Any, _Block]] = {}  # behind arrays, by the identity of the weak reference
        self.ended = self.give_back
        self.handed_out = 0

    def array(self, shape: int | tuple[int, ...], dtype: Any, size: int) -> Array:
        """An array of this shape, which takes `size` bytes, in memory that nobody refers to."""
        unit = 1 << max(0, size.bit_length() - 4)
        size = -(-size // unit) * unit
        self.handed_out += 1
        if self.handed_out % SWEEP == 0:
            self.sweep()
        try:
            block = self.idle[size].pop()
        except (KeyError, IndexError):
            block = self.find(size, unit)
        y = np.ndarray(shape, dtype, block.memory, block.start)
        gone = ref(y, self.ended)
        self.out[id(gone)] = gone, block
        return y

    def give_back(self, gone: Any) -> None:
        """The array of this weak reference, and with it all views of it, are no more."""
        block = self.out.pop(id(gone))[1]
        try:
            self.idle[block.size].append(block)
        except KeyError:
            self.idle.setdefault(block.size, []).append(block)

    def find(self, size: int, unit: int) -> _Block:
        """The least idle block of this size or larger, up to twice as large; or else a new one."""
        for k in range(9):
            found = self.pop(size + k * unit)
            if found is not None:
                return found
        for k in range(1, 9):  # a smaller one whose work the new one will do too
            if self.pop(size - k * unit) is not None:
                break
        memory = bytearray(size + LINE)
        return _Block(size, memory, -np.frombuffer(memory, np.uint8).ctypes.data % LINE)

    def pop(self, size: int) -> _Block | None:
        """An idle block of exactly this size."""
        for blocks in (self.idle.get(size), self.spare.get(size)):
            if blocks:
                return blocks.pop()
        return None

    def sweep(self) -> None:
        """Let go of what was not needed since the last call."""
        self.spare, self.idle = self.idle, {}

    def held(self) -> int:
        """Bytes kept, in use or not."""
        idle = (b for blocks in (self.idle, self.spare) for some in list(blocks.values()) for b in list(some))
        return sum(b.size for b in idle) + sum(b.size for _, b in list(self.out.values()))

    def clear(self) -> None:
        """Let go of everything; arrays that are in use stay as they are."""
        self.idle, self.spare, self.out = {}, {}, {}


pool = Pool()
_switched_on = os.environ.get("GPUPROP_REUSE_BUFFERS", "1") != "0"


def empty(xp: Any, shape: int | tuple[int, ...], dtype: Any) -> Array:
    """An array of this shape whose elements are not set, as xp.empty; on a CPU in memory used before."""
    if xp is not np or not _switched_on:
        return xp.empty(shape, dtype)
    dtype = np.dtype(dtype)
    size = (shape if isinstance(shape, int) else math.prod(shape)) * dtype.itemsize
    if size < LEAST:
        return np.empty(shape, dtype)
    return pool.array(shape, dtype, int(size))


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
