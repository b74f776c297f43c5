"""Rows of real tokens without the padding between them, and heads of attention.

Layers that work row by row (linear, layer norm, dropout, embedding) take the packed rows (N, C) as they are,
so that padding costs nothing; attention unpacks what it needs. mask (B, L): True = real token, or its
`Packing`.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from ..backend.arrays import Array, get_xp, is_cupy
from ..backend.buffers import contiguous, empty, zeros
from ..backend.recording import recording
from ..backend.table_rows_on_host import rows_of
from ..backprop import Context
from ..errors import ShapeError
from ..op import Op
from ..tensors import Tensor
from .operands import beside, data_of


class Packing:
    """Where the real tokens of a padded batch stand: mask (B, L), and rows (N,), the numbers of the real
    tokens, counted row by row. What takes packed rows takes it in place of the mask; see `packing_of`.

    padded: the rows are all B·L positions, in order, as in a captured step, whose shapes may not depend on
    the mask. Those at padding are computed too, and masks keep them from the others.
    """

    def __init__(self, mask: Array, rows: Array, padded: bool = False) -> None:
        self.mask, self.rows, self.padded = mask, rows, padded
        self.shape: tuple[int, ...] = tuple(mask.shape)


def packing_of(mask: Any, other: Any) -> Packing:
    """The `Packing` of a mask (B, L), on the device of `other`; a Packing as it is.

    Make it once a batch, from a mask on the host where there is one: to find the real tokens of a mask on a
    GPU the host has to wait for it. Where a step is captured the packing is a padded one.
    """
    if isinstance(mask, Packing):
        return mask
    mask = data_of(mask)
    if mask.dtype != bool:
        mask = mask != 0
    if is_cupy(mask) and recording() is not None:
        return Packing(mask, get_xp(mask).arange(mask.size), padded=True)
    return Packing(beside(mask, other), beside(get_xp(mask).flatnonzero(mask), other))


def mask_of(mask: Any) -> Any:
    """The mask behind a Packing; anything else as it is."""
    return mask.mask if isinstance(mask, Packing) else mask


def take_rows(x: Array, packing: Packing) -> Array:
    """x (B, L, ...) -> (N, ...), the rows of real tokens."""
    xp = get_xp(x)
    if packing.padded:
        return x.reshape(-1, *x.shape[2:])
    if xp is not np:
        return xp.take(x.reshape(-1, *x.shape[2:]), packing.rows, axis=0)
    return rows_of(contiguous(np, x).reshape(-1, *x.shape[2:]), packing.rows)


def put_rows(values: Array, packing: Packing) -> Array:
    """values (N, ...) -> (B, L, ...): at the real tokens, 0 elsewhere."""
    shape = (*packing.shape, *values.shape[1:])
    if packing.padded:
        real = packing.mask.reshape(*packing.shape, *(1,) * (values.ndim - 1))
        return get_xp(values).where(real, values.reshape(shape), values.dtype.type(0))
    grid = zeros(get_xp(values), (math.prod(packing.shape), *values.shape[1:]), values.dtype)
    grid[packing.rows] = values
    return grid.reshape(shape)


def pack_labels(labels: Any, mask: Any, ignore_index: int) -> Any:
    """The labels (N,) of the real tokens: labels (B, L), mask (B, L). Where a step is captured, all (B·L,),
    which have to be `ignore_index` at padding."""
    labels, mask = data_of(labels), data_of(mask_of(mask))
    if is_cupy(labels) and recording() is not None:
        return get_xp(labels).where(mask, labels, ignore_index).reshape(-1)
    return labels[mask]


class Pack(Op):
    """y = the rows of x where the mask is True        dx = dy there, 0 elsewhere"""

    @staticmethod
    def forward(ctx: Context, x: Array, *, packing: Packing) -> Array:
        ctx.save(packing)
        return take_rows(x, packing)

    @staticmethod
    def backward(ctx: Context, dy: Array) -> Array:
        return put_rows(dy, *ctx.saved)


class Unpack(Op):
    """y = x at the places where the mask is True, 0 elsewhere        dx = dy there"""

    @staticmethod
    def forward(ctx: Context, x: Array, *, packing: Packing) -> Array:
        ctx.save(packing)
        return put_rows(x, packing)

    @staticmethod
    def backward(ctx: Context, dy: Array) -> Array:
        (packing,) = ctx.saved
        dx = take_rows(dy, packing)
        return take_rows(put_rows(dx, packing), packing) if packing.padded else dx


class SplitHeads(Op):
    """x (B, L, P·H·D), or rows (N, P·H·D) with a packing, -> P arrays (B, H, L, D)

    P is 3 for query, key, value. The elements are moved, not changed; the gradient moves them back.
    """

    @staticmethod
    def forward(
        ctx: Context, x: Array, *, heads: int, parts: int, packing: Packing | None
    ) -> tuple[Array, ...]:
        grid = x if packing is None else put_rows(x, packing)
        batch, length, size = grid.shape
        ctx.save(packing, (batch, length, parts, heads, size // (parts * heads)), x.dtype)
        parts_first = grid.reshape(ctx.saved[1]).transpose(2, 0, 3, 1, 4)
        if is_cupy(x):  # one copy, where the kernels of attention would make one of each part
            parts_first = get_xp(x).ascontiguousarray(parts_first)
        return tuple(parts_first)

    @staticmethod
    def backward(ctx: Context, *dy: Array | None) -> Array:
        packing, shape, dtype = ctx.saved
        dx = empty(get_xp(*dy), shape, dtype)
        for part, gradient in zip(dx.transpose(2, 0, 3, 1, 4), dy, strict=True):
            part[...] = 0 if gradient is None else gradient
        dx = dx.reshape(*shape[:2], math.prod(shape[2:]))
        return dx if packing is None else take_rows(dx, packing)


class JoinHeads(Op):
    """x (B, H, L, D) -> (B, L, H·D), or with a packing the rows (N, H·D)"""

    @staticmethod
    def forward(ctx: Context, x: Array, *, packing: Packing | None) -> Array:
        batch, heads, length, size = x.shape
        ctx.save(packing, (batch, length, heads, size))
        y = x.transpose(0, 2, 1, 3)
        if packing is None:
            return y.reshape(batch, length, heads * size)
        return take_rows(y, packing).reshape(-1, heads * size)

    @staticmethod
    def backward(ctx: Context, dy: Array) -> Array:
        packing, shape = ctx.saved
        dx = dy if packing is None else put_rows(dy, packing)
        return dx.reshape(shape).transpose(0, 2, 1, 3)


def _packing(name: str, mask: Any, x: Any, shape: tuple[int, ...]) -> Packing:
    """The packing of a mask that must have this shape."""
    if tuple(mask.shape) != tuple(shape):
        raise ShapeError(f"{name} of {tuple(x.shape)} expects a mask {tuple(shape)}, not {tuple(mask.shape)}")
    return packing_of(mask, x)


def packing_of_rows(name: str, x: Any, mask: Any) -> Packing:
    """The packing by which x (N, E) was packed. Raises ShapeError for another number of rows."""
    found = packing_of(mask, x)
    if len(x.shape) != 2 or x.shape[0] != found.rows.size:
        raise ShapeError(
            f"{name}: packed rows {tuple(x.shape)} for a mask with {found.rows.size} real tokens"
        )
    return found


def pack(x: Any, mask: Any) -> Tensor:
    """The rows of real tokens: x (B, L, ...), mask (B, L) -> (N, ...), N the number of True in the mask."""
    return Pack.apply(x, packing=_packing("pack", mask, x, tuple(x.shape[:2])))


def unpack(x: Any, mask: Any) -> Tensor:
    """What `pack` gave back at its places: x (N, ...), mask (B, L) -> (B, L, ...), 0 at padding."""
    found = packing_of(mask, x)
    if found.rows.size != x.shape[0]:
        raise ShapeError(f"unpack: {x.shape[0]} rows for a mask with {found.rows.size} real tokens")
    return Unpack.apply(x, packing=found)


def split_heads(x: Any, heads: int, parts: int = 1, mask: Any = None) -> tuple[Tensor, ...]:
    """x (B, L, parts·E), or packed rows (N, parts·E) with their mask (B, L) -> that many tensors
    (B, heads, L, E / heads)."""
    found = None if mask is None else packing_of_rows("split_heads", x, mask)
    return SplitHeads.apply(x, heads=heads, parts=parts, packing=found)


def join_heads(x: Any, mask: Any = None) -> Tensor:
    """x (B, heads, L, D) -> (B, L, heads·D), or with a mask (B, L) its packed rows (N, heads·D)."""
    found = None if mask is None else _packing("join_heads", mask, x, (x.shape[0], x.shape[2]))
    return JoinHeads.apply(x, packing=found)
