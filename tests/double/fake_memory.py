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


class CudaError(RuntimeError):
    """cupy.cuda.runtime.CUDARuntimeError."""


class OutOfMemoryError(MemoryError):
    """cupy.cuda.memory.OutOfMemoryError."""

    def __init__(self, size: int, total: int, limit: int = 0) -> None:
        super().__init__(f"Out of memory allocating {size:,} bytes (allocated so far: {total:,} bytes).")


class MemoryPool:
    """Memory that is handed out again, to the stream that had it. `blocks` is what it ever took from the
    machine, `given` how often it was asked for some, `used` how many bytes are in use."""

    def __init__(self, allocator: Any = None) -> None:
        self.allocator = allocator
        self.free: dict[int, list[np.ndarray]] = {}
        self.blocks = self.given = self.used = 0
        self.limit: int | None = None
        self.machine: Any = None

    def __del__(self) -> None:
        """CuPy keeps for ever what is free in a pool that has gone."""
        if self.machine is not None:
            self.machine.leaked += self.total_bytes()

    def malloc(self, size: int) -> Chunk:
        wanted = max(1, -(-size // 512)) * 512
        self.machine = machine = sys.modules["cupy"].machine
        stream = machine.stream.number
        self.given += 1
        free = self.free.get(stream, [])
        found = next((i for i, memory in enumerate(free) if memory.nbytes == wanted), None)
        if found is None:
            self.blocks += 1
            memory = self._new(machine, wanted)
        else:
            memory = free.pop(found)
        self.used += wanted
        return Chunk(self, memory, stream)

    def _new(self, machine: Any, size: int) -> np.ndarray:
        """As CuPy does: where the driver has none left, what is free here goes back to it first."""
        machine.growing = True
        try:
            for _ in range(2):
                try:
                    return (self.allocator or machine.raw)(size).memory
                except CudaError as error:
                    if "cudaErrorMemoryAllocation" not in str(error):
                        raise
                    self.free_all_blocks()
            raise OutOfMemoryError(size, self.total_bytes())
        finally:
            machine.growing = False

    def set_limit(self, size: int | None = None, fraction: float | None = None) -> None:
        self.limit = size

    def take_back(self, memory: np.ndarray, stream: int) -> None:
        self.used -= memory.nbytes
        self.free.setdefault(stream, []).append(memory)

    def used_bytes(self) -> int:
        return self.used

    def total_bytes(self) -> int:
        return self.used + sum(memory.nbytes for free in self.free.values() for memory in free)

    def free_all_blocks(self, stream: Any = None) -> None:
        machine = sys.modules["cupy"].machine
        if machine.left is not None:
            machine.left += sum(memory.nbytes for free in self.free.values() for memory in free)
        self.free.clear()


def aligned(size: int) -> np.ndarray:
    """`size` bytes at an address that 512 divides, full of NaN."""
    raw = np.empty(size + 512, np.uint8)
    start = -raw.ctypes.data % 512
    memory = raw[start : start + size]
    memory[...] = 255
    return memory
