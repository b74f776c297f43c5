"""Convolutions: by products, by a kernel for tensor cores (if the GPU has them), by the kernels of one filter
a channel, or by those for every shape."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from ..backend.instantiations import depthwise_channels
from ..ops import conv1d_depthwise, conv1d_kernels, conv1d_products, conv1d_tensor_cores
from ..ops import conv1d_relu_max_products as relu_max_products
from ..ops.conv1d import Conv1d
from ..ops.conv1d_relu_max import ConvReluMax
from ..ops.conv1d_relu_max_kernels import MOST
from ..ops.windows import Geometry, Padding, geometry_of
from .layers import column_sums
from .measure import INT, Cost, Pass, Spec, both, gradient_flops, launch


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
    elif conv1d_tensor_cores.pays(x.shape, w.shape, x.dtype, at):
        way = _tensor_cores
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


def _tensor_cores(x: Spec, w: Spec, bias: Spec | None, y: Spec, at: Geometry) -> tuple[Pass, Pass]:
    """Each number once, forward and for dx; for dW both sides are copied with padding, and read a tap."""
    backward, (kernel_size, channels, out) = Pass(), w.shape
    if x.needs_grad:
        backward += launch(y, w, x)
    if w.needs_grad:
        splits, run = conv1d_tensor_cores.runs_of_taps(x.shape, w.shape, at)
        rows, reach = splits * run, (kernel_size - 1) * at.dilation
        partial = w.sums(splits, channels, out) if splits > 1 else w.like(channels, out)
        tap = launch(x.like(rows, channels), x.like(rows, out), partial)
        backward += launch(x, x.like(rows + reach, channels)) + launch(y, y.like(rows, out))
        backward += tap.times(kernel_size)
        backward += launch(w.sums(splits, *w.shape), w) if splits > 1 else Pass()
    if bias is not None and bias.needs_grad:
        backward += column_sums(y.rows())
    return launch(x, w, bias, y), backward


def _depthwise(x: Spec, w: Spec, bias: Spec | None, y: Spec, at: Geometry) -> tuple[Pass, Pass]:
    """Each number once each way; beside dx, the sums of the parts of dW and db."""
    forward = launch(x, w, bias, y)
    sums = [a for a in (w, bias) if a is not None and a.needs_grad]
    if not sums:
        return forward, launch(y, w, x)
    total = max(x.shape[1] + at.padding[0], y.shape[1])
    most, own = conv1d_depthwise.MOST_BLOCKS, depthwise_channels(x.dtype.itemsize, w.shape[0])
    parts = conv1d_depthwise.cut_of(x.shape, own, total, at.dilation, most).parts
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


def conv1d_relu_max(
    x: Spec, convolutions: Sequence[Sequence[Any]], mask: Spec | None = None, *, paddings: Any = 0
) -> Cost:
    """Two launches each way for up to four widths, and nothing for each window, unless tensor cores make the
    convolutions. Filters are copied once in the order that kernels read; weights lie as layers keep them."""
    each = [paddings] * len(convolutions) if isinstance(paddings, (int, str, tuple)) else paddings
    parameters = [p for pair in convolutions for p in pair]
    y = x.like(x.shape[0], sum(w.shape[0] for w in parameters[::2]))
    winner, bits = y.like(*y.shape, dtype=INT), None if mask is None else mask.like(*mask.shape, dtype=bool)
    forward, backward, own, filters = Pass(), Pass(), 0, 0
    for i in range(0, len(convolutions), MOST):
        part = parameters[2 * i : 2 * (i + MOST)]
        places = [geometry_of(x, w, None, 1, p, 1, 1) for w, p in zip(part[::2], each[i:], strict=False)]
        joined, bias = x.like(sum(w.size for w in part[::2])), y.like(y.shape[1])
        forward += launch(*part, joined, bias)
        pairs = list(zip(part[::2], part[1::2], places, strict=True))
        if all(relu_max_products.pays(x.shape, x.dtype, _filters(w), at) for w, _, at in pairs):
            forward += both([_largest(x, w, b, bits, at, y, winner) for w, b, at in pairs])
        else:
            forward += launch(x, bits, joined, bias, y, winner)
        wanted = [p for p in part if p is not None and p.needs_grad]
        backward += launch(x, y, winner, *wanted) if wanted else Pass()
        backward += launch(y, winner, joined, x) if x.needs_grad else Pass()
        own += sum(2 * x.shape[0] * at.out_length(x.shape[1], w.shape[1]) * w.size for w, _, at in pairs)
        filters += joined.size
    flops = gradient_flops(ConvReluMax, (x, x.like(filters)), y, x, *parameters)
    return Cost(both([forward], own + y.size), both([backward], flops) if backward.launches else Pass())


def _filters(w: Spec) -> tuple[int, ...]:
    """The shape (K, C, F) of a weight (F, K, C) as it lies in memory."""
    return (*w.shape[1:], w.shape[0])


def _largest(
    x: Spec, w: Spec, bias: Spec | None, bits: Spec | None, at: Geometry, y: Spec, winner: Spec
) -> Pass:
    """A convolution by products, and the walk over what it stored."""
    (batch, length, _), (out, kernel_size, _) = x.shape, w.shape
    taps, each = conv1d_products.rows_of(length, kernel_size, at)
    rows = batch * each if length == each else conv1d_products.rows_with_padding(batch, taps, each)[0]
    c = y.like(batch, at.out_length(length, kernel_size), out)
    products, _ = _products(x.like(*x.shape), Spec(_filters(w), w.dtype), bias, c, at)
    return products + launch(x.like(rows, out), bits, y, winner)


FORMULAS: dict[str, Callable[..., Cost]] = {"conv1d": conv1d, "conv1d_relu_max": conv1d_relu_max}
