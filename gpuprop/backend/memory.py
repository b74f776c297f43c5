"""A device's memory: what this process holds of it, what is free, and who else holds some."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import Any

from . import buffers, cuda_setup, nvml
from .device import Device, match_gpu

GIB = 1 << 30


@dataclass(frozen=True)
class MemoryUse:
    """Bytes of a GPU. held: what CuPy's pool took from the driver, which is the most that was in use."""

    held: int
    free: int
    total: int
    others: tuple[nvml.GpuProcess, ...] = ()

    def __str__(self) -> str:
        text = f"at most {_gib(self.held)} were in use here, {_gib(self.free)} of {_gib(self.total)} are free"
        others = ", ".join(
            f"{process.name or 'a process'} (pid {process.pid})"
            + (f" {_gib(process.memory)}" if process.memory is not None else "")
            for process in self.others
        )
        return f"{text}; also on this GPU: {others}" if others else text


def memory_use(device: Device) -> MemoryUse | None:
    """What is known of a GPU's memory; None on a CPU."""
    if device.type != "cuda":
        return None
    cupy = cuda_setup.import_cupy()
    with cupy.cuda.Device(device.index):
        free, total = cupy.cuda.runtime.memGetInfo()
        held = cupy.get_default_memory_pool().total_bytes()
    gpu = match_gpu(device.index, nvml.gpus()[0])
    processes = () if gpu is None else gpu.processes
    return MemoryUse(held, free, total, tuple(p for p in processes if p.pid != os.getpid()))


def release_memory(device: Device) -> None:
    """Give back what is kept for later: by CuPy to the driver, by operations on a CPU to the C library."""
    if device.type != "cuda":
        buffers.pool.clear()
        return
    cupy = cuda_setup.import_cupy()
    with cupy.cuda.Device(device.index):
        cupy.get_default_memory_pool().free_all_blocks()


def pool_of_graphs(cupy: Any) -> Any:
    """A pool of CuPy's for captured graphs, which write to its free blocks at each replay.

    Where the driver has no memory left, or at CUPY_GPU_MEMORY_LIMIT, a pool of CuPy's gives its free blocks
    back and asks again: graphs would then write to memory of others. So this one has no limit, and what
    allocates for it raises an error that CuPy passes on.
    """
    cuda = cupy.cuda

    def allocate(size: int) -> Any:
        try:
            return cuda.MemoryPointer(cuda.Memory(size), 0)
        except cuda.runtime.CUDARuntimeError as error:
            if "cudaErrorMemoryAllocation" not in str(error):
                raise
            held = cupy.get_default_memory_pool().total_bytes()
            raise cuda.memory.OutOfMemoryError(size, held) from error

    pool = cuda.MemoryPool(allocate)
    pool.set_limit(size=0)
    return pool


_given_up: list[Any] = []  # pools that nobody asks any more, some of whose memory is in use


def give_up(pool: Any) -> None:
    """Give the memory of a pool of CuPy's back to the driver that nobody will ask any more, as soon as it is
    free: CuPy (14.2) keeps the free blocks of a pool that has gone for ever."""
    cuda = cuda_setup.import_cupy().cuda
    _given_up.append(pool)
    for one in list(_given_up):
        left = 0
        for index in range(cuda.runtime.getDeviceCount()):
            with cuda.Device(index):
                one.free_all_blocks()
                left += one.total_bytes()
        if not left:
            _given_up.remove(one)


def _gib(size: int) -> str:
    return f"{size / GIB:.1f} GiB"
