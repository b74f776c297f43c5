"""Where a kernel runs, and the sizes of its grid and its blocks."""

from __future__ import annotations

import functools
import operator
from collections.abc import Sequence
from typing import Any

import numpy as np

from gpuprop.backend.arrays import Array, cupy_array
from gpuprop.backend.device import Device, get_device
from gpuprop.errors import KernelError

MAX_GRID = (2**31 - 1, 65535, 65535)
MAX_BLOCK = (1024, 1024, 64)
MAX_THREADS = 1024
INVALID = "CUDA_ERROR_INVALID_VALUE: invalid argument"


def device_of_launch(kernel: str, args: Sequence[Array]) -> Device:
    """Where the arrays are; without arrays, the current device."""
    of_cupy, gpus = cupy_array(), set()
    for a in args:
        if a is not None and not isinstance(a, np.generic):
            gpus.add(a.device.id if isinstance(a, of_cupy) else None)
    if len(gpus) > 1:
        places = ", ".join(sorted("the CPU" if gpu is None else f"cuda:{gpu}" for gpu in gpus))
        raise KernelError(f"{kernel}: the arrays are on different devices ({places})")
    current = get_device()
    if gpus and gpus != {None}:
        return _gpu(gpus.pop() or 0)
    if current.type == "emulated" or (not gpus and current.type == "cuda"):
        return current
    raise KernelError(
        f"{kernel}: the arrays are NumPy's and the current device is {current}. Kernels run on CuPy arrays, "
        'or on NumPy arrays after set_device("emulated")'
    )


_gpu = functools.cache(functools.partial(Device, "cuda"))


def dimensions(kernel: str, what: str, given: Any, limits: tuple[int, int, int]) -> tuple[int, int, int]:
    """`given`, one to three whole numbers, as three; KernelError outside the limits."""
    if type(given) is int and 1 <= given <= limits[0]:  # as most are
        return given, 1, 1
    sizes = tuple(given) if isinstance(given, (tuple, list)) else (given,)
    try:
        if not sizes:
            raise ValueError
        x, y, z = (*map(operator.index, sizes), *(1,) * (3 - len(sizes)))
    except (TypeError, ValueError):
        raise KernelError(f"{kernel}: {what} is one to three whole numbers, got {given!r}") from None
    if not (1 <= x <= limits[0] and 1 <= y <= limits[1] and 1 <= z <= limits[2]):
        raise KernelError(f"{kernel}: {INVALID}: {what} {given!r} is outside 1..{limits} (x, y, z)")
    return x, y, z
