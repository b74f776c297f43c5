"""Element-wise work in blocks that stay in a core's cache, over the threads there are."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from ..backend.arrays import Array
from ..backend.buffers import empty
from ..backend.half import kept
from ..backend.threads import LEAST, over_rows

BLOCK = 1 << 16  # elements at a time: what f computes on the way is then still in a core's cache


def blockwise(f: Callable[..., Array], *arrays: Array) -> Array:
    """f(*arrays) for an f that works element by element and gives the type of its first argument.

    Only large NumPy arrays of one shape, and of one type or bool, are cut into blocks; for all others this is
    the plain call.
    """
    first = arrays[0]
    if not isinstance(first, np.ndarray) or first.size < LEAST or not _alike(arrays):
        return kept(f(*arrays), *arrays)
    y = empty(np, first.shape, first.dtype)
    flat = all(a.flags.c_contiguous for a in arrays)
    parts: list[Any] = [a.reshape(-1) if flat else a for a in (*arrays, y)]
    count = parts[0].shape[0]
    step = max(1, BLOCK * count // first.size)

    def work(start: int, stop: int) -> None:
        for i in range(start, stop, step):
            *inputs, out = (p[i : min(i + step, stop)] for p in parts)
            out[...] = f(*inputs)

    over_rows(work, count, first.size)
    return y


def _alike(arrays: tuple[Array, ...]) -> bool:
    first = arrays[0]
    return all(
        isinstance(a, np.ndarray) and a.shape == first.shape and a.dtype in (first.dtype, bool)
        for a in arrays[1:]
    )
