"""Pooling over time: maxima and means of windows, and of whole texts."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import numpy as np

from ..backend import kernels
from ..backend.arrays import Array, get_xp
from ..backend.buffers import empty, zeros
from ..backend.gemm import matmul as product
from ..backend.half import is_half, lowest
from ..backprop import Context
from ..errors import ShapeError
from ..op import Op
from ..tensors import Tensor
from . import pooling_kernels
from .masks import real_tokens
from .operands import beside

LONG = 32  # positions from which a product a text is faster than its rows one by one


class MaxPool1d(Op):
    """y[i] = max of x[i s - p + j], j = 0..k-1        dx = dy at the first maximum of each window

    x (B, L, C) -> y (B, (L + 2p - k) // s + 1, C); what lies outside x never wins.
    """

    @staticmethod
    def forward(ctx: Context, x: Array, *, kernel: int, stride: int, padding: int) -> Array:
        xp = get_xp(x)
        windows = windows_of(x.shape[1], kernel, stride, padding)
        shape = (x.shape[0], output_length(x.shape[1], kernel, stride, padding), x.shape[2])
        y = xp.full(shape, -np.inf, x.dtype)
        first = xp.maximum(padding - stride * xp.arange(shape[1]), 0).astype(np.int32)
        winner = xp.broadcast_to(first[:, None], shape).copy()
        for j, out, into in windows:
            better = x[:, into] > y[:, out]
            xp.maximum(y[:, out], x[:, into], out=y[:, out])
            xp.copyto(winner[:, out], j, where=better)
        ctx.save(x.shape, winner, windows)
        return y

    @staticmethod
    def backward(ctx: Context, dy: Array) -> Array:
        shape, winner, windows = ctx.saved
        dx = zeros(get_xp(dy), shape, dy.dtype)
        for j, out, into in windows:
            here = dx[:, into]
            here += dy[:, out] * (winner[:, out] == j)
        return dx


class AvgPool1d(Op):
    """y[i] = Σ_j x[i s - p + j] / n        dx[i s - p + j] += dy[i] / n

    n is k (padding counts as zeros), or the number of places inside x with count_include_pad=False.
    x (B, L, C) -> y (B, (L + 2p - k) // s + 1, C)
    """

    @staticmethod
    def forward(
        ctx: Context, x: Array, *, kernel: int, stride: int, padding: int, count_include_pad: bool
    ) -> Array:
        windows = windows_of(x.shape[1], kernel, stride, padding)
        share = beside(_shares(x.shape[1], kernel, stride, padding, count_include_pad, x.dtype), x)
        y = zeros(get_xp(x), (x.shape[0], len(share), x.shape[2]), x.dtype)
        for _, out, into in windows:
            here = y[:, out]
            here += x[:, into]
        y *= share
        ctx.save(x.shape, share, windows)
        return y

    @staticmethod
    def backward(ctx: Context, dy: Array) -> Array:
        shape, share, windows = ctx.saved
        dx = zeros(get_xp(dy), shape, dy.dtype)
        part = dy * share
        for _, out, into in windows:
            here = dx[:, into]
            here += part[:, out]
        return dx


class MaxOverTime(Op):
    """y = max_t x[t] over the real tokens        dx = dy at the first maximum

    x (B, L, C), mask (B, L) -> y (B, C), 0 where a row has no real token.
    (Collobert et al. 2011, Natural language processing (almost) from scratch, section 3.2.)
    """

    @staticmethod
    def forward(ctx: Context, x: Array, *, mask: Array | None) -> Array:
        if pooling_kernels.usable(x):
            return pooling_kernels.forward(ctx, "max", x, mask)
        xp = get_xp(x)
        if mask is not None:
            x = _without_padding(xp, x, mask)
        y = x.max(axis=1)
        winner = first_place(xp, x, y)
        real = None if mask is None else mask.any(axis=1, keepdims=True)
        if real is not None:
            xp.copyto(y, 0, where=~real)
        ctx.save(x.shape, winner, real)
        return y

    @staticmethod
    def backward(ctx: Context, dy: Array) -> Array:
        if kernels.usable(dy):
            return pooling_kernels.backward(ctx, dy)
        shape, winner, real = ctx.saved
        xp = get_xp(dy)
        dx = zeros(xp, shape, dy.dtype)
        dy = dy if real is None else dy * real
        batch, channel = xp.arange(shape[0])[:, None], xp.arange(shape[2])
        dx[batch, winner, channel] = dy  # each place once: no order to care about
        return dx


class MeanOverTime(Op):
    """y = Σ_t x[t] / n over the n real tokens        dx[t] = dy / n at real tokens

    x (B, L, C), mask (B, L) -> y (B, C), 0 where a row has no real token.
    """

    @staticmethod
    def forward(ctx: Context, x: Array, *, mask: Array | None) -> Array:
        if pooling_kernels.usable(x):
            return pooling_kernels.forward(ctx, "mean", x, mask)
        xp = get_xp(x)
        if mask is None:
            share = xp.full(x.shape[:2], 1.0 / x.shape[1], x.dtype)
        else:
            share = mask / xp.maximum(mask.sum(axis=1, keepdims=True), 1).astype(x.dtype)
            share = share.astype(x.dtype, copy=False)
        ctx.save(x.shape, None if mask is None else share)
        return product(share[:, None], x)[:, 0]

    @staticmethod
    def backward(ctx: Context, dy: Array) -> Array:
        if kernels.usable(dy):
            return pooling_kernels.backward(ctx, dy)
        shape, share = ctx.saved
        xp = get_xp(dy)
        if share is None:
            return xp.broadcast_to((dy * (1.0 / shape[1]))[:, None].astype(dy.dtype, copy=False), shape)
        out = empty(xp, shape, dy.dtype)
        if isinstance(dy, np.ndarray) and shape[1] >= LONG and not is_half(dy.dtype):
            return product(
                _with_zeros(share, 2), _with_zeros(dy, 1), out=out
            )  # NumPy's broadcasting is slower
        return xp.multiply(share[..., None], dy[:, None], out=out)


def _with_zeros(x: Array, axis: int) -> Array:
    """x, and zeros like x, along a new axis of 2: the product of one column with one row is a slow one."""
    return np.stack([x, np.zeros_like(x)], axis=axis)


def _without_padding(xp: Any, x: Array, mask: Array) -> Array:
    """x with the lowest number of its type at padding."""
    bottom = lowest(x.dtype)
    if xp is not np:
        return xp.where(mask[..., None], x, xp.asarray(bottom, x.dtype))
    x = x.copy()
    x[~mask] = bottom  # four times as fast as where, but a GPU would have to be waited for
    return x


def first_place(xp: Any, x: Array, y: Array) -> Array:
    """The first t with x[:, t] == y, (B, L, C) and (B, C) -> (B, C): each hit is worth L - t, and the best
    counts. (Several times as fast as argmax over an axis that is not the last.)"""
    length = x.shape[1]
    worth = xp.arange(length, 0, -1).astype(np.uint8 if length < 256 else np.int32)[:, None]
    best = ((x == y[:, None]) * worth).max(axis=1)
    return xp.minimum(length - best.astype(np.int64), length - 1)  # a NaN equals nothing: the last takes it


def output_length(length: int, kernel: int, stride: int, padding: int) -> int:
    """Number of windows over `length` positions; 0 when none fits."""
    return max(0, (length + 2 * padding - kernel) // stride + 1)


def windows_of(length: int, kernel: int, stride: int, padding: int) -> list[tuple[int, slice, slice]]:
    """For each offset j in a window: (j, the windows whose place j lies inside x, those places)."""
    count = output_length(length, kernel, stride, padding)
    found = []
    for j in range(kernel):
        first = max(0, -((j - padding) // stride))
        end = min(count, (length - 1 + padding - j) // stride + 1)
        if first < end:
            start = first * stride - padding + j
            found.append((j, slice(first, end), slice(start, start + (end - first - 1) * stride + 1, stride)))
    return found


@lru_cache(maxsize=256)  # the same array in each step, so that a captured one finds its copy on the GPU
def _shares(
    length: int, kernel: int, stride: int, padding: int, count_include_pad: bool, dtype: Any
) -> Array:
    """1 / n of each window, (windows, 1): n the kernel size, or the number of places inside x."""
    count = np.full(output_length(length, kernel, stride, padding), float(kernel))
    if not count_include_pad:
        count[:] = 0
        for _, out, _ in windows_of(length, kernel, stride, padding):
            count[out] += 1
    return (1.0 / count).astype(dtype)[:, None]


def check_windows(name: str, x: Any, kernel: int, stride: int, padding: int) -> None:
    """Raise ShapeError or ValueError unless there is a window over x (B, L, C)."""
    if len(x.shape) != 3:
        raise ShapeError(f"{name} expects (batch, length, channels) but got {tuple(x.shape)}")
    if kernel < 1 or stride < 1 or not 0 <= padding <= kernel // 2:
        raise ValueError(
            f"{name}: kernel_size {kernel} and stride {stride} must be at least 1, and padding {padding} "
            f"from 0 to half the kernel size ({kernel // 2})"
        )
    if output_length(x.shape[1], kernel, stride, padding) < 1:
        raise ShapeError(
            f"{name}: a window of {kernel} does not fit into {tuple(x.shape)} with padding {padding}; "
            f"the length must be at least {kernel - 2 * padding}: pad the batch further"
        )


def max_pool1d(x: Any, kernel_size: int, stride: int | None = None, padding: int = 0) -> Tensor:
    """Maximum of each window of x (B, L, C). stride: kernel_size if None; padding: at most half of it."""
    stride = kernel_size if stride is None else stride
    check_windows("max_pool1d", x, kernel_size, stride, padding)
    return MaxPool1d.apply(x, kernel=kernel_size, stride=stride, padding=padding)


def avg_pool1d(
    x: Any, kernel_size: int, stride: int | None = None, padding: int = 0, *, count_include_pad: bool = True
) -> Tensor:
    """Mean of each window of x (B, L, C). stride: kernel_size if None; padding: at most half of it."""
    stride = kernel_size if stride is None else stride
    check_windows("avg_pool1d", x, kernel_size, stride, padding)
    return AvgPool1d.apply(
        x, kernel=kernel_size, stride=stride, padding=padding, count_include_pad=count_include_pad
    )


def _real(name: str, x: Any, mask: Any) -> Array | None:
    """The checked mask (B, L) of x (B, L, C) on x's device."""
    shape = tuple(x.shape)
    if len(shape) != 3 or shape[1] == 0:
        raise ShapeError(f"{name} expects (batch, length, channels) with a length of at least 1, got {shape}")
    if mask is not None and tuple(mask.shape) != shape[:2]:
        raise ShapeError(f"{name} expects a mask {shape[:2]} for {shape} but got {tuple(mask.shape)}")
    return real_tokens(mask, x)


def max_over_time(x: Any, mask: Any = None) -> Tensor:
    """Maximum over the real tokens: x (B, L, C), mask (B, L), True = real -> (B, C); 0 for a row without any.
    Among equal maxima the first takes the gradient."""
    return MaxOverTime.apply(x, mask=_real("max_over_time", x, mask))


def mean_over_time(x: Any, mask: Any = None) -> Tensor:
    """Mean over the real tokens: x (B, L, C), mask (B, L), True = real -> (B, C); 0 for a row without any."""
    return MeanOverTime.apply(x, mask=_real("mean_over_time", x, mask))
