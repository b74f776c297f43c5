"""What the tests of convolutions share: the convolution written as loops, and arrays for it."""

from __future__ import annotations

import numpy as np
import pytest

import gpuprop as gp
from gpuprop import ops
from gpuprop.backend.arrays import to_device, to_host
from gpuprop.tensors import Parameter, Tensor, tensor

# relative to the largest value: half the last place for a sum of float32 products, then rounding to the type
TOLERANCE = {"float64": 1e-13, "float32": 2e-6, "float16": 1e-3, "bfloat16": 8e-3}
NAMES = ("y", "dx", "dweight", "dbias")


def reference(x, weight, bias, dy, stride=1, padding=0, dilation=1, groups=1):
    """y, dx, dweight and dbias in float64, a product at a time. padding: (left, right)."""
    (batch, length, _), (out, kernel_size, narrow) = x.shape, weight.shape
    left, right = padding
    out_length = (length + left + right - dilation * (kernel_size - 1) - 1) // stride + 1
    y, dx, dweight = np.zeros((batch, out_length, out)), np.zeros(x.shape), np.zeros(weight.shape)
    dy = np.zeros(y.shape) if dy is None else dy
    for t in range(out_length):
        for k in range(kernel_size):
            at = t * stride - left + k * dilation
            if not 0 <= at < length:
                continue
            for o in range(out):
                group = slice(o // (out // groups) * narrow, (o // (out // groups) + 1) * narrow)
                y[:, t, o] += x[:, at, group] @ weight[o, k]
                dx[:, at, group] += dy[:, t, o, None] * weight[o, k]
                dweight[o, k] += dy[:, t, o] @ x[:, at, group]
    return y + bias, dx, dweight, dy.sum((0, 1))


def sides(kernel_size, options):
    padding, reach = options.get("padding", 0), (kernel_size - 1) * options.get("dilation", 1)
    named = {"same": (reach // 2, reach - reach // 2), "causal": (reach, 0)}
    return (
        named[padding]
        if isinstance(padding, str)
        else padding
        if isinstance(padding, tuple)
        else (padding,) * 2
    )


def dtype_named(name):
    return np.dtype(pytest.importorskip("ml_dtypes").bfloat16 if name == "bfloat16" else name)


def make(batch, length, channels, out, kernel_size, dtype, groups=1, **_):
    rng = np.random.default_rng(0)
    x = tensor(rng.standard_normal((batch, length, channels)).astype(dtype), requires_grad=True)
    weight = rng.standard_normal((out, kernel_size, channels // groups)).astype(dtype)
    weight = Parameter(tensor(weight).data, order=(1, 2, 0))
    bias = Parameter(tensor(rng.standard_normal(out).astype(dtype)).data)
    return x, weight, bias, rng


def double(a):
    return to_host(a.data if isinstance(a, Tensor) else a).astype(np.float64)


def check_captured(**options):
    """Nothing waits or allocates outside the pool, and replays compute from what is there then, to the bits
    of a step that is not captured."""
    rng = np.random.default_rng(0)
    shape = (8, 3, 8 // options.get("groups", 1))
    weight, bias = (tensor(rng.standard_normal(s).astype(np.float32), requires_grad=True) for s in (shape, 8))

    def step(x):
        weight.grad = bias.grad = None
        y = ops.conv1d(x, weight, bias, padding="same", **options)
        y.backward(y.data)
        return y, weight.grad, bias.grad

    captured = gp.capture(step)
    for i in range(4):
        x = np.random.default_rng(i).standard_normal((2, 9, 8)).astype(np.float32)
        found, expected = ([to_host(tensor(a).data) for a in run(to_device(x))] for run in (captured, step))
        for got, want in zip(found, expected, strict=True):
            np.testing.assert_array_equal(got, want)
    assert captured.captured == 1
    assert captured.replayed >= 2
