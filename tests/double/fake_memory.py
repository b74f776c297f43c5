"""Memory of the fake device: pools that hand out again what was given back to them."""

from __future__ import annotations

import sys
import weakref
from typing import Any

import numpy as np


class Chunk:
    """Memory of a pool, in use as long as this lives."""

    def __init__(self, pool: MemoryPool | None, memory: np.ndarray, stream: int = 0) -> None:
        self.memory = memory
        self.ptr = memory.ctypes.data
        self.size = memory.nbytes
        if pool is not None:
            weakref.finalize(self, pool.take_back, memory, stream)


class MemoryPool:
    """Memory that is handed out again, to the stream that had it. `blocks` is what it ever took from the
    machine, `given` how often it was asked for some, `used` how many bytes are in use."""

    def __init__(self, machine: Any = None) -> None:
        self.machine = machine or sys.modules["cupy"].machine
        self.free: dict[int, list[np.ndarray]] = {}
        self.blocks = self.given = self.used = 0

    def malloc(self, size: int) -> Chunk:
        wanted = max(1, -(-size // 512)) * 512
        stream = self.machine.stream.number
        self.given += 1
        self.used += wanted
        free = self.free.get(stream, [])
        for i, memory in enumerate(free):
            if memory.nbytes == wanted:
                return Chunk(self, free.pop(i), stream)
        self.blocks += 1
        memory = aligned(wanted)
        self.machine.order.users.pop(memory.ctypes.data, None)  # what was there before is done
        return Chunk(self, memory, stream)

    def take_back(self, memory: np.ndarray, stream: int) -> None:
        self.used -= memory.nbytes
        self.free.setdefault(stream, []).append(memory)

    def used_bytes(self) -> int:
        return self.used

    def total_bytes(self) -> int:
        return self.used + sum(memory.nbytes for free in self.free.values() for memory in free)

    def free_all_blocks(self) -> None:
        self.free.clear()


def aligned(size: int) -> np.ndarray:
    """`size` bytes at an address that 512 divides, full of NaN."""
    raw = np.empty(size + 512, np.uint8)
    start = -raw.ctypes.data % 512
    memory = raw[start : start + size]
    memory[...] = 255
    return memory
