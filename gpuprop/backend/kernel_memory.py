"""What our kernels ask of memory: where arrays begin, and the count of blocks that have come to an end."""

from __future__ import annotations

import threading
from typing import Any

import numpy as np

from .arrays import Array, get_xp, is_cupy
from .instantiations import PACK

_of_thread = threading.local()


def aligned(*arrays: Any) -> bool:
    """True when all arrays begin at a multiple of 16 bytes, as kernels that move 16 bytes at a time need."""
    return all((a.data.ptr if is_cupy(a) else a.__array_interface__["data"][0]) % PACK == 0 for a in arrays)


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
