"""One filter a channel: the kernels against loops, against the simple kernels, and against PyTorch."""

from __future__ import annotations

import numpy as np
import pytest
from convolutions import NAMES, TOLERANCE, check_captured, double, dtype_named, make, reference, sides

import gpuprop as gp
from gpuprop import ops
from gpuprop.backend.device import use_device
from gpuprop.ops import conv1d_depthwise, conv1d_kernels
from gpuprop.ops.windows import Geometry
from gpuprop.testing import gradcheck

SHAPES = [  # batch, length, channels, kernel, options
    pytest.param(2, 70, 24, 4, {"padding": "causal"}, id="several-runs"),
    pytest.param(3, 9, 8, 3, {"padding": "same", "dilation": 2}, id="dilation"),
    pytest.param(1, 5, 272, 3, {}, id="two-tiles-of-channels"),
    pytest.param(2, 3, 16, 7, {"padding": (5, 9)}, id="windows-in-the-padding"),
    pytest.param(2, 6, 8, 5, {"padding": (0, 4), "dilation": 2}, id="padding-behind"),
    pytest.param(2, 40, 12, 7, {"padding": "same"}, id="rows-of-halves-in-packs-of-8-bytes"),
]


def run(dtype, batch, length, channels, kernel, options):
    x, weight, bias, rng = make(
        batch, length, channels, channels, kernel, dtype_named(dtype), channels, **options
    )  # fmt: skip
    y = ops.conv1d(x, weight, bias, groups=channels, **options)
    dy = rng.standard_normal(y.shape).astype(y.dtype)
    y.backward(gp.tensor(dy).data)
    return (x, weight, bias, dy), (y, x.grad, weight.grad, bias.grad)


@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize(("batch", "length", "channels", "kernel", "options"), SHAPES)
def test_equals_loops(device, dtype, batch, length, channels, kernel, options):
    given, found = run(dtype, batch, length, channels, kernel, options)
    options = {**options, "padding": sides(kernel, options)}
    expected = reference(*(double(a) for a in given), groups=channels, **options)
    for name, got, want in zip(NAMES, found, expected, strict=True):
        assert (got.dtype, tuple(got.shape)) == (given[3].dtype, want.shape), name
        assert np.abs(double(got) - want).max() <= TOLERANCE[dtype] * max(1, np.abs(want).max()), name


@pytest.mark.parametrize("dilation", [1, 3])
def test_gradcheck(device, dilation):
    x, weight, bias, _ = make(2, 8, 4, 4, 3, np.float64, 4)
    options = {"padding": (1, 2), "dilation": dilation, "groups": 4}
    assert gradcheck(lambda *arrays: ops.conv1d(*arrays, **options), (x, weight, bias)) <= 1e-6


@pytest.mark.parametrize(
    ("x", "weight", "bias"), [(1, 0, 0), (0, 1, 0), (0, 0, 1), (1, 1, 0), (1, 0, 1), (0, 1, 1)]
)
def test_only_the_wanted_gradients(device, x, weight, bias):
    leaves = make(2, 9, 8, 8, 4, np.float32, 8)[:3]
    wanted = (x, weight, bias)
    grads = []
    for each in (wanted, (1, 1, 1)):
        for leaf, want in zip(leaves, each, strict=True):
            leaf.requires_grad, leaf.grad = bool(want), None
        ops.conv1d(*leaves, padding="same", groups=8).sum().backward()
        grads.append([leaf.grad for leaf in leaves])
    for want, alone, together in zip(wanted, *grads, strict=True):
        assert (alone is not None) == bool(want)
        if want:
            np.testing.assert_allclose(double(alone), double(together), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("few", [False, True])
def test_however_the_work_is_cut(monkeypatch, few):
    """Threads with several walks, and blocks with a step each, give what the simple kernels give."""
    with use_device("emulated"):
        rng = np.random.default_rng(0)
        x, weight, bias = (rng.standard_normal(s) for s in ((3, 40, 6), (5, 1, 6), 6))
        at = Geometry(1, (3, 4), 2, 6)
        dy = rng.standard_normal((3, at.out_length(40, 5), 6))
        for name, value in {"LEAST_RUN": 64 if few else 1, "MOST_BLOCKS": 1 if few else 1024}.items():
            monkeypatch.setattr(conv1d_depthwise, name, value)
        found, expected = (
            [way.forward(x, weight, bias, at), *way.backward(dy, x, weight, at, (True, True, True))]
            for way in (conv1d_depthwise, conv1d_kernels)
        )
    cut = conv1d_depthwise.cut_of(x.shape, 2, 47, 2, conv1d_depthwise.MOST_BLOCKS)
    assert (cut.pieces, cut.parts) == ((1, 1) if few else (24, 5))
    for name, got, want in zip(NAMES, found, expected, strict=True):
        np.testing.assert_allclose(got, want, rtol=1e-12, atol=1e-12, err_msg=name)


@pytest.mark.parametrize(("channels", "multiplier", "kernel", "options", "by"), [
    (8, 1, 4, {}, "conv1d_depthwise_forward"),
    (6, 1, 4, {}, "conv1d_forward_narrow"),  # rows that are not whole packs of 16 bytes
    (8, 2, 4, {}, "conv1d_forward_narrow"),
    (8, 1, 6, {}, "conv1d_forward_narrow"),
    (8, 1, 4, {"stride": 2}, "conv1d_forward_narrow"),
])  # fmt: skip
def test_which_kernel_is_launched(fake_gpu, channels, multiplier, kernel, options, by):
    x, weight, bias, _ = make(2, 9, channels, channels * multiplier, kernel, np.float32, channels)
    leaves = [gp.tensor(double(a).astype(np.float32)) for a in (x, weight, bias)]
    fake_gpu.launches.clear()
    ops.conv1d(*leaves, groups=channels, **options)
    assert by in fake_gpu.launches


def test_same_bits_inside_a_captured_step(any_gpu):
    check_captured(groups=8)


@pytest.mark.parametrize("multiplier", [1, 2])
def test_pytorch_computes_the_same(device, multiplier):
    torch = pytest.importorskip("torch")
    x, weight, bias, rng = make(2, 11, 8, 8 * multiplier, 4, np.float64, 8)
    y = ops.conv1d(x, weight, bias, padding=2, dilation=2, groups=8)
    dy = rng.standard_normal(y.shape)
    y.backward(gp.tensor(dy).data)
    turned = [torch.tensor(double(a).swapaxes(1, 2).copy(), requires_grad=True) for a in (x, weight)]
    peer_bias = torch.tensor(double(bias), requires_grad=True)
    peer = torch.nn.functional.conv1d(*turned, peer_bias, padding=2, dilation=2, groups=8)
    peer.backward(torch.tensor(dy.swapaxes(1, 2).copy()))
    wanted = [peer.detach(), turned[0].grad, turned[1].grad]
    for name, got, want in zip(NAMES, (y, x.grad, weight.grad), wanted, strict=False):
        np.testing.assert_allclose(double(got).swapaxes(1, 2), want.numpy(), atol=1e-12, err_msg=name)
    np.testing.assert_allclose(double(bias.grad), peer_bias.grad.numpy(), atol=1e-12)
