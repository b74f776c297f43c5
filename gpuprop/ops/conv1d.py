"""Convolution over text, channels last. kernels/README.md derives its gradients, conv1d.cu computes them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from ..backend import kernels
from ..backend.arrays import Array, get_xp
from ..backend.gemm import matmul as product
from ..backend.half import is_half
from ..backprop import Context
from ..op import Op
from ..tensors import Tensor
from . import conv1d_rows, conv1d_ways
from .cast import as_weight
from .operands import data_of
from .windows import Geometry, Padding, geometry_of


class Conv1d(Op):
    """y[b,t,o] = bias[o] + Σ_kc x[b, t·stride - left + k·dilation, gC + c] weight[o,k,c]

    x (B, L, channels)   weight (O, K, C), C = channels / groups   bias (O,) or None   y (B, T, O)
    g is the group of output o; x is 0 outside its L positions.

    dx[b,l,gC+c] = Σ_ko dy[b,t,o] weight[o,k,c]     over the (k, t) with t·stride - left + k·dilation = l
    dweight[o,k,c] = Σ_bt dy[b,t,o] x[b, t·stride - left + k·dilation, gC + c]
    dbias[o] = Σ_bt dy[b,t,o]
    """

    @staticmethod
    def forward(ctx: Context, x: Array, weight: Array, bias: Array | None, *, geometry: Geometry) -> Array:
        xp = get_xp(x, weight)
        x, weight = xp.ascontiguousarray(x), xp.ascontiguousarray(weight.transpose(1, 2, 0))
        way = conv1d_ways.way_of(x, weight, geometry) if kernels.usable(x) and x.size else None
        ctx.save(x, weight, geometry, way)
        if way is not None:
            return way.forward(x, weight, bias, geometry)
        wide_x, wide_weight, bias = _wide(x), _wide(weight), None if bias is None else _wide(bias)
        if conv1d_rows.suits(x, weight, geometry):
            return conv1d_rows.forward(wide_x, wide_weight, bias, geometry).astype(x.dtype, copy=False)
        y = _forward(wide_x, wide_weight, geometry)
        return (y if bias is None else y + bias).astype(x.dtype, copy=False)

    @staticmethod
    def backward(ctx: Context, dy: Array) -> tuple[Array | None, ...]:
        x, weight, geometry, way = ctx.saved
        need_x, need_weight, need_bias = ctx.needs_grad
        dy = get_xp(dy).ascontiguousarray(dy)
        if way is not None and kernels.usable(dy) and dy.size:
            return _by_kernels(ctx, dy)
        if conv1d_rows.suits(x, weight, geometry):
            wide, shape = _wide(dy), weight.shape
            dx = conv1d_rows.backward_input(wide, x.shape, _wide(weight), geometry) if need_x else None
            dweight = dbias = None
            if need_weight or need_bias:
                dweight, dbias = conv1d_rows.backward_weight(wide, _wide(x), shape, geometry)
        else:
            wide = _wide(dy)
            dx = _backward_input(wide, x.shape, _wide(weight), geometry) if need_x else None
            dweight = _backward_weight(wide, _wide(x), weight.shape, geometry) if need_weight else None
            dbias = wide.sum(axis=(0, 1)) if need_bias else None
        grads = (dx, None if dweight is None else dweight.transpose(2, 0, 1), dbias)
        return tuple(g if g is None else g.astype(x.dtype, copy=False) for g in grads)


def _by_kernels(ctx: Context, dy: Array) -> tuple[Array | None, Array | None, Array | None]:
    """The gradients; those of weight and bias in the optimizer's memory, where it is there and fits."""
    x, weight, at, way = ctx.saved
    into_weight = _memory(ctx, 1, x, (1, 2, 0))
    into_bias = _memory(ctx, 2, x, (0,))
    into = into_weight, into_bias
    dx, dweight, dbias = way.backward(dy, x, weight, at, ctx.needs_grad, into)
    if into_weight is not None:
        return dx, ctx.destination(1), dbias
    return dx, None if dweight is None else dweight.transpose(2, 0, 1), dbias


def _memory(ctx: Context, i: int, x: Array, order: tuple[int, ...]) -> Array | None:
    """Memory for the gradient of input i with its axes in this order, if kernels for x can write it."""
    into = ctx.destination(i) if ctx.needs_grad[i] else None
    if into is None or into.dtype != x.dtype:
        return None
    into = into if len(order) == 1 else into.transpose(order)
    return into if into.flags.c_contiguous else None


# The formulas. weight (K, C, O) is in its memory order here, and half types come as float32.


def _forward(x: Array, weight: Array, at: Geometry) -> Array:
    xp, (kernel_size, narrow, out) = get_xp(x), weight.shape
    taps = [tap for _, tap in _taps(_pad(x, at), kernel_size, at.out_length(x.shape[1], kernel_size), at)]
    if narrow == 1 and out == at.groups:  # depthwise
        y = taps[0] * weight[0, 0]
        for tap, row in zip(taps[1:], weight[1:, 0], strict=True):
            y += tap * row
        return y
    windows = _by_group(xp.stack(taps, axis=2), at.groups)
    y = product(windows, _by_group(weight[None], at.groups, keep_last=True))
    return y.swapaxes(0, 1).reshape(*taps[0].shape[:2], out)


def _backward_input(dy: Array, shape: tuple[int, ...], weight: Array, at: Geometry) -> Array:
    xp, (kernel_size, narrow, out) = get_xp(dy), weight.shape
    batch, length, channels = shape
    padded = xp.zeros((batch, length + sum(at.padding), channels), dy.dtype)
    by_group = _by_group(dy[:, :, None], at.groups)
    for k, tap in _taps(padded, kernel_size, dy.shape[1], at):  # views: adding to a tap adds to `padded`
        if narrow == 1 and out == at.groups:
            tap += dy * weight[k, 0]
            continue
        of_tap = product(by_group, weight[k].reshape(narrow, at.groups, -1).transpose(1, 2, 0))
        tap += of_tap.swapaxes(0, 1).reshape(tap.shape)
    return padded[:, at.padding[0] : at.padding[0] + length]


def _backward_weight(dy: Array, x: Array, shape: tuple[int, ...], at: Geometry) -> Array:
    dweight = get_xp(dy).empty(shape, dy.dtype)
    by_group = _by_group(dy[:, :, None], at.groups)
    for k, tap in _taps(_pad(x, at), shape[0], dy.shape[1], at):
        if shape[1] == 1 and shape[2] == at.groups:
            dweight[k, 0] = (tap * dy).sum(axis=(0, 1))
            continue
        of_tap = product(_by_group(tap[:, :, None], at.groups).swapaxes(1, 2), by_group)
        dweight[k] = of_tap.swapaxes(0, 1).reshape(shape[1:])
    return dweight


def _taps(padded: Array, kernel_size: int, out_length: int, at: Geometry) -> Iterator[tuple[int, Array]]:
    """For each k the view (B, T, channels) of what tap k sees."""
    span = (out_length - 1) * at.stride + 1
    for k in range(kernel_size):
        yield k, padded[:, k * at.dilation : k * at.dilation + span : at.stride]


def _pad(x: Array, at: Geometry) -> Array:
    return get_xp(x).pad(x, ((0, 0), at.padding, (0, 0))) if any(at.padding) else x


def _by_group(a: Array, groups: int, keep_last: bool = False) -> Array:
    """One matrix a group, free for one group.

    (B, T, K, G·C) -> (G, B·T, K·C), or with keep_last (1, K, C, G·O) -> (G, K·C, O)
    """
    if keep_last:
        return a.reshape(-1, groups, a.shape[-1] // groups).swapaxes(0, 1)
    first, second, taps, channels = a.shape
    split = a.reshape(first * second, taps, groups, channels // groups)
    return split.transpose(2, 0, 1, 3).reshape(groups, first * second, taps * (channels // groups))


def _wide(a: Array) -> Array:
    """Half types as float32, so that products and sums are accumulated as the kernels accumulate them."""
    return a.astype(np.float32) if a.dtype.itemsize == 2 else a


def conv1d(
    x: Any,
    weight: Any,
    bias: Any = None,
    *,
    stride: int = 1,
    padding: Padding = 0,
    dilation: int = 1,
    groups: int = 1,
) -> Tensor:
    """Convolution over the length.

    x (B, L, channels)   weight (O, K, channels / groups)   bias (O,) -> (B, T, O)

    padding: positions of zeros on both sides, (left, right), "same" (T = L; stride 1; an odd one goes to the
    right, as in PyTorch) or "causal" (all on the left: output t sees nothing after t).
    T = (L + left + right - dilation (K - 1) - 1) // stride + 1. Raises ShapeError when shapes do not fit.
    """
    x = as_weight(x, weight) if is_half(weight.dtype) else x
    geometry = geometry_of(data_of(x), data_of(weight), data_of(bias), stride, padding, dilation, groups)
    return Conv1d.apply(x, weight, bias, geometry=geometry)
