"""Maximum and mean over time in kernels (pooling.cu): one launch each way."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from ..backend import kernels
from ..backend.arrays import Array, get_xp
from ..backend.instantiations import C_TYPES, PACK
from ..backend.kernel_memory import aligned
from ..backprop import Context

THREADS, MOST_BLOCKS = 256, 65536


def usable(x: Array) -> bool:
    """Whether the kernels take x (B, L, C)."""
    return x.size > 0 and x.dtype.name in C_TYPES and kernels.usable(x)


def forward(ctx: Context, name: str, x: Array, mask: Array | None) -> Array:
    """y (B, C) of x (B, L, C) and mask (B, L) or None. name: "max" or "mean"."""
    xp, (batch, length, channels) = get_xp(x), x.shape
    x = xp.ascontiguousarray(x)
    mask = None if mask is None else xp.ascontiguousarray(mask, dtype=bool)
    y = xp.empty((batch, channels), x.dtype)
    if name == "max":
        kept = xp.empty(y.shape, np.int32)
    else:
        kept = xp.empty(batch, np.float64 if x.dtype == np.float64 else np.float32)
    pack = _pack(x, y)
    grid = min(batch * math.ceil(channels / (32 * pack)), MOST_BLOCKS)
    _kernel(f"{name}_over_time_forward", x, pack)(grid, THREADS, (x, mask, y, kept, batch, length, channels))
    ctx.save(name, x.shape, mask, kept)
    return y


def backward(ctx: Context, dy: Array) -> Array:
    """dx (B, L, C) for dy (B, C), of what `forward` saved."""
    name, shape, mask, kept = ctx.saved
    xp = get_xp(dy)
    dy, dx = xp.ascontiguousarray(dy), xp.empty(shape, dy.dtype)
    pack = _pack(dx, dy)
    grid = min(math.ceil(dx.size / pack / THREADS), MOST_BLOCKS)
    args: tuple[Any, ...] = (dy, kept, dx) if name == "max" else (dy, mask, kept, dx)
    _kernel(f"{name}_over_time_backward", dy, pack)(grid, THREADS, (*args, *shape))
    return dx


def _pack(x: Array, *others: Array) -> int:
    """Columns a thread: 16 bytes of them where positions are whole packs."""
    pack = PACK // int(x.dtype.itemsize)
    return pack if x.shape[-1] % pack == 0 and aligned(x, *others) else 1


def _kernel(name: str, like: Array, pack: int) -> kernels.Kernel:
    return kernels.project("pooling", f"{name}<{', '.join(kernels.c_types(like.dtype))}, {pack}>")
