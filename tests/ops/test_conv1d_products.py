"""Convolution by products of phases: the map of indices in NumPy against loops over taps, and the operation
on the fake GPU against the CPU."""

from __future__ import annotations

import numpy as np
import pytest
from convolutions import NAMES, TOLERANCE, check_captured, dtype_named
from hypothesis import given, settings
from hypothesis import strategies as st

import gpuprop as gp
from gpuprop import ops
from gpuprop.backend.arrays import to_device, to_host
from gpuprop.backend.device import use_device
from gpuprop.ops import conv1d_products
from gpuprop.ops.windows import Geometry

SHAPES = [  # batch, length, channels, out, kernel, options
    pytest.param(3, 11, 4, 5, 3, {}, id="no-padding-and-windows-left-over"),
    pytest.param(2, 9, 16, 8, 5, {"padding": "same"}, id="same"),
    pytest.param(2, 9, 8, 16, 4, {"padding": "causal"}, id="causal"),
    pytest.param(2, 8, 8, 8, 3, {"stride": 2}, id="stride-that-divides-the-length"),
    pytest.param(2, 9, 4, 8, 5, {"stride": 3, "padding": (1, 2)}, id="stride"),
    pytest.param(3, 7, 4, 8, 2, {"stride": 4}, id="gaps-between-windows"),
    pytest.param(4, 6, 8, 8, 1, {"dilation": 3}, id="one-tap"),
    pytest.param(3, 2, 8, 8, 5, {"padding": 2}, id="texts-shorter-than-the-window"),
    pytest.param(1, 3, 8, 8, 3, {}, id="one-window"),
]


def loops(x, weight, bias, dy, at):
    """y, dx, dweight, dbias a tap at a time; weight (K, C, O)."""
    padded = np.pad(x, ((0, 0), at.padding, (0, 0)))
    places = np.arange(dy.shape[1]) * at.stride
    y, dpadded, dweight = np.zeros(dy.shape) + bias, np.zeros(padded.shape), np.zeros(weight.shape)
    for k in range(len(weight)):
        y += padded[:, places + k] @ weight[k]
        np.add.at(dpadded, (slice(None), places + k), dy @ weight[k].T)
        dweight[k] = np.einsum("btc,bto->co", padded[:, places + k], dy)
    dx = dpadded[:, at.padding[0] : at.padding[0] + x.shape[1]]
    return y, dx, dweight, dy.sum(axis=(0, 1))


@st.composite
def problems(draw):
    kernel, stride = draw(st.integers(1, 7)), draw(st.integers(1, 4))
    padding = draw(st.tuples(st.integers(0, 7), st.integers(0, 7)))
    shortest = max(1, kernel - sum(padding))  # a text may be shorter than the window
    sizes = [draw(st.integers(1, 4)), draw(st.integers(shortest, shortest + 9))]
    channels, out = draw(st.integers(1, 4)), draw(st.integers(1, 4))
    return (*sizes, channels, out, kernel), Geometry(stride, padding, 1, 1)


@settings(max_examples=200)
@given(problems(), st.integers(0, 9))
def test_the_map_of_indices(problem, seed):
    (batch, length, channels, out, kernel), at = problem
    rng = np.random.default_rng(seed)
    x, weight = rng.standard_normal((batch, length, channels)), rng.standard_normal((kernel, channels, out))
    bias = rng.standard_normal(out)
    dy = rng.standard_normal((batch, at.out_length(length, kernel), out))
    y = conv1d_products.forward(x, weight, bias, at)
    found = (y, *conv1d_products.backward(dy, x, weight, at, (True, True, True)))
    for name, got, want in zip(NAMES, found, loops(x, weight, bias, dy, at), strict=True):
        assert got.shape == want.shape, name
        assert np.abs(got - want).max() <= 1e-12 * max(1, np.abs(want).max()), name


def run(dtype, batch, length, channels, out, kernel, options):
    rng = np.random.default_rng(0)
    x, weight, bias = (
        gp.tensor(rng.standard_normal(s).astype(dtype), requires_grad=True)
        for s in ((batch, length, channels), (out, kernel, channels), out)
    )
    y = ops.conv1d(x, weight, bias, **options)
    y.backward(to_device(rng.standard_normal(y.shape).astype(dtype)))
    return [to_host(a) for a in (y.data, x.grad, weight.grad, bias.grad)]


@pytest.fixture
def always(monkeypatch):
    """Products for the smallest arrays, too."""
    monkeypatch.setattr(conv1d_products, "LEAST", 0)
    monkeypatch.setattr(conv1d_products, "NARROW", 0)


@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize(("batch", "length", "channels", "out", "kernel", "options"), SHAPES)
def test_a_gpu_gives_what_the_cpu_gives(
    any_gpu, always, dtype, batch, length, channels, out, kernel, options
):
    sizes = (batch, length, channels, out, kernel, options)
    with use_device("cpu"):
        expected = run(dtype_named(dtype), *sizes)
    found = run(dtype_named(dtype), *sizes)
    for name, got, want in zip(NAMES, found, expected, strict=True):
        assert (got.dtype, got.shape) == (want.dtype, want.shape), name
        got, want = got.astype(np.float64), want.astype(np.float64)
        assert np.abs(got - want).max() <= 2 * TOLERANCE[dtype] * max(1, np.abs(want).max()), name


def test_gradients_by_finite_differences(any_gpu, always):
    rng = np.random.default_rng(0)
    arrays = [rng.standard_normal(s) for s in ((2, 7, 3), (4, 3, 3), 4)]
    assert gp.gradcheck(lambda *a: ops.conv1d(*a, padding=(1, 0), stride=2), arrays) <= 1e-6


def test_no_gradient_that_is_not_wanted(fake_gpu, always):
    x, weight = (gp.tensor(np.ones(s, np.float32)) for s in ((2, 6, 4), (4, 3, 4)))
    weight.requires_grad = True
    y = ops.conv1d(x, weight)
    fake_gpu.launches.clear()
    y.backward(to_device(np.ones(y.shape, np.float32)))
    # dweight alone: three phases, and the one window that they leave
    assert fake_gpu.launches == ["conv1d_pad", "gemm_batched", "gemm", "conv1d_sum_partials"]
    assert x.grad is None


@pytest.mark.parametrize(("channels", "out", "length", "options", "by"), [
    (16, 16, 2050, {}, "gemm_epilogue"),
    (15, 16, 2250, {}, "conv1d_forward"),  # a product would be mostly empty
    (16, 15, 2250, {}, "conv1d_forward"),
    (16, 16, 2049, {}, "conv1d_forward"),  # one multiplication too few
    (16, 16, 2250, {"dilation": 2}, "conv1d_forward"),
    (32, 32, 2250, {"groups": 2}, "conv1d_forward"),
])  # fmt: skip
def test_which_way_is_taken(fake_gpu, monkeypatch, channels, out, length, options, by):
    monkeypatch.setattr(conv1d_products, "LEAST", 2048 * 3 * 16 * 16)
    x = gp.tensor(np.ones((1, length, channels), np.float32))
    weight = gp.tensor(np.ones((out, 3, channels // options.get("groups", 1)), np.float32))
    fake_gpu.launches.clear()
    ops.conv1d(x, weight, gp.tensor(np.ones(out, np.float32)), **options)
    assert by in fake_gpu.launches


def test_inside_a_captured_step(any_gpu, always):
    check_captured(stride=1)


@pytest.mark.parametrize(
    ("options", "by"),
    [
        ({}, "gemm_batched"),
        ({"stride": 3}, "gemm"),
        ({"dilation": 2}, "conv1d_backward_weight"),
        ({"groups": 8}, "conv1d_depthwise_backward"),
    ],
)
def test_gradients_of_parameters_are_written_where_the_optimizer_keeps_them(fake_gpu, always, options, by):
    rng = np.random.default_rng(0)
    layer = gp.nn.Conv1d(8, 8, 3, **options)
    layer.to("cuda")
    x, dy = to_device(rng.standard_normal((2, 9, 8)).astype(np.float32)), None
    found = []
    for kept in (False, True):
        if kept:
            optimizer = gp.optim.AdamW(layer.parameters())
            layer(x).sum().backward()  # its memory is made
            optimizer.zero_grad()
        y = layer(x)
        dy = to_device(rng.standard_normal(y.shape).astype(np.float32)) if dy is None else dy
        fake_gpu.launches.clear()
        y.backward(dy)
        assert by in fake_gpu.launches
        assert not {"copy", "setitem", "astype"} & set(fake_gpu.launches)
        found.append([to_host(p.grad).copy() for p in layer.parameters()])
        for p in layer.parameters():
            p.grad = None
    for own, arena in zip(*found, strict=True):
        np.testing.assert_array_equal(own, arena)


@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("channels", [5, 16])
def test_texts_with_zeros_around_them(device, dtype, channels):
    """One number a thread, and 16 bytes a thread."""
    x = np.random.default_rng(0).standard_normal((3, 4, channels)).astype(dtype_named(dtype))
    y = to_host(conv1d_products.padded(to_device(x), 2, 7, 1, 26))
    expected = np.zeros((26, channels), dtype_named(dtype))
    for b in range(3):
        expected[2 + 7 * b + 1 : 2 + 7 * b + 5] = x[b]
    np.testing.assert_array_equal(y, expected)
