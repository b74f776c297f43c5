"""What is said of a GPU's memory, on stand-ins for CuPy and NVML."""

from __future__ import annotations

import os
import types
from typing import Any

import gpuprop as gp
from gpuprop.backend.memory import memory_use, release_memory

GIB = 1 << 30


def test_a_gpu_in_use(machine: Any) -> None:
    others = [
        types.SimpleNamespace(pid=os.getpid(), usedGpuMemory=9 * GIB),
        types.SimpleNamespace(pid=77, usedGpuMemory=4 * GIB),
    ]
    cupy = machine([machine.board(0, nvmlDeviceGetComputeRunningProcesses=others)]).cupy
    freed = []
    pool = types.SimpleNamespace(total_bytes=lambda: 7 * GIB, free_all_blocks=lambda: freed.append(1))
    cupy.get_default_memory_pool = lambda: pool
    cupy.runtime.memGetInfo = lambda: (2 * GIB, 80 * GIB)
    use = memory_use(gp.Device("cuda", 0))
    assert str(use) == (
        "at most 7.0 GiB were in use here, 2.0 GiB of 80.0 GiB are free; "
        "also on this GPU: a process (pid 77) 4.0 GiB"
    )
    release_memory(gp.Device("cuda", 0))
    assert freed == [1]


def test_a_cpu_has_nothing_to_say() -> None:
    assert memory_use(gp.Device("cpu")) is None
    release_memory(gp.Device("cpu"))
