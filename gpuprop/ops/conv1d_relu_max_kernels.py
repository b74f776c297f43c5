"""Convolutions, ReLU and maximum over time where kernels run (conv1d_relu_max.cu): two launches each way for
up to four widths. Large ones for tensor cores are left to `conv1d_relu_max_products`, forward."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from ..backend import kernels
from ..backend.arrays import Array, get_xp
from ..backend.instantiations import C_TYPES, PACK
from ..backend.kernel_memory import aligned
from ..backprop import Context
from . import conv1d_relu_max_products as products
from .windows import Width

THREADS, TILE, FILTERS, SIDE, MOST = 256, 64, 4, 32, 4  # as in conv1d_relu_max.cu
SPANS = (16, 32, 64)  # windows of a text in a tile
MOST_BLOCKS = 65536  # of a grid; kernels walk what is beyond it


class Group(NamedTuple):
    """The convolutions of a launch: which they are, as numbers that the kernels take, and their filters one
    behind the other, each (K C,)."""

    plan: Sequence[Width]
    widths: tuple[int, ...]
    joined: Array


def usable(x: Array, arrays: Sequence[Array | None]) -> bool:
    """Whether the kernels take x (B, L, C), weights and biases, all of one type."""
    return x.size > 0 and x.dtype.name in C_TYPES and kernels.usable(x, *arrays)


def forward(ctx: Context, x: Array, parameters: Sequence[Any], plan: Sequence[Width], mask: Any) -> Array:
    """y (B, ΣF) of x (B, L, C); parameters: weight (F, K, C) and bias (F,) or None of each width in turn."""
    xp, (batch, length, channels) = get_xp(x, *(p for p in parameters if p is not None)), x.shape
    x = xp.ascontiguousarray(x)
    mask = None if mask is None else xp.ascontiguousarray(mask, dtype=bool)
    features = plan[-1].feature + plan[-1].out
    y, winner = xp.empty((batch, features), x.dtype), xp.empty((batch, features), np.int32)
    bias, groups = xp.empty(features, x.dtype), []
    for i in range(0, len(plan), MOST):
        part = plan[i : i + MOST]
        own = [p if p is None else _in_order(p) for p in parameters[2 * i : 2 * (i + MOST)]]
        group = _join(part, own, bias, channels)
        groups.append(group)
        if all(products.suits(x, w, width) for w, width in zip(own[::2], part, strict=True)):
            for w, b, width in zip(own[::2], own[1::2], part, strict=True):
                products.forward(x, w, b, mask, width, y, winner)
            continue
        windows = max(length + w.left + w.right - w.kernel + 1 for w in part)
        span = next((s for s in SPANS if s >= windows), TILE)
        blocks = math.ceil(batch / (TILE // span)) * sum(math.ceil(w.out / TILE) for w in part)
        arrays = (x, mask, group.joined, bias, y, winner, *group.widths)
        sizes = (batch, length, channels, features, span, _packed(channels, x, group.joined))
        _kernel("forward", x)(min(blocks, MOST_BLOCKS), THREADS, (*arrays, *sizes))
    ctx.save(x, groups, winner)
    return y


def backward(ctx: Context, dy: Array) -> tuple[Array | None, ...]:
    """The gradients of x and of all weights and biases; of those not wanted, None."""
    x, groups, winner = ctx.saved
    xp, (batch, length, channels) = get_xp(x), x.shape
    dy = xp.ascontiguousarray(dy, dtype=x.dtype)
    dx = xp.empty_like(x) if ctx.needs_grad[0] else None
    grads: list[Array | None] = []
    for i, (plan, widths, joined) in enumerate(groups):
        found = _gradients(ctx, 2 * i * MOST + 1, plan, x)
        arrays = [a if a is None or a.ndim == 1 else a.transpose(1, 2, 0) for a in found]
        sizes = (batch, length, channels, winner.shape[1])
        if any(a is not None for a in arrays):
            run = 32 * PACK // x.dtype.itemsize
            blocks = sum(math.ceil(w.kernel * channels / run) * math.ceil(w.out / FILTERS) for w in plan)
            args = (x, dy, winner, *_by_kind(arrays, 0), *_by_kind(arrays, 1), *widths, *sizes)
            kernel = _kernel("backward_weight", x)
            kernel(min(blocks, MOST_BLOCKS), THREADS, (*args, _packed(channels, x)))
        if dx is not None:
            warps = batch * length * math.ceil(channels * x.dtype.itemsize / PACK / 32)
            grid = min(math.ceil(warps / (THREADS // 32)), MOST_BLOCKS)
            args = (dy, winner, joined, dx, *widths, *sizes, _packed(channels, dx, joined), i > 0)
            _kernel("backward_input", x)(grid, THREADS, args)
        grads += found
    return dx, *grads


def _in_order(parameter: Array) -> Array:
    """A weight (F, K, C) as (K, C, F), a bias (F,) as it is, each contiguous."""
    xp = get_xp(parameter)
    return xp.ascontiguousarray(parameter if parameter.ndim == 1 else parameter.transpose(1, 2, 0))


def _join(plan: Sequence[Width], arrays: Sequence[Any], bias: Array, channels: int) -> Group:
    """The filters of some widths one behind the other, and their biases in their places of `bias` (ΣF,)."""
    xp = get_xp(bias)
    joined = xp.empty(sum(w.out * w.kernel * channels for w in plan), bias.dtype)
    widths = _widths(plan)
    tiles = sum(math.ceil(w.kernel * channels / SIDE) * math.ceil(w.out / SIDE) for w in plan)
    kernel = kernels.project("conv1d_relu_max", f"conv1d_relu_max_join<{kernels.c_type(bias.dtype)}>")
    args = (*_by_kind(arrays, 0), *_by_kind(arrays, 1), joined, bias, *widths, channels)
    kernel(min(tiles, MOST_BLOCKS), THREADS, args)
    return Group(plan, widths, joined)


def _widths(plan: Sequence[Width]) -> tuple[int, ...]:
    """The numbers that kernels take of up to four widths: how many, the first feature, and of each the length
    of its windows, its filters, and the padding on the left and on the right."""
    of_each = [(w.kernel, w.out, w.left, w.right) for w in plan] + [(0, 0, 0, 0)] * (MOST - len(plan))
    return len(plan), plan[0].feature, *(n for numbers in zip(*of_each, strict=True) for n in numbers)


def _gradients(ctx: Context, first: int, plan: Sequence[Width], x: Array) -> list[Array | None]:
    """Memory for the gradients (F, K, C) and (F,) of the inputs from number `first` on: the optimizer's where
    it is in the kernels' order."""
    found: list[Array | None] = []
    for number, w in enumerate(plan):
        for i, shape in enumerate([(w.kernel, x.shape[2], w.out), (w.out,)], first + 2 * number):
            into = ctx.destination(i) if ctx.needs_grad[i] else None
            if ctx.needs_grad[i] and not _fits(into, x):
                into = get_xp(x).empty(shape, x.dtype)
                into = into if into.ndim == 1 else into.transpose(2, 0, 1)
            found.append(into)
    return found


def _fits(into: Array | None, x: Array) -> bool:
    """Whether a kernel can write a gradient there."""
    if into is None or into.dtype != x.dtype:
        return False
    return bool((into if into.ndim == 1 else into.transpose(1, 2, 0)).flags.c_contiguous)


def _by_kind(arrays: Sequence[Any], kind: int) -> tuple[Any, ...]:
    """Of weights and biases in turn, all of one kind, for as many convolutions as a kernel takes."""
    some = list(arrays[kind::2])
    return tuple(some + [None] * (MOST - len(some)))


def _packed(channels: int, x: Array, *others: Array) -> bool:
    """Whether every position of a text is whole packs of 16 bytes."""
    return channels * x.dtype.itemsize % PACK == 0 and aligned(x, *others)


def _kernel(name: str, like: Array) -> kernels.Kernel:
    return kernels.project(
        "conv1d_relu_max", f"conv1d_relu_max_{name}<{', '.join(kernels.c_types(like.dtype))}>"
    )
