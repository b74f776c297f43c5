"""Dropout with masks from a counter-based generator: the same bits on every device."""

from __future__ import annotations

from typing import Any

import numpy as np

from ..backend import kernels, random
from ..backend.arrays import Array, get_xp
from ..backend.threads import host_size, over_rows
from ..backprop import Context
from ..op import Op
from ..tensors import Tensor
from .blockwise import BLOCK, blockwise

THREADS = 256


class Dropout(Op):
    """y = m x / (1 - p), m = 1 with probability 1 - p, else 0        dx = m dy / (1 - p)

    (Srivastava et al. 2014, in the inverted form.) Element e is kept when the e-th 16-bit number of the
    layer's stream is below (1 - p) 2^16. A kernel computes the mask again in backward instead of keeping it.
    """

    @staticmethod
    def forward(ctx: Context, x: Array, *, p: float, first: int, stream: int, call: int) -> Array:
        place = (p, first, stream, call, random.state.step, random.state.seed)
        if kernels.usable(x):
            ctx.save(None, place)
            return _launch(x, place)
        xp = get_xp(x)
        mask, y = xp.empty(x.size, bool), xp.empty(x.shape, x.dtype)
        flat, into = x.reshape(-1), y.reshape(-1)

        def work(start: int, stop: int) -> None:
            for i in range(start, stop, BLOCK):
                part = slice(i, min(i + BLOCK, stop))
                draw_mask(mask[part], first + i, place)
                into[part] = (flat[part] * (1.0 / (1.0 - p))) * mask[part]

        over_rows(work, x.size, 2 * host_size(x))
        ctx.save(mask.reshape(x.shape), place)
        return y

    @staticmethod
    def backward(ctx: Context, dy: Array) -> Array:
        mask, place = ctx.saved
        if mask is None:
            return _launch(dy, place)
        scale = 1.0 / (1.0 - place[0])
        return blockwise(lambda d, m: (d * scale) * m, dy, mask)


def draw_mask(mask: Array, first: int, place: tuple[Any, ...]) -> None:
    """Fill `mask` (n,): whether the elements first .. first + n are kept. place: as `Dropout` saves it."""
    xp, (p, _, *where) = get_xp(mask), place
    bits = random.bits16(mask.size, first, *where)
    xp.less(xp.asarray(bits), random.keep_threshold(p), out=mask)


def _launch(x: Array, place: tuple[Any, ...]) -> Array:
    p, first, stream, call, step, seed = place
    xp = get_xp(x)
    x = xp.ascontiguousarray(x)
    y = xp.empty_like(x)
    blocks = -(-(int(x.size) + random.LANES) // (random.LANES * THREADS))
    kernel = kernels.project("dropout", f"dropout<{kernels.c_type(x.dtype)}>")
    kernel(
        (blocks, 1, 1),
        (THREADS, 1, 1),
        (
            x, y, np.int64(x.size), np.int64(first), np.int32(random.keep_threshold(p)),
            np.float64(1.0 / (1.0 - p)),
            np.uint64(seed), np.uint64(stream), np.uint64(call), np.uint64(step),
        ),
    )  # fmt: skip
    return y


def dropout(x: Any, p: float, *, stream: int = random.SHUFFLE_STREAM + 1) -> Tensor:
    """Zero each element with probability p (0 <= p < 1) and scale the rest by 1 / (1 - p).

    stream: the layer's own random stream (`backend.random.new_stream`).
    """
    if not 0.0 <= p < 1.0:
        raise ValueError(f"dropout probability must be at least 0 and below 1, not {p}")
    if p == 0.0 or x.size == 0:
        return x if isinstance(x, Tensor) else Tensor(x)
    first = random.state.row_offset * (x.size // x.shape[0])
    return Dropout.apply(x, p=p, first=first, stream=stream, call=random.next_call(stream))
