"""Rows of real tokens without the padding between them, and heads of attention.

Layers that work row by row (linear, layer norm, dropout, embedding) take the packed rows (N, C) as they are,
so that padding costs nothing; attention unpacks what it needs. mask (B, L): True = real token.
"""

from __future__ import annotations

import math
from typing import Any

from ..backend.arrays import Array, get_xp
from ..backprop import Context
from ..errors import ShapeError
from ..op import Op
from ..tensors import Tensor
from .operands import beside


def take_rows(x: Array, mask: Array) -> Array:
    """x (B, L, ...) -> (N, ...), the rows where the mask (B, L) is True."""
    xp = get_xp(x)
    return xp.take(x.reshape(mask.size, *x.shape[mask.ndim :]), xp.flatnonzero(mask), axis=0)


def put_rows(rows: Array, mask: Array) -> Array:
    """rows (N, ...) -> (B, L, ...), zero where the mask (B, L) is False."""
    xp = get_xp(rows)
    grid = xp.zeros((mask.size, *rows.shape[1:]), rows.dtype)
    grid[xp.flatnonzero(mask)] = rows
    return grid.reshape(*mask.shape, *rows.shape[1:])


class Pack(Op):
    """y = the rows of x where the mask is True        dx = dy there, 0 elsewhere"""

    @staticmethod
    def forward(ctx: Context, x: Array, *, mask: Array) -> Array:
        ctx.save(mask)
        return take_rows(x, mask)

    @staticmethod
    def backward(ctx: Context, dy: Array) -> Array:
        return put_rows(dy, *ctx.saved)


class Unpack(Op):
    """y = x at the places where the mask is True, 0 elsewhere        dx = dy there"""

    @staticmethod
    def forward(ctx: Context, x: Array, *, mask: Array) -> Array:
        ctx.save(mask)
        return put_rows(x, mask)

    @staticmethod
    def backward(ctx: Context, dy: Array) -> Array:
        return take_rows(dy, *ctx.saved)


class SplitHeads(Op):
    """x (B, L, P·H·D), or rows (N, P·H·D) with a mask, -> P arrays (B, H, L, D); P is 3 for query, key, value

    The elements are moved, not changed; the gradient moves them back.
    """

    @staticmethod
    def forward(ctx: Context, x: Array, *, heads: int, parts: int, mask: Array | None) -> tuple[Array, ...]:
        grid = x if mask is None else put_rows(x, mask)
        batch, length, size = grid.shape
        ctx.save(mask, (batch, length, parts, heads, size // (parts * heads)), x.dtype)
        return tuple(grid.reshape(ctx.saved[1]).transpose(2, 0, 3, 1, 4))

    @staticmethod
    def backward(ctx: Context, *dy: Array | None) -> Array:
        mask, shape, dtype = ctx.saved
        dx = get_xp(*dy).empty(shape, dtype)
        for part, gradient in zip(dx.transpose(2, 0, 3, 1, 4), dy, strict=True):
            part[...] = 0 if gradient is None else gradient
        dx = dx.reshape(*shape[:2], math.prod(shape[2:]))
        return dx if mask is None else take_rows(dx, mask)


class JoinHeads(Op):
    """x (B, H, L, D) -> (B, L, H·D), or with a mask the rows (N, H·D)"""

    @staticmethod
    def forward(ctx: Context, x: Array, *, mask: Array | None) -> Array:
        batch, heads, length, size = x.shape
        ctx.save(mask, (batch, length, heads, size))
        y = x.transpose(0, 2, 1, 3)
        return y.reshape(batch, length, heads * size) if mask is None else _joined(take_rows(y, mask))

    @staticmethod
    def backward(ctx: Context, dy: Array) -> Array:
        mask, shape = ctx.saved
        dx = dy if mask is None else put_rows(dy, mask)
        return dx.reshape(shape).transpose(0, 2, 1, 3)


def _joined(rows: Array) -> Array:
    return rows.reshape(rows.shape[0], -1)


def _mask(name: str, mask: Any, x: Any, shape: tuple[int, ...]) -> Array:
    mask = beside(mask, x)
    if mask.dtype != bool:
        mask = mask != 0
    if tuple(mask.shape) != tuple(shape):
        raise ShapeError(f"{name} of {tuple(x.shape)} expects a mask {tuple(shape)}, not {tuple(mask.shape)}")
    return mask


def real_rows(name: str, x: Any, mask: Any) -> Array:
    """Where the rows of x (N, E) stand in the padded batch: the numbers (N,) of the real tokens of the mask
    (B, L), counted row by row."""
    mask = _mask(name, mask, x, tuple(mask.shape))
    rows = get_xp(mask).flatnonzero(mask)
    if len(x.shape) != 2 or x.shape[0] != rows.size:
        raise ShapeError(f"{name}: packed rows {tuple(x.shape)} for a mask with {rows.size} real tokens")
    return rows


def pack(x: Any, mask: Any) -> Tensor:
    """The rows of real tokens: x (B, L, ...), mask (B, L) -> (N, ...), N the number of True in the mask."""
    return Pack.apply(x, mask=_mask("pack", mask, x, tuple(x.shape[:2])))


def unpack(x: Any, mask: Any) -> Tensor:
    """What `pack` gave back at its places: x (N, ...), mask (B, L) -> (B, L, ...), 0 at padding."""
    mask = _mask("unpack", mask, x, tuple(mask.shape))
    if int(mask.sum()) != x.shape[0]:
        raise ShapeError(f"unpack: {x.shape[0]} rows for a mask with {int(mask.sum())} real tokens")
    return Unpack.apply(x, mask=mask)


def split_heads(x: Any, heads: int, parts: int = 1, mask: Any = None) -> tuple[Tensor, ...]:
    """x (B, L, parts·E), or packed rows (N, parts·E) with their mask (B, L) -> that many tensors
    (B, heads, L, E / heads)."""
    mask = None if mask is None else _mask("split_heads", mask, x, tuple(mask.shape))
    return SplitHeads.apply(x, heads=heads, parts=parts, mask=mask)


def join_heads(x: Any, mask: Any = None) -> Tensor:
    """x (B, heads, L, D) -> (B, L, heads·D), or with a mask (B, L) its packed rows (N, heads·D)."""
    mask = None if mask is None else _mask("join_heads", mask, x, (x.shape[0], x.shape[2]))
    return JoinHeads.apply(x, mask=mask)
