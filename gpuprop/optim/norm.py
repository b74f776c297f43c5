"""The joint 2-norm of all gradients of an optimizer, left in device memory."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

import numpy as np

from ..backend import kernels
from ..backend.arrays import Array, get_xp
from ..backend.gemm import sum_of_squares
from ..backend.instantiations import PACK
from .arena import Arena

THREADS = 256  # as in adam.cu
MOST_PARTS = 1024  # partial sums; their number, which decides the order of adding, comes from sizes alone


def gradient_norm(arenas: Iterable[Arena], scale: Array | None = None) -> Array:
    """[Σ g², √(Σ g²) / scale] (2,) by kernels (adam.cu), for arenas of one type and device.

    scale: what the gradients were multiplied with, float32 () in device memory.
    """
    arenas = list(arenas)
    xp = get_xp(arenas[0].grads)
    spans = [(arena, *span) for arena in arenas for span in arena.spans()]
    types = kernels.c_types(arenas[0].grads.dtype)
    sums = np.float64 if types[1] == "double" else np.float32
    if not spans:
        return xp.zeros(2, sums)
    work = arenas[0].work
    if "partials" not in work:
        work["partials"], work["arrived"] = xp.zeros(MOST_PARTS, sums), xp.zeros(1, np.uint32)
    norm, kernel = xp.empty(2, sums), kernels.project("adam", f"gradient_norm<{', '.join(types)}>")
    for k, (arena, start, stop) in enumerate(spans):
        grid = blocks(stop - start, arena.grads.dtype, MOST_PARTS)
        kernel(
            grid,
            THREADS,
            (arena.grads, start, stop, work["partials"], norm, work["arrived"], scale, k == 0),
        )
    return norm


def gradients_are_finite(arenas: Iterable[Arena]) -> Array:
    """A bool in device memory: no gradient is NaN or infinite, nor is the sum of their squares."""
    arenas = list(arenas)
    if in_kernels(arenas):
        norm = gradient_norm(arenas)
        return get_xp(norm).isfinite(norm[0])
    with np.errstate(over="ignore", invalid="ignore"):  # that is the question
        squares = [sum_of_squares(arena.grads[a:b]) for arena in arenas for a, b in arena.spans()]
    if not squares:
        return np.ones((), bool)
    xp = get_xp(squares[0]) if not isinstance(squares[0], np.generic) else np
    total = squares[0]
    for square in squares[1:]:
        total = total + square
    return xp.asarray(xp.isfinite(total))


def in_kernels(arenas: Iterable[Arena]) -> bool:
    """Whether one kernel can walk all of them: they are where kernels run, and of one type."""
    grads = [arena.grads for arena in arenas]
    return kernels.usable(*grads) and len({g.dtype for g in grads}) == 1


def blocks(size: int, dtype: Any, most: int) -> int:
    """Enough for elements that may begin and end inside a pack, but at most `most`."""
    return min(math.ceil((size / (PACK // dtype.itemsize) + 1) / THREADS), most)
