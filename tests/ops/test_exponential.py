"""Exponentials and logistic functions by powers of two against float64, where NumPy has both forms."""

import numpy as np
import pytest

from gpuprop.ops import exponential as module
from gpuprop.ops.exponential import exponential, logistic

EXTREMES = [np.inf, -np.inf, -0.0, 0.0, 1e-40, 200.0, -200.0, -3.4e38, 88.0, -88.0]


@pytest.fixture(params=[True, False], ids=["powers of two", "exp"])
def form(request, monkeypatch):
    monkeypatch.setattr(module, "_is_exp2_vectorized", lambda: request.param)
    return request.param


def numbers(largest, count=20_000):
    return np.random.default_rng(0).uniform(-largest, largest, count).astype(np.float32)


@pytest.mark.parametrize("largest", [1, 10, 80])
@pytest.mark.parametrize("factor", [1.0, -1.0, -0.5])
def test_exponentials_are_those_of_numbers_a_rounding_away(form, largest, factor):
    x = numbers(largest)
    out = np.empty_like(x)
    assert exponential(x, out, factor) is out
    right = np.exp(factor * x.astype(np.float64))
    bound = (3e-7 + 1.2e-7 * np.abs(factor * x)) * right  # the exponent is rounded, and so is log₂ e
    assert (np.abs(out - right) <= bound).all()
    exponential(x, x, factor)
    np.testing.assert_array_equal(x, out)


def test_extremes_give_what_they_should_without_a_warning(form):
    x = np.resize(np.array(EXTREMES, np.float32), 20_000)
    with np.errstate(over="ignore"):
        y = exponential(x, np.empty_like(x), 0.5)
        right = np.exp(0.5 * x.astype(np.float64)).astype(np.float32)
        np.testing.assert_allclose(y, right, rtol=2e-5, atol=1e-44)
        right = 1 / (1 + np.exp(-x.astype(np.float64)))
    np.testing.assert_allclose(logistic(x), right, rtol=1e-5, atol=1e-7)
    assert np.isnan(logistic(np.full(20_000, np.nan, np.float32))).all()


@pytest.mark.parametrize("largest", [1, 10, 80])
def test_logistic_functions_in_a_new_array_and_in_place(form, largest):
    x = numbers(largest)
    y = logistic(x)
    np.testing.assert_allclose(y, 1 / (1 + np.exp(-x.astype(np.float64))), rtol=2e-7, atol=1e-7)
    assert logistic(x, x) is x
    np.testing.assert_array_equal(x, y)


def test_other_types_and_few_numbers_are_left_to_exp(monkeypatch):
    monkeypatch.setattr(module, "_is_exp2_vectorized", lambda: True)
    for x in (np.linspace(-3, 3, 20_000), numbers(3, 100)):
        np.testing.assert_array_equal(exponential(x, np.empty_like(x), 0.5), np.exp(0.5 * x))
    wide = numbers(3).astype(np.float64)
    np.testing.assert_allclose(logistic(wide), 1 / (1 + np.exp(-wide)), rtol=1e-14)
