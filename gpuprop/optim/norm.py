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
from ..row_gradient import RowGradient
from ..tensors import Parameter
from . import sparse_kernels
from .arena import Arena

THREADS = 256  # as in adam.cu
MOST_PARTS = 1024  # partial sums; their number, which decides the order of adding, comes from sizes alone


def gradient_norm(arenas: Iterable[Arena], scale: Array | None = None) -> Array:
    """[Σ g², √(Σ g²) / scale] (2,) of all gradients, not finite where one of them is not.

    scale: what the gradients were multiplied with, float32 () in device memory.
    """
    arenas = list(arenas)
    if in_kernels(arenas):
        return _in_kernels(arenas, scale)
    with np.errstate(over="ignore", invalid="ignore"):  # that is the question
        total = sum(squares(p) for arena in arenas for p in arena.parameters if p.leaf.grad is not None)
    xp = get_xp(*(arena.grads for arena in arenas))
    norm = xp.sqrt(total)
    return xp.stack([xp.asarray(x) for x in (total, norm if scale is None else norm / scale)])


def joint_squares(arenas: Iterable[Arena]) -> Array:
    """[Σ g², ...] of all gradients, not finite where one of them is not: on a CPU without what the norm's
    bits need, a sum of its own for each parameter."""
    arenas = list(arenas)
    if in_kernels(arenas):
        return _in_kernels(arenas, None)
    with np.errstate(over="ignore", invalid="ignore"):
        total = sum(sum_of_squares(arena.grads[a:b]) for arena in arenas for a, b in arena.spans())
        total += sum(squares(p) for arena in arenas for p, _, _ in arena.tables())
    return get_xp(*(arena.grads for arena in arenas)).asarray(total).reshape(1)


def squares(p: Parameter) -> Array:
    """Σ g² of one gradient, over memory in its own order."""
    grad = p.leaf.grad
    assert grad is not None
    if not isinstance(grad, RowGradient):
        return sum_of_squares(grad.transpose(p.order))
    if sparse_kernels.usable(grad):
        return sparse_kernels.norm_of(grad)[0]
    return sum_of_squares(grad.coalesce().values)


def _in_kernels(arenas: list[Arena], scale: Array | None) -> Array:
    """By adam.cu, for arenas of one type and device."""
    xp = get_xp(arenas[0].grads)
    spans = [(arena, *span) for arena in arenas for span in arena.spans()]
    tables = [g for arena in arenas if arena.sparse for _, g, _ in arena.tables() if g.ids.size]
    types = kernels.c_types(arenas[0].grads.dtype)
    sums = np.float64 if types[1] == "double" else np.float32
    if not spans and not tables:
        return xp.zeros(2, sums)
    work = arenas[0].work
    if "partials" not in work:
        work["partials"], work["arrived"] = xp.zeros(MOST_PARTS, sums), xp.zeros(1, np.uint32)
    norm, kernel = xp.empty(2, sums), kernels.project("adam", f"gradient_norm<{', '.join(types)}>")
    for k, (arena, start, stop) in enumerate(spans):
        grid = blocks(stop - start, arena.grads.dtype, MOST_PARTS)
        args = (arena.grads, start, stop, work["partials"], norm, work["arrived"], scale, k == 0)
        kernel(grid, THREADS, args)
    for k, grad in enumerate(tables, len(spans)):
        sparse_kernels.add_to_norm(grad, norm, work["arrived"], scale, first=k == 0)
    return norm


def in_kernels(arenas: Iterable[Arena]) -> bool:
    """Whether one kernel can walk all of them: they are where kernels run, and of one type."""
    grads = [arena.grads for arena in arenas]
    return kernels.usable(*grads) and len({g.dtype for g in grads}) == 1


def blocks(size: int, dtype: Any, most: int) -> int:
    """Enough for elements that may begin and end inside a pack, but at most `most`."""
    return min(math.ceil((size / (PACK // dtype.itemsize) + 1) / THREADS), most)
