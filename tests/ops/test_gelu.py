"""GELU: both forms against the error function of the C library, their gradients, and what they refuse."""

import math

import numpy as np
import pytest

import gpuprop as gp
from gpuprop import nn, ops
from gpuprop.backend.arrays import to_host
from gpuprop.testing import gradcheck

CDF = np.vectorize(lambda x: 0.5 * math.erfc(-x / math.sqrt(2)))
FORMS = ["tanh", "none"]


def exact(x):
    x = x.astype(np.float64)
    return x * CDF(x), CDF(x) + x * np.exp(-x * x / 2) / math.sqrt(2 * math.pi)


def value_and_slope(x, approximate):
    x = gp.tensor(x, requires_grad=True)
    y = x.gelu(approximate)
    y.sum().backward()
    return y.numpy(), to_host(x.grad)


@pytest.mark.parametrize(("dtype", "error"), [(np.float32, 3e-7), (np.float64, 2e-15)])
def test_the_exact_form_is_exact(device, dtype, error):
    x = np.linspace(-12, 12, 2001).astype(dtype)
    for ours, expected in zip(value_and_slope(x, "none"), exact(x), strict=True):
        assert ours.dtype == dtype
        assert (np.abs(ours - expected) / np.maximum(1, np.abs(expected))).max() <= error


def test_the_tanh_form_is_its_formula(device):
    x = np.linspace(-8, 8, 501)
    formula = 0.5 * x * (1 + np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x**3)))
    np.testing.assert_allclose(gp.tensor(x).gelu().numpy(), formula, rtol=1e-12, atol=1e-15)
    assert 4e-4 < np.abs(formula - exact(x)[0]).max() < 5e-4  # what the guide says


@pytest.mark.parametrize("approximate", FORMS)
def test_gradients(device, approximate):
    x = np.random.default_rng(0).uniform(-4, 4, (3, 5))
    gradcheck(lambda t: ops.gelu(t, approximate), [x])


@pytest.mark.parametrize("approximate", FORMS)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_huge_infinite_and_missing_values(device, approximate, dtype):
    x = np.array([1e30, -1e30, np.inf, np.nan], dtype)
    with np.errstate(over="ignore", invalid="ignore"):  # of x³, in the tanh form
        y = gp.tensor(x).gelu(approximate).numpy()
    np.testing.assert_array_equal(y, [x[0], 0, np.inf, np.nan])


@pytest.mark.parametrize("approximate", FORMS)
def test_large_arrays_in_any_order_are_what_small_ones_are(approximate):
    x = np.random.default_rng(1).standard_normal((3, 1 << 16)).astype(np.float32)
    whole, turned = value_and_slope(x, approximate), value_and_slope(x.T, approximate)
    small = zip(*(value_and_slope(row, approximate) for row in x), strict=True)
    for a, b, c in zip(whole, turned, small, strict=True):
        np.testing.assert_array_equal(a, np.stack(c))
        np.testing.assert_array_equal(b.T, a)


def test_pytorch_agrees():
    torch = pytest.importorskip("torch")
    x = np.linspace(-6, 6, 501)
    for approximate in FORMS:
        t = torch.tensor(x, requires_grad=True)
        y = torch.nn.functional.gelu(t, approximate=approximate)
        y.sum().backward()
        for ours, theirs in zip(value_and_slope(x, approximate), (y.detach(), t.grad), strict=True):
            np.testing.assert_allclose(ours, theirs.numpy(), rtol=0, atol=1e-14)


def test_the_layer_says_its_form_and_refuses_others():
    assert repr(nn.GELU("none")) == "GELU(approximate='none')"
    with pytest.raises(ValueError, match="approximate is one of tanh, none, not 'erf'"):
        nn.GELU("erf")
    with pytest.raises(ValueError, match="approximate is one of tanh, none, not 'erf'"):
        ops.gelu(gp.tensor([1.0]), "erf")
