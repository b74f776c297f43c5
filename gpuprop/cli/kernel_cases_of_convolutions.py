"""Cases of the convolutions' kernels, for `gpuprop kernels check`; see kernel_cases.py."""

from __future__ import annotations

from typing import Any

import numpy as np

from .. import ops
from ..backend import gemm, kernels
from ..backend.arrays import to_device
from ..ops import conv1d_ways
from ..ops.conv1d_products import padded
from ..ops.conv1d_relu_max import windows_with_tokens
from ..ops.conv1d_relu_max_products import largest
from ..ops.windows import Width
from ..tensors import Parameter, tensor

Results = list[Any]


def conv1d(dtype: Any) -> Results:
    """Output and gradients, of one group and of narrow ones, and what products read."""
    rows = np.random.default_rng(1)
    texts = [to_device(rows.standard_normal((3, 5, width)).astype(dtype)) for width in (3, 16)]
    results: Results = [padded(x, 2, 9, 1, 31) for x in texts]
    for groups in (1, 4):
        rng = np.random.default_rng(0)
        x = tensor(rng.standard_normal((2, 35, 8)).astype(dtype), requires_grad=True)
        weight = Parameter(to_device(rng.standard_normal((68, 3, 8 // groups)).astype(dtype)))
        bias = Parameter(to_device(rng.standard_normal(68).astype(dtype)))
        y = ops.conv1d(x, weight, bias, padding="same", dilation=2, groups=groups)
        y.backward(rng.standard_normal(y.shape).astype(dtype))
        results += [y.data, x.grad, weight.grad, bias.grad]
    return results


def conv1d_relu_max(dtype: Any) -> Results:
    """Features of padded texts and gradients: long texts, and short ones of which a block takes several."""
    results: Results = []
    for batch, length, channels, shapes in ((2, 70, 8, ((68, 3), (5, 1))), (9, 11, 5, ((5, 3), (4, 2)))):
        rng = np.random.default_rng(0)
        mask = np.arange(length) < rng.integers(0, length + 1, (batch, 1))
        text = rng.standard_normal((batch, length, channels)) * mask[..., None]
        x = tensor(text.astype(dtype), requires_grad=True)
        shapes_of_all = [s for f, k in shapes for s in ((f, k, channels), f)]
        leaves = [tensor(rng.standard_normal(s).astype(dtype), requires_grad=True) for s in shapes_of_all]
        pairs = list(zip(leaves[::2], leaves[1::2], strict=True))
        y = ops.conv1d_relu_max(x, pairs, mask, paddings="same")
        y.backward(rng.standard_normal(y.shape).astype(dtype))
        results += [y.data, x.grad, *(leaf.grad for leaf in leaves)]
    return results


def conv1d_depthwise(dtype: Any) -> Results:
    """Output and gradients of one filter a channel: several runs of a text, and dilation."""
    results: Results = []
    for length, channels, taps, dilation in ((70, 24, 4, 1), (9, 8, 3, 2)):
        rng = np.random.default_rng(0)
        x = tensor(rng.standard_normal((2, length, channels)).astype(dtype), requires_grad=True)
        weight = Parameter(to_device(rng.standard_normal((channels, taps, 1)).astype(dtype)))
        bias = Parameter(to_device(rng.standard_normal(channels).astype(dtype)))
        y = ops.conv1d(x, weight, bias, padding="same", dilation=dilation, groups=channels)
        y.backward(rng.standard_normal(y.shape).astype(dtype))
        results += [y.data, x.grad, weight.grad, bias.grad]
    return results


def conv1d_tensor_cores(dtype: Any) -> Results:
    """Output and gradients, of whole packs and of channels that begin anywhere, several tiles and steps; of
    float64 in float32. The numbers are short, so that TF32 holds them."""
    results: Results = []
    dtype = np.float32 if dtype == np.float64 else dtype
    for length, channels, out, dilation in ((70, 40, 136, 2), (9, 5, 3, 1)):
        rng = np.random.default_rng(0)
        shapes = ((3, length, channels), (out, 3, channels), (out,))
        draws = [(rng.integers(-8, 9, shape) / 8).astype(dtype) for shape in shapes]
        x, weight, bias = tensor(draws[0], requires_grad=True), *(Parameter(to_device(a)) for a in draws[1:])
        with gemm.tf32_products(), conv1d_ways.using("tensor_cores"):
            y = ops.conv1d(x, weight, bias, padding="same", dilation=dilation)
            y.backward((rng.integers(-8, 9, y.shape) / 8).astype(dtype))
        results += [y.data, x.grad, weight.grad, bias.grad]
    return results


def conv1d_relu_max_products(dtype: Any) -> Results:
    """The largest of stored convolutions of padded texts, and where; some columns, of rows that go on."""
    results: Results = []
    for filters in (37, 136):
        rng = np.random.default_rng(0)
        c = to_device(rng.standard_normal((3 * 21, filters)).astype(dtype))
        mask = to_device(np.arange(18) < np.array([[18], [7], [0]]))
        y, winner = (
            to_device(np.zeros((3, filters + 5), dtype)),
            to_device(np.zeros((3, filters + 5), np.int32)),
        )
        width = Width(3, filters, 0, 5, 2, 1)
        if kernels.usable(c):
            largest(c, 21, 18, mask, width, y, winner)
        else:
            seen = windows_with_tokens(mask, 3, 2, 1)[..., None]
            texts = np.where(seen, c.reshape(3, 21, filters)[:, :19].astype(np.float64), -1)
            y[:, 5:] = np.maximum(texts.max(axis=1), 0)
            winner[:, 5:] = np.where(y[:, 5:] > 0, texts.argmax(axis=1), -1)
        results += [y, winner]
    return results
