"""Operations that move elements and compute nothing: reshape, transpose, index, concatenate, stack."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from ..backend.arrays import Array, get_xp
from ..backend.buffers import empty, zeros
from ..backprop import Context
from ..op import Op
from ..tensors import Tensor
from .embedding import add_rows


class Reshape(Op):
    """The same elements in another shape."""

    @staticmethod
    def forward(ctx: Context, x: Array, *, shape: tuple[int, ...]) -> Array:
        ctx.save(x.shape)
        return x.reshape(shape)

    @staticmethod
    def backward(ctx: Context, dy: Array) -> Array:
        (shape,) = ctx.saved
        return dy.reshape(shape)


class Transpose(Op):
    """y = x with permuted axes        dx = dy with the inverse permutation"""

    @staticmethod
    def forward(ctx: Context, x: Array, *, axes: tuple[int, ...]) -> Array:
        ctx.save(axes)
        return x.transpose(axes)

    @staticmethod
    def backward(ctx: Context, dy: Array) -> Array:
        (axes,) = ctx.saved
        return dy.transpose(sorted(range(len(axes)), key=axes.__getitem__))


class GetItem(Op):
    """y = x[index]        dx = 0 everywhere but at index, where dy is added"""

    @staticmethod
    def forward(ctx: Context, x: Array, *, index: Any) -> Array:
        ctx.save(x.shape, index)
        return x[index]

    @staticmethod
    def backward(ctx: Context, dy: Array) -> Array:
        shape, index = ctx.saved
        xp = get_xp(dy)
        parts = index if isinstance(index, tuple) else (index,)
        dx = zeros(xp, shape, dy.dtype)
        arrays = [p for p in parts if hasattr(p, "dtype") or isinstance(p, list)]
        if all(np.asarray(p).dtype == bool if isinstance(p, list) else p.dtype == bool for p in arrays):
            dx[index] = dy  # slices, numbers and masks touch each element once
            return dx
        # an index array may name an element twice: add in a fixed order, by flat position
        flat = xp.arange(dx.size).reshape(shape)[index]
        add_rows(dx.reshape(-1, 1), flat.reshape(-1), dy.reshape(-1, 1))
        return dx


class Concatenate(Op):
    """Arrays joined along an axis        the gradient is cut at the same places"""

    @staticmethod
    def forward(ctx: Context, *arrays: Array, axis: int) -> Array:
        ctx.save([a.shape[axis] for a in arrays], axis)
        xp = get_xp(*arrays)
        if xp is not np or not all(a.dtype == arrays[0].dtype for a in arrays):
            return xp.concatenate(arrays, axis=axis)
        shape = list(arrays[0].shape)
        shape[axis] = sum(a.shape[axis] for a in arrays)
        return np.concatenate(arrays, axis=axis, out=empty(np, tuple(shape), arrays[0].dtype))

    @staticmethod
    def backward(ctx: Context, dy: Array) -> tuple[Array, ...]:
        sizes, axis = ctx.saved
        cuts = np.cumsum(sizes)[:-1].tolist()
        return tuple(get_xp(dy).split(dy, cuts, axis=axis))


def _plain(index: Any, xp: Any) -> Any:
    """An index without tensors, its arrays on the device of what is indexed."""
    if isinstance(index, tuple):
        return tuple(_plain(i, xp) for i in index)
    if isinstance(index, Tensor):
        index = index.data
    return xp.asarray(index) if isinstance(index, np.ndarray) and xp is not np else index


def reshape(x: Any, *shape: Any) -> Tensor:
    """x.reshape(2, -1) or x.reshape((2, -1))."""
    new = tuple(shape[0]) if len(shape) == 1 and not isinstance(shape[0], int) else shape
    return Reshape.apply(x, shape=new)


def transpose(x: Any, *axes: Any) -> Tensor:
    """Permute the axes: transpose(x, 0, 2, 1) or transpose(x, (0, 2, 1)); reversed when none are given."""
    order = tuple(axes[0]) if len(axes) == 1 and not isinstance(axes[0], int) else axes
    ndim = x.ndim
    order = tuple(a % ndim for a in order) if order else tuple(reversed(range(ndim)))
    return Transpose.apply(x, axes=order)


def swapaxes(x: Any, first: int, second: int) -> Tensor:
    """Exchange two axes."""
    order = list(range(x.ndim))
    order[first], order[second] = order[second], order[first]
    return transpose(x, order)


def getitem(x: Any, index: Any) -> Tensor:
    """x[index] as in NumPy: numbers, slices, masks and integer arrays."""
    return GetItem.apply(x, index=_plain(index, get_xp(x.data)))


def concatenate(tensors: Sequence[Any], axis: int = 0) -> Tensor:
    """Join tensors along an existing axis."""
    return Concatenate.apply(*tensors, axis=axis)


def stack(tensors: Sequence[Any], axis: int = 0) -> Tensor:
    """Join tensors of one shape along a new axis."""
    grown = []
    for t in tensors:
        shape = list(t.shape)
        shape.insert(axis if axis >= 0 else len(shape) + 1 + axis, 1)
        grown.append(reshape(t, shape))
    return concatenate(grown, axis=axis)
