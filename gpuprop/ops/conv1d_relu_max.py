"""Convolution, ReLU and maximum over time in one operation: the features of a text CNN."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any

import numpy as np

from ..backend import kernels
from ..backend.arrays import Array, get_xp
from ..backend.buffers import empty, zeros
from ..backend.gemm import matmul as product
from ..backend.half import is_half, wide
from ..backend.table_rows_on_host import rows_of
from ..backend.threads import over_rows
from ..backprop import Context
from ..errors import ShapeError
from ..op import Op
from ..tensors import Tensor
from . import conv1d_relu_max_kernels
from .cast import as_weight
from .conv1d import conv1d
from .elementwise import relu
from .masks import real_tokens
from .operands import data_of
from .pooling import first_place, max_over_time
from .shapes import concatenate
from .windows import Padding, Width, geometry_of

FORWARD_BLOCK = 1 << 18  # numbers of z at a time: what stays in a core's cache
BACKWARD_BLOCK = 1 << 23  # numbers of dz at a time: larger products, and still little memory


class ConvReluMax(Op):
    """y[b,f] = max(0, max_t c[b,t,f])     c[b,t,f] = bias[f] + Σ_oc x[b, t - left + o, c] weight[f,o,c]

    x (B, L, C)   for each width weight (F, K, C) and bias (F,) or None   y (B, sum of all F)
    Windows t outside `windows` (B, T) never win; a row without any gives 0.

    One product z = x W over the offsets of all widths, W (C, ΣKF), then shifted sums c = Σ_o z[t + o]: rows
    of x that are zero (padding) have z = 0 and are left out. Only the first maximum t* of each (b, f) has a
    gradient, g = dy where y > 0, at the rows t* - left + o of z:
        dz[b, t* - left + o, (o, f)] = g        dx = dz Wᵀ        dW = xᵀ dz        dbias = Σ_b g
    and only the rows of dz that hold any of these enter the products.
    """

    @staticmethod
    def forward(ctx: Context, x: Array, *parameters: Any, plan: Sequence[Width], mask: Any) -> Array:
        if conv1d_relu_max_kernels.usable(x, parameters):
            return conv1d_relu_max_kernels.forward(ctx, x, parameters, plan, mask)
        dtype, x = x.dtype, wide(x)
        weights, biases = [wide(w) for w in parameters[0::2]], parameters[1::2]
        windows = [
            None if mask is None else windows_with_tokens(mask, w.kernel, w.left, w.right) for w in plan
        ]
        joined = _joined(weights, plan)
        features = sum(w.out for w in plan)
        y = np.empty((x.shape[0], features), x.dtype)
        winner = np.empty(y.shape, np.int64)
        work = partial(_features, x, joined, plan, windows, y, winner)
        over_rows(work, x.shape[0], x.shape[0] * x.shape[1] * joined.shape[1], products=True)
        for width, bias in zip(plan, biases, strict=True):
            if bias is not None:
                y[:, width.feature : width.feature + width.out] += bias
        for width, seen in zip(plan, windows, strict=True):
            if seen is not None:
                y[:, width.feature : width.feature + width.out] *= seen.any(axis=1, keepdims=True)
        np.maximum(y, 0, out=y)
        y = y.astype(dtype, copy=False)
        ctx.save(x, joined, plan, winner, y)
        return y

    @staticmethod
    def backward(ctx: Context, dy: Array) -> tuple[Array | None, ...]:
        if kernels.usable(dy):
            return conv1d_relu_max_kernels.backward(ctx, dy)
        x, joined, plan, winner, y = ctx.saved
        g = wide(dy) * (y > 0)
        need_weights = any(ctx.needs_grad[1::2])
        dx = zeros(np, x.shape, x.dtype) if ctx.needs_grad[0] else None
        djoined = zeros(np, joined.shape, joined.dtype) if need_weights else None
        step = max(1, BACKWARD_BLOCK // (x.shape[1] * joined.shape[1]))
        for i in range(0, x.shape[0], step):
            part = slice(i, i + step)
            _gradients(
                x[part], joined, plan, winner[part], g[part], None if dx is None else dx[part], djoined
            )
        grads: list[Array | None] = [None if dx is None else dx.astype(y.dtype, copy=False)]
        for i, width in enumerate(plan):
            wanted, columns = ctx.needs_grad[2 * i + 1 :], slice(width.feature, width.feature + width.out)
            grads.append(_of_weight(ctx, 2 * i + 1, djoined, width, y.dtype) if wanted[0] else None)
            grads.append(g[:, columns].sum(axis=0).astype(y.dtype, copy=False) if wanted[1] else None)
        return tuple(grads)


def _joined(weights: Sequence[Array], plan: Sequence[Width]) -> Array:
    """The weights (F, K, C) of all widths side by side, (C, ΣKF)."""
    last, channels = plan[-1], weights[0].shape[2]
    joined = empty(np, (channels, last.column + last.kernel * last.out), weights[0].dtype)
    for weight, width in zip(weights, plan, strict=True):
        part = joined[:, width.column : width.column + width.kernel * width.out]
        part.reshape(channels, width.kernel, width.out)[...] = weight.transpose(2, 1, 0)
    return joined


def _features(
    x: Array,
    joined: Array,
    plan: Sequence[Width],
    windows: Any,
    y: Array,
    winner: Array,
    start: int,
    stop: int,
) -> None:
    """y without bias and ReLU, and the winning windows, of texts start..stop, a block at a time."""
    length, left = x.shape[1], max(w.left for w in plan)
    padded = left + length + max(w.right for w in plan)
    step = max(1, FORWARD_BLOCK // (padded * joined.shape[1]))
    space = empty(np, (min(step, stop - start), padded, joined.shape[1]), x.dtype)
    for i in range(start, stop, step):
        part = slice(i, min(i + step, stop))
        z = space[: part.stop - i]
        _products(x[part], joined, z, left)
        for width, seen in zip(plan, windows, strict=True):
            columns = slice(width.feature, width.feature + width.out)
            c = _shifted_sums(z, width, left, length)
            if seen is not None:
                c[~seen[part]] = np.finfo(c.dtype).min
            top = c.max(axis=1)
            winner[part, columns] = first_place(np, c, top)
            y[part, columns] = top


def _products(x: Array, joined: Array, z: Array, left: int) -> None:
    """z[:, left : left + L] = x W and zeros around it, for a block of texts."""
    length, channels = x.shape[1:]
    flat = x.reshape(-1, channels)
    rows = np.flatnonzero(flat[:, 0])
    if rows.size < len(flat):  # a real row may have a zero there: look closer at those
        unsure = np.flatnonzero(flat[:, 0] == 0)
        rows = np.union1d(rows, unsure[flat[unsure].any(axis=1)])
    if rows.size == len(flat) and z.shape[1] == length:
        product(flat, joined, out=z.reshape(len(flat), -1))
        return
    z.fill(0)
    place = rows // length * z.shape[1] + rows % length + left
    z.reshape(-1, z.shape[2])[place] = product(rows_of(flat, rows), joined)


def _shifted_sums(z: Array, width: Width, left: int, length: int) -> Array:
    """c[b,t,f] = Σ_o z[b, t - left + o, (o, f)] of one width."""
    first, count = left - width.left, length + width.left + width.right - width.kernel + 1
    taps = [
        z[:, first + o : first + o + count, width.column + o * width.out : width.column + (o + 1) * width.out]
        for o in range(width.kernel)
    ]
    c = taps[0] + taps[1] if width.kernel > 1 else taps[0].copy()
    for tap in taps[2:]:
        c += tap
    return c


def _gradients(
    x: Array, joined: Array, plan: Sequence[Width], winner: Array, g: Array, dx: Array | None, djoined: Any
) -> None:
    """Set dx (zero before) and add to djoined, for a block of texts, by the rows of dz that are not 0."""
    batch, length, channels = x.shape
    winners = [_winners(width, winner, g, length) for width in plan]
    touched = np.zeros(batch * length, bool)
    for each in winners:
        for row, _, _ in _cells(*each, length):
            touched[row] = True
    rows = np.flatnonzero(touched)
    number = np.cumsum(touched) - 1
    dz = zeros(np, (rows.size, joined.shape[1]), x.dtype)
    for each in winners:
        for row, column, value in _cells(*each, length):
            dz[number[row], column] = value
    if dx is not None:
        dx.reshape(-1, channels)[rows] = product(dz, joined.T)
    if djoined is not None:
        djoined += product(rows_of(x.reshape(-1, channels), rows).T, dz)


def _winners(width: Width, winner: Array, g: Array, length: int) -> tuple[Width, Array, Array, Array, Array]:
    """Of every feature with a gradient: the row where its text begins, the place in the text where its window
    begins, its number among those of the width, and g."""
    text, f = np.nonzero(g[:, width.feature : width.feature + width.out])
    at = (text, width.feature + f)
    return width, text * length, winner[at] - width.left, f, g[at]


def _cells(
    width: Width, first: Array, place: Array, f: Array, g: Array, length: int
) -> Iterator[tuple[Array, Array, Array]]:
    """The rows and columns of dz that hold a gradient, and it, for each offset of a width."""
    for o in range(width.kernel):
        real = (place >= -o) & (place < length - o)
        yield (first + place + o)[real], (width.column + o * width.out + f)[real], g[real]


def _of_weight(ctx: Context, i: int, djoined: Array, width: Width, dtype: Any) -> Array:
    """The part (F, K, C) of dW (C, ΣKF) that belongs to one width, in the memory of input i's gradient."""
    part = djoined[:, width.column : width.column + width.kernel * width.out]
    dweight = part.reshape(-1, width.kernel, width.out).transpose(2, 1, 0)
    into = ctx.destination(i)
    if into is None:
        return dweight.astype(dtype, copy=False)
    into[...] = dweight
    return into


def windows_with_tokens(mask: Array, kernel: int, left: int, right: int) -> Array:
    """Which windows hold a real token: mask (B, L) -> (B, L + left + right - kernel + 1)."""
    xp = get_xp(mask)
    padded = xp.pad(mask, ((0, 0), (left, right)))
    count = padded.shape[1] - kernel + 1
    seen = padded[:, :count]
    for o in range(1, kernel):
        seen = seen | padded[:, o : o + count]
    return seen


def conv1d_relu_max(
    x: Any,
    convolutions: Sequence[tuple[Any, Any]],
    mask: Any = None,
    *,
    paddings: Sequence[Padding] | Padding = 0,
) -> Tensor:
    """max over time of relu(conv1d(x, weight, bias)) for one or several convolutions, side by side.

    x (B, L, C), convolutions: pairs of weight (F, K, C) and bias (F,) or None -> (B, sum of all F)
    mask (B, L), True = real token: only windows that hold a real token count; a row without any gives 0.
    paddings: one for all, or one a convolution; see `conv1d`. Among equal maxima the first takes the
    gradient.
    """
    count = len(convolutions)
    each = [paddings] * count if isinstance(paddings, (int, str, tuple)) else list(paddings)
    if not count or len(each) != count:
        raise ShapeError(f"conv1d_relu_max got {count} convolutions and {len(each)} paddings")
    arrays = [(data_of(w), data_of(b)) for w, b in convolutions]
    x = as_weight(x, arrays[0][0]) if is_half(arrays[0][0].dtype) else x
    array = data_of(x)
    sides = [geometry_of(array, w, b, 1, p, 1, 1).padding for (w, b), p in zip(arrays, each, strict=True)]
    mask = None if mask is None else real_tokens(_checked(mask, array), array)
    flat = [p for pair in convolutions for p in pair]
    if array.size and (
        get_xp(array) is np or conv1d_relu_max_kernels.usable(array, [data_of(p) for p in flat])
    ):
        return ConvReluMax.apply(x, *flat, plan=_plan(arrays, sides), mask=mask)
    features = [
        max_over_time(
            relu(conv1d(x, w, b, padding=side)),
            None if mask is None else windows_with_tokens(mask, int(w.shape[1]), *side),
        )
        for (w, b), side in zip(convolutions, sides, strict=True)
    ]
    return features[0] if count == 1 else concatenate(features, axis=1)


def _plan(arrays: Sequence[tuple[Array, Array]], sides: Sequence[tuple[int, int]]) -> list[Width]:
    plan, column, feature = [], 0, 0
    for (weight, _), (left, right) in zip(arrays, sides, strict=True):
        out, kernel = int(weight.shape[0]), int(weight.shape[1])
        plan.append(Width(kernel, out, column, feature, left, right))
        column, feature = column + kernel * out, feature + out
    return plan


def _checked(mask: Any, x: Array) -> Any:
    if tuple(mask.shape) != tuple(x.shape[:2]):
        raise ShapeError(f"conv1d_relu_max expects a mask {tuple(x.shape[:2])} but got {tuple(mask.shape)}")
    return mask
