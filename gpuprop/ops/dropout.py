"""Dropout with masks from a counter-based generator: the same bits on every device."""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np

from ..backend import kernels, random
from ..backend.arrays import Array, get_xp, is_cupy
from ..backend.buffers import empty
from ..backend.half import is_half, wide
from ..backend.threads import host_size, over_rows
from ..backprop import Context
from ..op import Op
from ..tensors import Tensor
from .blockwise import BLOCK, blockwise
from .packing import packing_of_rows

THREADS = 256


class Dropout(Op):
    """y = m x / (1 - p), m = 1 with probability 1 - p, else 0        dx = m dy / (1 - p)

    (Srivastava et al. 2014, in the inverted form.) Element e is kept when the e-th 16-bit number of the
    layer's stream is below (1 - p) 2^16. Of packed rows (N, E), row r is row rows[r] of the padded batch, and
    drops what it drops there. A kernel computes the mask again in backward instead of keeping it.
    """

    @staticmethod
    def forward(
        ctx: Context, x: Array, *, p: float, first: int, stream: int, call: int, rows: Array | None = None
    ) -> Array:
        on_device = kernels.usable(x)
        step = random.step_beside(x) if on_device else random.state.step
        place = (p, first, stream, call, step, random.state.seed)
        if on_device:
            ctx.save(None, place, rows)
            return launch(x, place, rows)
        xp = get_xp(x)
        width = 1 if rows is None else int(x.shape[1])
        mask, y = empty(xp, (x.size // width, width), bool), empty(xp, x.shape, x.dtype)
        flat, into = x.reshape(mask.shape), y.reshape(mask.shape)
        step = max(1, BLOCK // width)

        def work(start: int, stop: int) -> None:
            for i in range(start, stop, step):
                part = slice(i, min(i + step, stop))
                if rows is None:
                    draw_mask(mask[part], first + i, place)
                else:
                    _draw_rows(mask[part], rows[part], place)
                _drop(flat[part], mask[part], into[part], 1.0 / (1.0 - p))

        over_rows(work, mask.shape[0], 2 * host_size(x))
        ctx.save(mask.reshape(x.shape), place, rows)
        return y

    @staticmethod
    def backward(ctx: Context, dy: Array) -> Array:
        mask, place, rows = ctx.saved
        if mask is None:
            return launch(dy, place, rows)
        return blockwise(partial(_drop, scale=1.0 / (1.0 - place[0])), dy, mask)


def _drop(x: Array, mask: Array, out: Array, scale: float) -> None:
    """Where the mask is True x · scale, else 0, into `out`; half types are computed in float32."""
    y = out if out.dtype == x.dtype and not is_half(x.dtype) else None
    y = get_xp(x).multiply(wide(x), mask, out=y)
    y *= scale
    if y is not out:
        out[...] = y


def draw_mask(mask: Array, first: int, place: tuple[Any, ...]) -> None:
    """Fill `mask`: whether the elements from number `first` on are kept. place: as `Dropout` saves it."""
    p, _, stream, call, step, seed = place
    if is_cupy(mask):
        ones = get_xp(mask).ones(mask.shape, np.float32)
        mask[...] = launch(ones, (p, first, stream, call, random.step_beside(mask), seed), None) != 0
        return
    bits = random.bits16(mask.size, first, stream, call, step, seed)
    np.less(bits.reshape(mask.shape), random.keep_threshold(p), out=mask)


def _draw_rows(mask: Array, rows: Array, place: tuple[Any, ...]) -> None:
    """Fill `mask` (n, E) with rows of the padded batch, whose numbers `rows` (n,) rise: the rows between them
    are drawn too, which costs less than to start anew for each."""
    xp, width, lowest = get_xp(mask), mask.shape[1], int(rows[0])
    between = mask if len(rows) == int(rows[-1]) + 1 - lowest else None
    drawn = empty(xp, (int(rows[-1]) + 1 - lowest, width), bool) if between is None else between
    draw_mask(drawn, place[1] + lowest * width, place)
    if between is None:
        xp.take(drawn, rows - lowest, axis=0, out=mask)


def launch(x: Array, place: tuple[Any, ...], rows: Array | None) -> Array:
    p, first, stream, call, step, seed = place
    xp = get_xp(x)
    y = xp.empty(x.shape, x.dtype)
    x = xp.ascontiguousarray(x)
    common = (
        np.int32(random.keep_threshold(p)), np.float64(1.0 / (1.0 - p)),
        np.uint64(seed), np.uint64(stream), np.uint64(call), step,
    )  # fmt: skip
    if rows is None:
        name, threads = "dropout", -(-int(x.size) // random.LANES) + 1
        sizes: tuple[Any, ...] = (np.int64(x.size), np.int64(first))
    else:
        width = int(x.shape[1])
        chunks = -(-width // random.LANES) + 1  # a row may begin and end inside a block of random numbers
        name, threads = "dropout_rows", len(x) * chunks
        sizes = (rows, np.int64(len(x)), np.int32(width), np.int32(chunks), np.int64(first))
    kernel = kernels.project("dropout", f"{name}<{kernels.c_type(x.dtype)}>")
    kernel((-(-threads // THREADS), 1, 1), (THREADS, 1, 1), (x, y, *sizes, *common))
    return y


def dropout(x: Any, p: float, *, stream: int = random.SHUFFLE_STREAM + 1, mask: Any = None) -> Tensor:
    """Zero each element with probability p (0 <= p < 1) and scale the rest by 1 / (1 - p).

    stream: the layer's own random stream (`backend.random.new_stream`). mask (B, L), True = real token, or
    its `Packing`: x is the packed rows (N, E) of its real tokens, and drops what the padded batch (B, L, E)
    would.
    """
    check_probability(p)
    if p == 0.0 or x.size == 0:
        return x if isinstance(x, Tensor) else Tensor(x)
    first, rows = numbering("dropout", x, mask)
    return Dropout.apply(x, p=p, first=first, stream=stream, call=random.next_call(stream), rows=rows)


def check_probability(p: float) -> None:
    """Raise ValueError for what is not a probability to drop with."""
    if not 0.0 <= p < 1.0:
        raise ValueError(f"dropout probability must be at least 0 and below 1, not {p}")


def numbering(name: str, x: Any, mask: Any) -> tuple[int, Array | None]:
    """The number of the first element of the batch; and of packed rows (N, E) with their mask (B, L), their
    numbers in the padded batch. name: of the operation, for errors."""
    row = x.size // len(x) if x.ndim else 1
    row = row if mask is None else mask.shape[1] * x.shape[1]
    packing = None if mask is None else packing_of_rows(name, x, mask)
    rows = None if packing is None or packing.padded else packing.rows
    return random.state.row_offset * row, rows
