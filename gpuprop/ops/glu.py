"""The gated linear unit: one half of the last axis lets the other half through."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from ..backend.arrays import Array, get_xp
from ..backend.buffers import empty
from ..backend.gemm import rows
from ..backend.threads import host_size, over_rows
from ..backprop import Context
from ..errors import ShapeError
from ..op import Op
from ..tensors import Tensor
from .blockwise import BLOCK
from .exponential import logistic


class GLU(Op):
    """y = a σ(b), x = [a, b], σ(b) = 1 / (1 + e^-b)     x (..., 2C) -> y (..., C)   (Dauphin et al. 2017)

    da = dy σ(b)        db = dy a σ(b) (1 - σ(b)) = dy y (1 - σ(b))
    """

    @staticmethod
    def forward(ctx: Context, x: Array) -> Array:
        xp, flat = get_xp(x), rows(x)
        a, b = _halves(flat)
        y, gate = empty(xp, a.shape, x.dtype), empty(xp, a.shape, x.dtype)

        def work(part: slice) -> None:
            g = gate[part]
            logistic(_together(b[part], g), g)
            xp.multiply(_together(a[part], y[part]), g, out=y[part])

        _in_blocks(work, y)
        ctx.save(y, gate)
        return y.reshape(*x.shape[:-1], a.shape[1])

    @staticmethod
    def backward(ctx: Context, dy: Array) -> Array:
        y, gate = ctx.saved
        xp, flat = get_xp(dy), rows(dy)
        dx = empty(xp, (len(y), 2 * y.shape[1]), dy.dtype)
        da, db = _halves(dx)

        def work(part: slice) -> None:
            d, g = flat[part], gate[part]
            t = empty(np, g.shape, dx.dtype) if xp is np else db[part]  # see `_together`
            xp.subtract(1.0, g, out=t)
            t *= y[part]
            t *= d
            if xp is np:
                db[part] = t
                da[part] = np.multiply(d, g, out=t)
            else:
                xp.multiply(d, g, out=da[part])

        _in_blocks(work, y)
        return dx.reshape(*dy.shape[:-1], dx.shape[1])


def _halves(x: Array) -> tuple[Array, Array]:
    """The left and the right half (N, C) of x (N, 2C)."""
    half = x.shape[1] // 2
    return x[:, :half], x[:, half:]


def _together(half: Array, into: Array) -> Array:
    """Half of each row, on a CPU copied to `into`: NumPy computes with rows that lie apart in a buffer, where
    copying in and out takes twice as long as the operation."""
    if not isinstance(half, np.ndarray):
        return half
    into[...] = half
    return into


def _in_blocks(work: Callable[[slice], None], y: Array) -> None:
    """work(part) for all rows of y (N, C), a block that stays in cache at a time; on a GPU all at once."""
    size = max(1, BLOCK // max(1, y.shape[1])) if isinstance(y, np.ndarray) else max(1, len(y))

    def piece(start: int, stop: int) -> None:
        for i in range(start, stop, size):
            work(slice(i, min(i + size, stop)))

    over_rows(piece, len(y), 4 * host_size(y))


def glu(x: Any) -> Tensor:
    """Gated linear unit: the left half of the last axis times the logistic function of the right half.

    x (..., 2C) -> (..., C).
    """
    if not x.shape or x.shape[-1] % 2 or x.shape[-1] == 0:
        raise ShapeError(f"glu halves the last axis, which must be even and not 0, but got {tuple(x.shape)}")
    return GLU.apply(x)
