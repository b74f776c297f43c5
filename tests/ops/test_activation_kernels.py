"""Bias, ReLU and GELU in kernels: the formulas' values, and sums over rows."""

import numpy as np
import pytest

import gpuprop as gp
from gpuprop.backend.arrays import to_device, to_host
from gpuprop.ops import activation_kernels
from gpuprop.testing import gradcheck

SHAPES = [(1, 1), (37, 5), (70, 64), (33, 132), (260, 3)]
FORMULAS = {
    "identity": lambda x: x,
    "relu": lambda x: np.maximum(x, 0),
    "gelu_tanh": lambda x: x / 2 * (1 + np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x**3))),
    "gelu": lambda x: gp.ops.gelu(gp.tensor(x), "none").numpy(),
}
TOLERANCE = {"float64": 1e-8, "float32": 5e-6, "float16": 2e-3}  # of float64: differences of the formula


@pytest.fixture
def kernel_device(device):
    if device == "cpu":
        pytest.skip("no kernels")
    return device


def formula(name, x):
    with gp.use_device("cpu"):
        return FORMULAS[name](x), (FORMULAS[name](x + 1e-6) - FORMULAS[name](x - 1e-6)) / 2e-6


@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("shape", SHAPES)
def test_every_function_with_and_without_bias(kernel_device, shape, dtype):
    rng = np.random.default_rng(0)
    draw = [rng.standard_normal(s).astype(dtype) for s in (shape, shape[1], shape)]
    x, bias, dy = (to_device(a) for a in draw)
    for name in FORMULAS:
        for b in (None, bias):
            inner = draw[0].astype(np.float64) + (0 if b is None else draw[1].astype(np.float64))
            y, slope = formula(name, inner)
            dz = draw[2].astype(np.float64) * slope
            sums = to_device(np.full(shape[1], np.nan, dtype))
            got = (
                activation_kernels.forward(name, x, b),
                activation_kernels.backward(name, dy, x, b, sums=sums),
                sums,
                activation_kernels.backward(name, dy, x, b),
            )
            for a, want in zip(got, (y, dz, dz.sum(0), dz), strict=True):
                scale = max(1.0, float(np.abs(want).max()))
                assert np.abs(to_host(a).astype(np.float64) - want).max() <= TOLERANCE[dtype] * scale, name


def test_in_place_and_sums_alone(kernel_device):
    rng = np.random.default_rng(1)
    draw = [rng.standard_normal(s) for s in ((40, 6), 6)]
    x, bias = (to_device(a.copy()) for a in draw)
    assert activation_kernels.forward("relu", x, bias, out=x) is x
    np.testing.assert_allclose(to_host(x), np.maximum(draw[0] + draw[1], 0))
    column = to_device(np.zeros(6, np.float32))
    assert activation_kernels.column_sums(x, column) is column
    np.testing.assert_allclose(to_host(column), to_host(x).sum(0), rtol=1e-6)


def test_not_a_number_stays_one(device):
    """What is multiplied with a NaN is one; of others, minus zero is not told from zero."""
    x = gp.tensor(np.array([[np.nan, -1.0], [3.0, -0.0]], np.float32))
    weight, bias = gp.tensor(np.eye(2, dtype=np.float32)), gp.tensor(np.zeros(2, np.float32))
    with np.errstate(invalid="ignore"):
        y = gp.ops.linear(x, weight, bias, activation="relu").numpy()
        assert np.isnan(y[0]).all()
        assert y[1].tolist() == [3, 0]
        assert np.isnan(gp.ops.gelu(x).numpy()).tolist() == [[True, False], [False, False]]


@pytest.mark.parametrize("approximate", ["tanh", "none"])
def test_gelu_of_any_shape(device, approximate):
    for shape in ((), (5,), (2, 3, 8)):
        x = np.asarray(np.random.default_rng(2).standard_normal(shape))
        gradcheck(lambda t: gp.ops.gelu(t, approximate), [x])
