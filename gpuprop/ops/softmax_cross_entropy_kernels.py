"""Softmax cross-entropy in kernels: loss and gradient in one walk where that is right
(softmax_cross_entropy_fused.cu), else one after the other (softmax_cross_entropy.cu)."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np

from ..backend import kernels
from ..backend.arrays import Array, get_xp
from ..backend.instantiations import PACK, ROW_TEAMS, TEAMS
from ..backend.kernel_memory import aligned, arrivals, shared_memory
from ..backend.recording import known_ones
from ..backend.start import is_start, start_beside

THREADS, SLAB_THREADS = 256, 128  # as in the kernels
SLAB_BYTES = 256  # of a row of sums up to which rows go through shared memory
PACKS = 8  # of a row at most a thread, where fewer threads than the most share it
OTHER_BYTES = 1024  # of shared memory at most, beside the rows
MOST_BLOCKS = 2048  # of a grid, which comes from sizes alone: it decides the order of adding


class Options(NamedTuple):
    """What does not change from row to row. weight is (C,) in the type of the sums, or None; ignores: whether
    some target may be ignore_index; soft_cap is 0 for none."""

    weight: Array | None
    ignore_index: int
    reduction: str
    ignores: bool = True
    smoothing: float = 0.0
    z_loss: float = 0.0
    soft_cap: float = 0.0


class Saved(NamedTuple):
    """What backward needs: the gradient of the loss, made for the one that is expected (None: for 1), or the
    logits and what their softmax was divided by."""

    gradient: Array | None
    log_sum_exp: Array | None
    weight_sum: Array | None
    total: Array | None
    expected: Array | None = None


def sum_type(z: Array) -> Any:
    """The type of losses and sums: float64 for float64, else float32."""
    return np.float64 if z.dtype == np.float64 else np.float32


def forward(
    z: Array, t: Array, options: Options, first_bad: Array, wants_gradient: bool
) -> tuple[Array, Saved]:
    """The loss, or the losses of the rows, for logits z (N, C) and targets t (N,), int64.

    The gradient is made at once, but for "none", where each row has one of its own to be multiplied with. In
    float16 it is made again, from the logits, where dy turns out to be other than expected, as it must not be
    rounded before it is scaled.
    """
    xp, w = get_xp(z), options.weight
    weight_sum = None if w is None else w.sum(keepdims=True)
    if not aligned(z):
        return _forward_simply(z, t, options, weight_sum, first_bad)
    n, dtype, each = len(z), sum_type(z), options.reduction == "none"
    total = _total(z, t, options) if options.reduction == "mean" else None
    at_once = wants_gradient and not each
    gradient = xp.empty(z.shape, z.dtype) if at_once else None
    expected = start_beside(z, dtype) if at_once else None
    again = wants_gradient and (each or z.dtype == np.float16)
    log_sum_exp = xp.empty(n, dtype) if again else None
    losses, result = (xp.empty(n, dtype), None) if each else (None, xp.empty((), dtype))
    name, block, grid, shared = plan(z)
    work = (None, None) if each else (xp.empty(grid, dtype), arrivals(z))
    arrays = (z, t, w, weight_sum, total, expected, gradient, losses, log_sum_exp, result, *work, first_bad)
    numbers = (*z.shape, *_numbers(options))
    if name != "slab":
        teams = block // int(name.split()[1])
        held = min(shared, shared_memory(z) - OTHER_BYTES) // (PACK * teams)
        numbers, shared = (*numbers, held), held * PACK * teams
    _fused(name, z)(grid, block, (*arrays, *numbers), shared_mem=shared)
    return losses if each else result, Saved(gradient, log_sum_exp, weight_sum, total, expected)


def backward(dy: Array, z: Array, t: Array, options: Options, saved: Saved) -> Array:
    """The gradient of z (N, C), for dy of one element, or (N,) with reduction "none"."""
    xp, expected, dz = get_xp(z), saved.expected, saved.gradient
    if dz is not None and (known_ones(dy) if expected is None else is_start(dy, expected)):
        return dz
    dy = xp.ascontiguousarray(dy, dtype=sum_type(z)).reshape(-1)
    if dz is not None and z.dtype != np.float16:
        scale(dz, dy if expected is None else dy / expected)
        return dz
    made = dz is not None
    dz = xp.empty(z.shape, z.dtype) if dz is None else dz
    each = options.reduction == "none"
    grid = min(math.ceil(dz.size / THREADS), 2**31 - 1)
    arrays = (z, t, options.weight, saved.weight_sum, saved.log_sum_exp, dy, each, saved.total, dz)
    name = _simple("backward", *kernels.c_types(z.dtype))
    name(grid, THREADS, (*arrays, *z.shape, *_numbers(options), expected, made))
    return dz


def scale(x: Array, factor: Array) -> None:
    """x *= factor, an array of one number in the type of the sums; nothing is read where that is 1."""
    grid = min(math.ceil(x.size * x.dtype.itemsize / PACK / THREADS), MOST_BLOCKS)
    _fused("scale", x)(grid, THREADS, (x, factor, x.size))


def _total(z: Array, t: Array, options: Options) -> Array:
    """Σ w[target] over the rows that count, (1,)."""
    xp, dtype = get_xp(z), sum_type(z)
    total, grid = xp.empty(1, dtype), total_blocks(len(t))
    args = (t, options.weight, xp.empty(grid, dtype), arrivals(z), total)
    _fused("total", z, plain=True)(grid, THREADS, (*args, *z.shape, options.ignore_index))
    return total


def total_blocks(rows: int) -> int:
    """The grid of the kernel that adds up the weights of so many targets."""
    return min(math.ceil(rows / (8 * THREADS)), MOST_BLOCKS)


def plan(z: Array) -> tuple[str, int, int, int]:
    """Kernel, block, grid and bytes of shared memory for logits z (N, C), should there be so many."""
    (n, classes), pack = z.shape, PACK // z.dtype.itemsize
    size = np.dtype(sum_type(z)).itemsize
    if classes * size <= SLAB_BYTES:
        grid = min(math.ceil(n / SLAB_THREADS), MOST_BLOCKS)
        return "slab", SLAB_THREADS, grid, SLAB_THREADS * (classes | 1) * size
    packs = classes // pack if classes % pack == 0 else (classes + pack - 2) // pack + 1
    team = next((team for team in ROW_TEAMS if packs <= PACKS * team), ROW_TEAMS[-1])
    block = max(team, THREADS)
    grid = min(math.ceil(n * team / block), MOST_BLOCKS)
    return f"row {team}", block, grid, block // team * packs * PACK


def _numbers(options: Options) -> tuple[float, ...]:
    return options.ignore_index, options.smoothing, options.z_loss, options.soft_cap


def _fused(name: str, z: Array, plain: bool = False) -> kernels.Kernel:
    name, *team = name.split()
    types = kernels.c_types(z.dtype)[plain:]
    expression = f"softmax_cross_entropy_{name}<{', '.join((*types, *team))}>"
    return kernels.project("softmax_cross_entropy_fused", expression)


def _simple(name: str, *types: Any) -> kernels.Kernel:
    expression = f"softmax_cross_entropy_{name}<{', '.join(map(str, types))}>"
    return kernels.project("softmax_cross_entropy", expression)


def _forward_simply(
    z: Array, t: Array, options: Options, weight_sum: Array | None, first_bad: Array
) -> tuple[Array, Saved]:
    (n, classes), w = z.shape, options.weight
    xp, dtype = get_xp(z), sum_type(z)
    types = kernels.c_types(z.dtype)
    team = TEAMS[0] if classes <= 1024 else TEAMS[1]  # a warp a row, or a block
    losses, log_sum_exp = xp.empty(n, dtype), xp.empty(n, dtype)
    grid = min(math.ceil(n * team / THREADS), 2**31 - 1)
    args = (z, t, w, weight_sum, losses, log_sum_exp, first_bad, n, classes, *_numbers(options))
    _simple("forward", *types, team)(grid, THREADS, args)
    if options.reduction == "none":
        return losses, Saved(None, log_sum_exp, weight_sum, None)
    loss, total, mean = xp.empty((), dtype), xp.empty(1, dtype), options.reduction == "mean"
    sizes = (n, classes, options.ignore_index)
    _simple("reduce", types[1])(1, THREADS, (losses, t, w, loss, total, *sizes, mean))
    return loss, Saved(None, log_sum_exp, weight_sum, total if mean else None)
