"""conv1d against a convolution written as loops, and against finite differences, on every device."""

from __future__ import annotations

import numpy as np
import pytest
from convolutions import NAMES, TOLERANCE, double, dtype_named, make, reference, sides
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gpuprop.backend.arrays import to_host
from gpuprop.backend.device import use_device
from gpuprop.backprop import no_grad
from gpuprop.errors import DataError, ShapeError
from gpuprop.ops import conv1d_rows
from gpuprop.ops.conv1d import conv1d
from gpuprop.tensors import tensor
from gpuprop.testing import gradcheck

SHAPES = [  # batch, length, channels, out, kernel, options
    pytest.param(2, 7, 3, 5, 3, {"padding": "same"}, id="same"),
    pytest.param(3, 70, 20, 70, 5, {"padding": "causal", "dilation": 2}, id="several-tiles"),
    pytest.param(1, 9, 1, 1, 2, {}, id="one-channel-one-output"),
    pytest.param(1, 3, 4, 2, 3, {}, id="window-as-long-as-the-text"),
    pytest.param(
        2, 11, 64, 32, 3, {"stride": 3, "padding": (2, 0), "dilation": 2, "groups": 2}, id="wide-groups"
    ),
    pytest.param(2, 11, 6, 9, 4, {"padding": 1, "groups": 3}, id="narrow-groups"),
    pytest.param(2, 30, 8, 8, 3, {"stride": 2, "padding": (0, 3), "groups": 8}, id="depthwise"),
    pytest.param(2, 10, 4, 12, 3, {"dilation": 3, "groups": 4}, id="depthwise-multiplier"),
    pytest.param(2, 13, 5, 4, 1, {"stride": 4}, id="gaps-between-windows"),
    pytest.param(5, 4, 3, 2, 4, {"padding": (5, 6), "stride": 2}, id="windows-in-the-padding"),
]


@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize(("batch", "length", "channels", "out", "kernel_size", "options"), SHAPES)
def test_equals_loops(device, dtype, batch, length, channels, out, kernel_size, options):
    x, weight, bias, rng = make(batch, length, channels, out, kernel_size, dtype_named(dtype), **options)
    y = conv1d(x, weight, bias, **options)
    dy = rng.standard_normal(y.shape).astype(y.dtype)
    y.backward(tensor(dy).data)
    expected = reference(
        double(x),
        double(weight),
        double(bias),
        double(dy),
        **{**options, "padding": sides(kernel_size, options)},
    )
    for name, got, want in zip(NAMES, (y, x.grad, weight.grad, bias.grad), expected, strict=True):
        assert got.dtype == y.dtype == dtype_named(dtype), name
        assert tuple(got.shape) == want.shape, name
        assert np.abs(double(got) - want).max() <= TOLERANCE[dtype] * max(1, np.abs(want).max()), name


@st.composite
def problems(draw):
    groups = draw(st.integers(1, 3))
    kernel_size, dilation = draw(st.integers(1, 4)), draw(st.integers(1, 3))
    padding = draw(
        st.one_of(st.tuples(st.integers(0, 4), st.integers(0, 4)), st.just("causal"), st.just("same"))
    )
    stride = 1 if padding == "same" else draw(st.integers(1, 3))
    shortest = max(1, (kernel_size - 1) * dilation + 1 - sum(sides(kernel_size, locals())))
    length = draw(st.integers(shortest, shortest + 5))
    options = {"stride": stride, "padding": padding, "dilation": dilation, "groups": groups}
    channels, out = groups * draw(st.integers(1, 3)), groups * draw(st.integers(1, 3))
    return (draw(st.integers(1, 2)), length, channels, out, kernel_size), options


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(problems(), st.booleans())
def test_gradcheck(device, problem, with_bias):
    sizes, options = problem
    x, weight, bias, _ = make(*sizes, np.float64, **options)
    inputs = (x, weight, bias) if with_bias else (x, weight)
    assert gradcheck(lambda *arrays: conv1d(*arrays, **options), inputs) <= 1e-6


@pytest.mark.parametrize("groups", [1, 2, 6])
@pytest.mark.parametrize("few", [False, True])
def test_products_of_rows_in_blocks(monkeypatch, few, groups):
    """Taps as products of shifted rows, cut into blocks that end inside texts, are the loops' convolution."""
    for name, value in {"BLOCK": 1, "LEAST_ROWS": 5, "SMALL": 400 if few else 1, "COPY_PAYS": 1}.items():
        monkeypatch.setattr(conv1d_rows, name, value)
    monkeypatch.setattr(conv1d_rows, "suits", lambda *_: True)
    options = {"padding": (1, 2), "dilation": 2, "groups": groups}
    with use_device("cpu"):
        x, weight, bias, rng = make(3, 11, 6, 6, 3, np.float64, groups)
        y = conv1d(x, weight, bias, **options)
        dy = rng.standard_normal(y.shape)
        y.backward(dy)
    expected = reference(double(x), double(weight), double(bias), dy, **options)
    for name, got, want in zip(NAMES, (y, x.grad, weight.grad, bias.grad), expected, strict=True):
        np.testing.assert_allclose(double(got), want, rtol=1e-12, atol=1e-12, err_msg=name)


def test_windows_and_rows_agree(monkeypatch):
    """Both ways to the same result, whichever the shape calls for."""
    results = []
    for rows in (False, True):
        monkeypatch.setattr(conv1d_rows, "suits", lambda *_, rows=rows: rows)
        with use_device("cpu"):
            x, weight, bias, rng = make(4, 9, 5, 7, 3, np.float64)
            y = conv1d(x, weight, bias, padding="same")
            y.backward(rng.standard_normal(y.shape))
        results.append([double(a) for a in (y, x.grad, weight.grad, bias.grad)])
    for a, b in zip(*results, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-12, atol=1e-12)


def test_same_bits_twice(device):
    results = []
    for _ in range(2):
        x, weight, bias, rng = make(4, 50, 30, 20, 3, np.float32)
        y = conv1d(x, weight, bias, padding="same")
        y.backward(tensor(rng.standard_normal(y.shape).astype(np.float32)).data)
        results.append([to_host(a).tobytes() for a in (y.data, x.grad, weight.grad, bias.grad)])
    assert results[0] == results[1]


def test_a_batch_of_one_equals_the_row_of_a_batch(device):
    x, weight, bias, _ = make(5, 40, 6, 7, 3, np.float64)
    whole, alone = conv1d(x, weight, bias), conv1d(x.detach().data[2:3], weight, bias)
    np.testing.assert_allclose(double(whole)[2:3], double(alone), rtol=1e-10)


def test_text_longer_than_a_run_is_summed_whole(device):
    """The sums over the batch are cut into runs: 1,000 pairs make several, the last one ragged."""
    x, weight, bias, rng = make(10, 100, 2, 3, 3, np.float64)
    y = conv1d(x, weight, bias, padding="same")
    dy = rng.standard_normal(y.shape)
    y.backward(tensor(dy).data)
    *_, dweight, dbias = reference(double(x), double(weight), double(bias), dy, padding=(1, 1))
    np.testing.assert_allclose(double(weight.grad), dweight, rtol=1e-11, atol=1e-11)
    np.testing.assert_allclose(double(bias.grad), dbias, rtol=1e-11, atol=1e-11)


def test_only_the_wanted_gradients(device):
    x, weight, bias, _ = make(2, 6, 3, 4, 3, np.float32)
    y = conv1d(x.detach(), weight, bias)
    y.backward(tensor(np.ones(y.shape, np.float32)).data)
    assert x.grad is None
    assert weight.grad is not None
    assert bias.grad is not None
    with no_grad():
        assert not conv1d(x, weight, bias).requires_grad


def test_weight_in_any_memory_order_and_strided_input(device):
    x, weight, bias, _ = make(2, 8, 3, 4, 3, np.float32)
    straight = tensor(np.ascontiguousarray(to_host(weight.data)))
    sliced = tensor(np.repeat(to_host(x.data), 2, axis=1)).data[:, ::2]
    np.testing.assert_array_equal(double(conv1d(x, weight, bias)), double(conv1d(sliced, straight, bias)))


def test_no_texts_at_all(device):
    x, weight, bias, _ = make(0, 8, 3, 4, 3, np.float32)
    y = conv1d(x, weight, bias)
    y.backward(tensor(np.zeros((0, 6, 4), np.float32)).data)
    assert (y.shape, x.grad.shape) == ((0, 6, 4), (0, 8, 3))
    assert not any(double(parameter.grad).any() for parameter in (weight, bias))


def test_causal_output_does_not_see_what_follows(device):
    x, weight, bias, _ = make(1, 9, 3, 4, 3, np.float32)
    before = double(conv1d(x, weight, bias, padding="causal", dilation=2))
    changed = to_host(x.data).copy()
    changed[:, 5:] += 1
    after = double(conv1d(tensor(changed), weight, bias, padding="causal", dilation=2))
    np.testing.assert_array_equal(before[:, :5], after[:, :5])
    assert (before[:, 5:] != after[:, 5:]).any()


def zeros(*shape, dtype=np.float32):
    return np.zeros(shape, dtype)


@pytest.mark.parametrize(
    ("x", "weight", "bias", "options", "error", "words"),
    [
        ((50, 300, 56), (8, 3, 300), None, {}, ShapeError, r"\(batch, length, 300\).*use x.swapaxes\(1, 2\)"),
        (
            (50, 56, 20),
            (8, 3, 300),
            None,
            {},
            ShapeError,
            r"expects \(batch, length, 300\) but got \(50, 56, 20\)$",
        ),
        ((56, 300), (8, 3, 300), None, {}, ShapeError, r"got \(56, 300\)"),
        ((2, 9, 4), (8, 3, 4), (4,), {}, ShapeError, r"bias \(8,\) but got \(4,\)"),
        ((2, 9, 4), (8, 3, 2), None, {"groups": 3}, ShapeError, "multiple of groups=3"),
        ((2, 2, 4), (8, 3, 4), None, {"dilation": 2}, ShapeError, "window of 5 does not fit length 2"),
        ((2, 9, 4), (8, 3, 4), None, {"stride": 0}, DataError, "stride is at least 1, not 0"),
        ((2, 9, 4), (8, 3, 4), None, {"padding": "same", "stride": 2}, DataError, "stride=2"),
        ((2, 9, 4), (8, 3, 4), None, {"padding": "full"}, DataError, "not 'full'"),
        ((2, 9, 4), (8, 3, 4), None, {"padding": (1, -1)}, DataError, r"not \(1, -1\)"),
    ],
)
def test_errors_name_what_was_expected(x, weight, bias, options, error, words):
    with pytest.raises(error, match=words):
        conv1d(zeros(*x), zeros(*weight), None if bias is None else zeros(*bias), **options)


def test_types_must_be_one():
    with pytest.raises(DataError, match="float32, float64"):
        conv1d(zeros(2, 9, 4), zeros(8, 3, 4, dtype=np.float64))
