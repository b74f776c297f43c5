"""Depthwise convolution with stride 1 in kernels that load each number once (conv1d_depthwise.cu).

weight (K, 1, C) is in its memory order here: a filter of K taps a channel.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from ..backend import kernels
from ..backend.arrays import Array, get_xp
from ..backend.instantiations import DEPTHWISE_TAPS, depthwise_channels
from ..backend.kernel_memory import aligned
from . import conv1d_kernels
from .conv1d_kernels import NOWHERE, Into
from .windows import Geometry

THREADS, ADDERS, WARP = 128, 1024, 32  # as in conv1d_depthwise.cu
ENOUGH = 1 << 18  # threads that keep a large GPU busy: texts are cut into runs until there are as many
LEAST_RUN = 32  # steps of a run, which begins with K - 1 rows that another run loads, too
MOST_BLOCKS = 1024  # of a sum over the batch: their number decides the order of adding
LONGEST = 1 << 30  # positions of a padded text, so that a thread's place in it fits 32 bits


def suits(x: Array, weight: Array, at: Geometry) -> bool:
    """Whether the kernels take x (B, L, C), for which kernels can be launched."""
    return fits(x.shape, weight.shape, x.dtype.itemsize, at) and aligned(x)


possible = suits


def fits(shape: tuple[int, ...], filters: tuple[int, ...], itemsize: int, at: Geometry) -> bool:
    """Whether the kernels are made for x (B, L, C) and weight (K, C / groups, O) of these shapes: one filter
    a channel, stride 1, so many taps, and channels in whole packs, as `depthwise_channels` has them."""
    kernel_size, narrow, out = filters
    if narrow != 1 or out != at.groups or at.stride != 1 or kernel_size not in DEPTHWISE_TAPS:
        return False
    longest = shape[1] + sum(at.padding) + 2 * kernel_size * at.dilation
    return longest < LONGEST and out % depthwise_channels(itemsize, kernel_size) == 0


def forward(x: Array, weight: Array, bias: Array | None, at: Geometry) -> Array:
    """y (B, T, C)."""
    batch, length, channels = x.shape
    out_length = at.out_length(length, weight.shape[0])
    return _filter(x, weight, bias, (batch, out_length, channels), at.padding[0], at, flipped=False)


def backward(
    dy: Array, x: Array, weight: Array, at: Geometry, needs_grad: Sequence[bool], into: Into = NOWHERE
) -> tuple[Array | None, Array | None, Array | None]:
    """The gradients of x, weight and bias, the last two in `into` where it has memory; None if not wanted."""
    need_x, need_weight, need_bias = needs_grad
    dy = dy if aligned(dy) else dy.copy()
    if not need_weight and not need_bias:
        left = (weight.shape[0] - 1) * at.dilation - at.padding[0]
        return _filter(dy, weight, None, x.shape, left, at, flipped=True), None, None
    xp, (kernel_size, _, channels) = get_xp(dy), weight.shape
    (batch, length, _), out_length, left = x.shape, dy.shape[1], at.padding[0]
    own, total = depthwise_channels(x.dtype.itemsize, kernel_size), max(length + left, out_length)
    cut = cut_of(x.shape, own, total, at.dilation, MOST_BLOCKS)
    dx = xp.empty_like(x) if need_x else None
    partial = xp.empty((cut.parts, kernel_size + 1, channels), conv1d_kernels.sum_type(x))
    sizes = (batch, length, channels, out_length, left, at.dilation, *cut.sizes)
    _kernel("backward", x, kernel_size)(cut.blocks, THREADS, (x, dy, weight, dx, partial, *sizes))
    dweight, dbias = into
    dweight = xp.empty(weight.shape, x.dtype) if need_weight and dweight is None else dweight
    dbias = xp.empty(channels, x.dtype) if need_bias and dbias is None else dbias
    blocks = math.ceil(kernel_size * channels / WARP) + math.ceil(channels / WARP)
    args = (partial, dweight, dbias, kernel_size, channels, cut.parts)
    _kernel("sum", x)(blocks, ADDERS, args)
    return dx, dweight, dbias


def _filter(
    x: Array,
    weight: Array,
    bias: Array | None,
    shape: tuple[int, ...],
    left: int,
    at: Geometry,
    flipped: bool,
) -> Array:
    """y of this shape, from x with `left` zeros before it; flipped: with the taps in the other order."""
    y = get_xp(x).empty(shape, x.dtype)
    (batch, length, channels), out_length = x.shape, shape[1]
    own = depthwise_channels(x.dtype.itemsize, len(weight))
    cut = cut_of(x.shape, own, out_length, at.dilation, conv1d_kernels.MOST_GRID)
    sizes = (batch, length, channels, out_length, left, at.dilation, int(flipped))
    args = (x, weight, bias, y, *sizes, *cut.sizes)
    _kernel("forward", x, weight.shape[0])(cut.blocks, THREADS, args)
    return y


@dataclass(frozen=True)
class Cut:
    """How the work is cut: `across` threads of a block along channels, the others along walks through time,
    which `parts` blocks share; a text is `pieces` walks of `run` steps for each residue of the dilation."""

    across: int
    blocks: int
    parts: int
    pieces: int
    run: int

    @property
    def sizes(self) -> tuple[int, ...]:
        """In the order in which kernels take them."""
        return self.across, self.parts, self.pieces, self.run


def cut_of(shape: tuple[int, ...], own: int, total: int, dilation: int, most_blocks: int) -> Cut:
    """For x (B, L, C) of this shape, of which a thread owns so many channels, and texts of `total` steps of
    time each."""
    batch, packs = shape[0], shape[2] // own
    across = min(WARP, 1 << (packs - 1).bit_length())
    tiles, steps = math.ceil(packs / across), math.ceil(total / dilation)
    wanted = math.ceil(ENOUGH / (packs * batch * dilation))
    run = math.ceil(steps / max(1, min(wanted, steps // LEAST_RUN)))
    pieces = math.ceil(steps / run)
    walkers = THREADS // across
    parts = min(math.ceil(batch * pieces * dilation / walkers), max(1, most_blocks // tiles))
    return Cut(across, tiles * parts, parts, pieces, run)


def _kernel(name: str, x: Array, taps: int | None = None) -> Any:
    types = ", ".join(kernels.c_types(x.dtype))
    return kernels.project(
        "conv1d_depthwise", f"conv1d_depthwise_{name}<{types}{f', {taps}' if taps else ''}>"
    )
