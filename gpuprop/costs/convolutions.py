"""Convolutions: by products, by the kernels of one filter a channel, or by those for every shape."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from ..ops import conv1d_depthwise, conv1d_kernels, conv1d_products
from ..ops.conv1d import Conv1d
from ..ops.windows import Geometry, Padding, geometry_of
from .layers import column_sums
from .measure import Cost, Pass, Spec, both, gradient_flops, launch


def conv1d(
    x: Spec, weight: Spec, bias: Spec | None = None, *, stride: int = 1, padding: Padding = 0,
    dilation: int = 1, groups: int = 1,
) -> Cost:  # fmt: skip
    """weight (O, K, C) lies as layers keep it, (K, C, O); in another order it is copied, forward."""
    at = geometry_of(x, weight, bias, stride, padding, dilation, groups)
    out, kernel_size, channels = weight.shape
    w = Spec((kernel_size, channels, out), weight.dtype, weight.needs_grad)
    y = x.like(x.shape[0], at.out_length(x.shape[1], kernel_size), out)
    way = _kernels
    if conv1d_products.pays(x.shape, w.shape, at):
        way = _products
    elif conv1d_depthwise.fits(x.shape, w.shape, x.dtype.itemsize, at):
        way = _depthwise
    forward, backward = way(x, w, bias, y, at)
    own = y.size * (2 * kernel_size * channels + (bias is not None))
    wanted = any(a is not None and a.needs_grad for a in (x, w, bias))
    flops = gradient_flops(Conv1d, (x, w, at), y, x, w, bias)
    return Cost(both([forward], own), both([backward], flops) if wanted else Pass())


def _kernels(x: Spec, w: Spec, bias: Spec | None, y: Spec, at: Geometry) -> tuple[Pass, Pass]:
    """Sums over the batch are made in runs, then of the runs."""
    pairs, backward = y.shape[0] * y.shape[1], Pass()
    if x.needs_grad:
        backward += launch(y, w, x)
    if w.needs_grad:
        partial = w.sums(conv1d_kernels.runs_of_weight(pairs, w.shape, at)[0], *w.shape)
        backward += launch(x, y, partial) + launch(partial, w)
    if bias is not None and bias.needs_grad:
        partial = bias.sums(conv1d_kernels.runs_of_bias(pairs, bias.size)[0], bias.size)
        backward += launch(y, partial) + launch(partial, bias)
    return launch(x, w, bias, y), backward


def _depthwise(x: Spec, w: Spec, bias: Spec | None, y: Spec, at: Geometry) -> tuple[Pass, Pass]:
    """Each number once each way; beside dx, the sums of the parts of dW and db."""
    forward = launch(x, w, bias, y)
    sums = [a for a in (w, bias) if a is not None and a.needs_grad]
    if not sums:
        return forward, launch(y, w, x)
    total = max(x.shape[1] + at.padding[0], y.shape[1])
    most = conv1d_depthwise.MOST_BLOCKS
    parts = conv1d_depthwise.cut_of(x.shape, x.dtype.itemsize, total, at.dilation, most).parts
    partial = x.sums(parts, w.shape[0] + 1, x.shape[2])
    return forward, launch(x, y, w, x if x.needs_grad else None, partial) + launch(partial, *sums)


def _products(x: Spec, w: Spec, bias: Spec | None, y: Spec, at: Geometry) -> tuple[Pass, Pass]:
    """x, and for dx dy, is read once for each phase; with padding both are copied first."""
    (batch, length, channels), (kernel_size, _, out) = x.shape, w.shape
    taps, each = conv1d_products.rows_of(length, kernel_size, at)
    rows, of_gradients = conv1d_products.rows_with_padding(batch, taps, each)
    width = at.stride * channels
    text, gradients, copied = x.like(rows, width), y.like(of_gradients, out), Pass()
    if length == each * at.stride:
        text = x.like(batch * each, width)
    else:
        copied = launch(x, text)
    forward = copied + _convolved(text, x.like(kernel_size * channels, out), bias, taps)
    backward, turned = Pass(), x.like(taps * out, width)
    if (x.needs_grad or w.needs_grad) and (taps > 1 or y.shape[1] < each):
        backward += launch(y, gradients)
    if x.needs_grad:
        backward += _turned(w, turned) + _convolved(gradients, turned, None, taps)
    if w.needs_grad:
        backward += copied + _gradient_of_weight(text, w, taps)
    if bias is not None and bias.needs_grad:
        backward += column_sums(y.rows())
    return forward, backward


def _convolved(text: Spec, w: Spec, bias: Spec | None, taps: int) -> Pass:
    """Of the phases, and of the windows that they leave; the bias is an epilogue but in float64."""
    found, (window, out) = Pass(), w.shape
    for _, n, rows in conv1d_products.phases(len(text) - taps + 1, taps):
        windows, y = text.like(n * rows, window), text.like(n * rows, out)
        inside = bias is not None and text.dtype != np.float64
        found += launch(windows, w, bias if inside else None, y)
        found += launch(y, bias, y) if bias is not None and not inside else Pass()
    return found


def _turned(w: Spec, turned: Spec) -> Pass:
    if turned.size == w.size:
        return launch(w, turned)
    more = w.like(turned.size - w.size)
    return launch(more) + launch(w, more, turned) + launch(turned, turned)


def _gradient_of_weight(text: Spec, w: Spec, taps: int) -> Pass:
    cut = list(conv1d_products.phases(len(text) - taps + 1, taps))
    count, window, out = sum(n for _, n, _ in cut), w.shape[0] * w.shape[1], w.shape[2]
    found = Pass()
    for _, n, rows in cut:
        partial = w.like(window, out) if count == 1 else w.sums(n, window, out)
        found += launch(text.like(n * rows, window), text.like(n * rows, out), partial)
    return found + (launch(w.sums(count, *w.shape), w) if count > 1 else Pass())


FORMULAS: dict[str, Callable[..., Cost]] = {"conv1d": conv1d}
