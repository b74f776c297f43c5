"""What our kernels ask of memory: where arrays begin, how much of it a block shares, and the count of blocks
that have come to an end."""

from __future__ import annotations

import functools
import sys
import threading
from typing import Any

import numpy as np

from .arrays import Array, cupy_array, get_xp, is_cupy
from .instantiations import PACK

SHARED_OF_EMULATOR = 227 << 10  # as sm_90, which the emulator is by default
_of_thread = threading.local()


def aligned(*arrays: Any) -> bool:
    """True when all arrays begin at a multiple of 16 bytes, as kernels that move 16 bytes at a time need."""
    return all(address(a) % PACK == 0 for a in arrays)


def address(a: Array) -> int:
    """Of the first element in memory."""
    return int(a.data.ptr if isinstance(a, cupy_array()) else a.__array_interface__["data"][0])


def shared_memory(like: Array) -> int:
    """Bytes of shared memory that a block can have when it asks, on the GPU of `like` or on the emulator."""
    return _shared_memory_of(like.device.id) if is_cupy(like) else SHARED_OF_EMULATOR


@functools.cache
def _shared_memory_of(gpu: int) -> int:
    return int(sys.modules["cupy"].cuda.Device(gpu).attributes["MaxSharedMemoryPerBlockOptin"])


def arrivals(like: Array) -> Array:
    """How many blocks have come to the end of a kernel, uint32 (1,) beside `like`: 0 between launches.

    One a thread and GPU, whose launches are one after another; on the emulator a new one each time.
    """
    xp = get_xp(like)
    if xp is np:
        return np.zeros(1, np.uint32)
    known: dict[int, Array] = _of_thread.__dict__.setdefault("arrivals", {})
    if like.device.id not in known:
        known[like.device.id] = xp.zeros(1, np.uint32)
    return known[like.device.id]
