"""A device's memory: what this process holds of it, what is free, and who else holds some."""

from __future__ import annotations

import os
from dataclasses import dataclass

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


def _gib(size: int) -> str:
    return f"{size / GIB:.1f} GiB"
