"""Convolution by our kernel on tensor cores: in the emulator's checker and on the fake GPU against float64,
what is left to other ways, and the sum of dweight with dilation."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from convolutions import NAMES, TOLERANCE, check_captured, dtype_named, make, reference, sides

import gpuprop as gp
from gpuprop import ops
from gpuprop.backend import kernels, tensor_cores
from gpuprop.backend.arrays import to_device, to_host
from gpuprop.backend.device import use_device
from gpuprop.ops import conv1d_products, conv1d_tensor_cores, conv1d_ways
from gpuprop.testing import unavailable

REASON = unavailable("emulated")
emulated = pytest.mark.skipif(REASON is not None, reason=f"emulated: {REASON}")
TYPES = ("float16", "bfloat16", "float32")
TF32 = 1e-3  # relative to the largest value: 11 bits of each factor
SHAPES = [  # batch, length, channels, out, kernel, options
    pytest.param(3, 50, 40, 136, 3, {"padding": "same"}, id="several-tiles-and-steps"),
    pytest.param(2, 9, 5, 3, 4, {}, id="no-whole-pack"),
    pytest.param(2, 40, 8, 16, 3, {"padding": "causal", "dilation": 16}, id="the-longest-reach"),
    pytest.param(3, 7, 16, 8, 2, {"padding": (5, 4), "dilation": 3}, id="more-padding-than-reach"),
    pytest.param(5, 30, 24, 8, 1, {}, id="one-tap"),
    pytest.param(130, 1, 8, 8, 3, {"padding": 1}, id="one-position"),
]  # fmt: skip


@pytest.fixture
def high():
    gp.set_matmul_precision("high")
    yield
    gp.set_matmul_precision("highest")


def run(x, weight, bias, rng, options):
    with conv1d_ways.using("tensor_cores"):
        y = ops.conv1d(x, weight, bias, **options)
    dy = rng.standard_normal(y.shape).astype(x.dtype)
    y.backward(to_device(dy))
    return dy, [to_host(a) for a in (y.data, x.grad, weight.grad, bias.grad)]


def check(found, x, weight, bias, dy, dtype, options):
    arrays = [to_host(a.data).astype(np.float64) for a in (x, weight, bias)]
    padding = sides(weight.shape[1], options)
    wanted = reference(*arrays, dy.astype(np.float64), padding=padding, dilation=options.get("dilation", 1))
    for name, got, want in zip(NAMES, found, wanted, strict=True):
        assert (got.shape, got.dtype) == (want.shape, dy.dtype), name
        bound = TF32 if dtype == "float32" and name != "dbias" else TOLERANCE[dtype]
        assert np.abs(got.astype(np.float64) - want).max() <= bound * max(1, np.abs(want).max()), name


CASES = [  # the largest takes seconds
    pytest.param(
        t, *shape.values, id=f"{shape.id}-{t}", marks=pytest.mark.full if (i, t) == (0, "bfloat16") else ()
    )
    for i, shape in enumerate(SHAPES)
    for t in TYPES
]


@emulated
@pytest.mark.parametrize(("dtype", "batch", "length", "channels", "out", "kernel", "options"), CASES)
def test_the_checker_finds_nothing_and_float64_says_the_same(
    high, dtype, batch, length, channels, out, kernel, options
):
    order = ("forward", "reverse", "random")[channels % 3]
    with use_device("emulated"), kernels.check(order=order):
        x, weight, bias, rng = make(batch, length, channels, out, kernel, dtype_named(dtype))
        dy, found = run(x, weight, bias, rng, options)
    check(found, x, weight, bias, dy, dtype, options)


@emulated
def test_any_grid_gives_the_same_bits():
    rng = np.random.default_rng(0)
    x, weight = (rng.standard_normal(s).astype(np.float16) for s in ((2, 100, 8), (3, 8, 136)))
    sizes = (2, 100, 8, 98, 136, 3, 0, 1, 100)
    kernel = kernels.project("conv1d_tensor_cores", "conv1d_tensor_cores<__half, true>")
    found = []
    for grid in (1, 3, 9):
        y = np.full((2, 98, 136), np.nan, np.float16)
        with use_device("emulated"):
            kernel(grid, conv1d_tensor_cores.THREADS, (x, weight, None, y, *sizes))
        found.append(y)
    assert np.isfinite(found[0]).all()
    for y in found[1:]:
        np.testing.assert_array_equal(y, found[0])


@pytest.mark.parametrize("dtype", TYPES)
def test_a_gpu_with_views_that_begin_anywhere(any_gpu, high, dtype):
    options = {"padding": 2, "dilation": 2}
    memory = to_device(np.random.default_rng(1).standard_normal(2 * 20 * 16 + 1).astype(dtype_named(dtype)))
    _, weight, bias, rng = make(2, 20, 16, 24, 3, dtype_named(dtype))
    x = gp.Tensor(memory[1:].reshape(2, 20, 16))
    x.requires_grad = True
    dy, found = run(x, weight, bias, rng, options)
    check(found, x, weight, bias, dy, dtype, options)


@pytest.fixture
def small(monkeypatch):
    """This way for the smallest arrays, too, and sums of dweight in several runs."""
    monkeypatch.setattr(conv1d_products, "LEAST", 0)
    monkeypatch.setattr(conv1d_products, "NARROW", 0)
    monkeypatch.setattr(conv1d_tensor_cores, "NARROW", 0)
    monkeypatch.setattr(conv1d_tensor_cores, "LEAST_RUN", 7)


OURS, SIMPLE, CUBLAS = "conv1d_tensor_cores", "conv1d_forward", "gemm_epilogue"


def ones(*shapes, dtype="float16"):
    return [gp.tensor(np.ones(shape, dtype)) for shape in shapes]


WAYS = [  # type, taps, options, what is launched
    ("float16", 3, {"dilation": 2}, OURS),
    ("float16", 3, {"dilation": 16}, OURS),
    ("float16", 3, {}, CUBLAS),
    ("float16", 1, {"dilation": 2}, CUBLAS),
    ("float16", 3, {"dilation": 17}, SIMPLE),  # beyond the reach
    ("float16", 3, {"dilation": 2, "stride": 2}, SIMPLE),
    ("float16", 3, {"dilation": 2, "groups": 2}, "conv1d_forward_narrow"),
    ("float32", 3, {"dilation": 2}, SIMPLE),  # in float32 as it is
    ("float64", 3, {"dilation": 2}, SIMPLE),
]


@pytest.mark.parametrize(("dtype", "taps", "options", "by"), WAYS)
def test_which_way_is_taken(fake_gpu, small, dtype, taps, options, by):
    arrays = ones((2, 40, 8), (8, taps, 8 // options.get("groups", 1)), 8, dtype=dtype)
    fake_gpu.launches.clear()
    ops.conv1d(*arrays, **options)
    others = {OURS, SIMPLE, CUBLAS} - {by}
    assert by in fake_gpu.launches
    assert not others & set(fake_gpu.launches)


def test_small_ones_and_those_in_tf32(fake_gpu, monkeypatch, high):
    def launched(batch):
        fake_gpu.launches.clear()
        ops.conv1d(*ones((batch, 36, 16), (16, 3, 16), dtype="float32"), dilation=2)
        return fake_gpu.launches

    monkeypatch.setattr(conv1d_products, "LEAST", 2 * 32 * 3 * 16 * 16)
    assert OURS in launched(2)
    assert OURS not in launched(1)


def test_a_gpu_without_tensor_cores_takes_another_way(fake_gpu, small, monkeypatch):
    monkeypatch.setattr(tensor_cores, "_capability", lambda gpu: 7)
    fake_gpu.launches.clear()
    with conv1d_ways.using("tensor_cores"):
        ops.conv1d(*ones((2, 40, 8), (8, 3, 8)), dilation=2)
    assert fake_gpu.launches[-1] == SIMPLE


def test_a_way_that_is_asked_for(fake_gpu):
    x, weight = ones((2, 20, 8), (8, 3, 8))
    x.requires_grad = True
    launched = {}
    for name in conv1d_ways.WAYS:
        fake_gpu.launches.clear()
        with conv1d_ways.using(name):
            y = ops.conv1d(x, weight)
        y.sum().backward()
        launched[name] = [n for n in fake_gpu.launches if n.startswith(("conv1d", "gemm"))]
    assert launched["tensor_cores"] == [OURS, OURS]
    assert launched["kernels"] == [SIMPLE, "conv1d_backward_input"] == launched["depthwise"]
    assert launched["products"][0] == "gemm_batched"
    why = "products, tensor_cores, depthwise, kernels, not 'cudnn'"
    with pytest.raises(ValueError, match=why), conv1d_ways.using("cudnn"):
        pass


@pytest.mark.parametrize("dtype", ["float16", "float32"])
def test_gradients_in_several_runs_where_the_optimizer_keeps_them(fake_gpu, high, small, dtype):
    rng = np.random.default_rng(0)
    layer = gp.nn.Conv1d(8, 8, 3, dilation=2, padding=1)
    layer.to("cuda")
    for p in layer.parameters():
        p.data = p.data.astype(dtype)
    x = gp.tensor(rng.standard_normal((3, 19, 8)).astype(dtype), requires_grad=True)
    y = layer(x)
    dy = rng.standard_normal(y.shape).astype(dtype)
    fake_gpu.launches.clear()
    y.backward(to_device(dy))
    assert fake_gpu.launches.count("gemm_batched") == 3
    found = [to_host(a) for a in (y.data, x.grad, layer.weight.grad, layer.bias.grad)]
    check(found, x, layer.weight, layer.bias, dy, dtype, {"padding": 1, "dilation": 2})


def test_inside_a_captured_step(any_gpu, high, small):
    check_captured(dilation=2)


def test_rows_of_texts_show_each_tap_what_it_sees():
    """The kernel's map in NumPy: row b·each + t, and each row that its taps read, with all paddings, also
    those of which a gradient leaves positions out."""
    for length, taps, dilation, left, right in itertools.product(
        (1, 2, 6), (1, 3, 4), (1, 2), (0, 1, 5), (0, 2, 7)
    ):
        reach, batch = (taps - 1) * dilation, 3
        out_length = length + left + right - reach
        if out_length < 1:
            continue
        ways = [(length, out_length, (left, right)), (out_length, length, (reach - left, reach - right))]
        for positions, results, around in ways:
            each = conv1d_tensor_cores.rows_of(positions, results, around, reach)
            b, t, k = np.ogrid[:batch, :results, :taps]
            v = b * each + t + k * dilation
            text, at = v // each, v % each - around[0]
            seen = np.where((text < batch) & (at >= 0) & (at < positions), text * positions + at, -1)
            at = t - around[0] + k * dilation
            assert each >= results
            np.testing.assert_array_equal(
                seen, np.where((at >= 0) & (at < positions), b * positions + at, -1)
            )
