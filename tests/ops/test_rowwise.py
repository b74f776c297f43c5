"""Rows in NumPy's fastest forms against the plain formulas, for every width and for extreme numbers."""

import numpy as np
import pytest

import gpuprop as gp
from gpuprop import ops
from gpuprop.ops import rowwise
from gpuprop.ops.softmax import log_softmax_formula, softmax_formula

SHAPES = [(3, 4), (2000, 2), (1500, 5), (700, 40), (1, 9000), (130, 1000)]


def draw(rows, columns, dtype=np.float64, seed=0):
    return (3 * np.random.default_rng(seed).standard_normal((rows, columns))).astype(dtype)


@pytest.mark.parametrize("shape", SHAPES)
def test_sums_products_and_numbers_against_rows(shape):
    a, b = draw(*shape), draw(*shape, seed=1)
    np.testing.assert_allclose(rowwise.row_sums(a), a.sum(1, keepdims=True), rtol=1e-9, atol=1e-9)
    np.testing.assert_allclose(rowwise.row_dots(a, b), (a * b).sum(1, keepdims=True), rtol=1e-9, atol=1e-9)
    out = np.empty(shape)
    rowwise.against_rows(np.subtract, a, b[:, :1], out)
    np.testing.assert_array_equal(out, a - b[:, :1])


def test_numpy_broadcasts_as_before_after_long_rows():
    before, seen, x = np.getbufsize(), [], np.zeros((2, 2000))

    def fails(*_):
        seen.append(np.getbufsize())
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        rowwise.against_rows(fails, x, x[:, :1], x)
    assert seen[0] < before == np.getbufsize()


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize(
    ("fast", "formula"), [("softmax", softmax_formula), ("log_softmax", log_softmax_formula)]
)
def test_softmax_of_rows_is_the_formula(shape, fast, formula):
    x, dy = draw(*shape), draw(*shape, seed=1)
    leaf = gp.tensor(x, requires_grad=True)
    y = getattr(ops, fast)(leaf)
    np.testing.assert_allclose(y.numpy(), formula(x, -1), rtol=1e-11, atol=1e-11)
    y.backward(dy)
    turned = gp.tensor(x.T.copy(), requires_grad=True)
    getattr(ops, fast)(turned, axis=0).backward(dy.T.copy())  # another axis: the formula's gradient
    np.testing.assert_allclose(leaf.grad, turned.grad.T, rtol=1e-9, atol=1e-10)


EXTREMES = [1000.0, -1000.0, 100.0, -100.0, 60.0, -60.0, 0.0]


@pytest.mark.parametrize("columns", [3, 1000])
def test_exponentials_of_extreme_rows(columns):
    """Rows whose sums would overflow or vanish are shifted, each on its own; the others are not."""
    x = draw(200, columns, np.float32)
    x[: len(EXTREMES)] += np.array(EXTREMES, np.float32)[:, None]
    out = np.empty_like(x)
    sums, m = rowwise.exponentials(x, out)
    shifted = np.abs(np.array(EXTREMES)) > 40
    np.testing.assert_array_equal(m[: len(EXTREMES), 0] != 0, shifted)
    assert not m[len(EXTREMES) :].any()
    np.testing.assert_allclose(out / sums, softmax_formula(x.astype(np.float64), -1), rtol=1e-4, atol=1e-8)


@pytest.mark.parametrize("rows", [30, 3000])
def test_cross_entropy_of_sure_and_of_impossible_labels(rows):
    """Right to float32's precision, never below 0, and finite where the label's probability is no number."""
    z = np.zeros((rows, 4), np.float32)
    z[:, 1] = np.linspace(0, 300, rows)
    for label in (1, 2):
        t = np.full(rows, label)
        leaf = gp.tensor(z, requires_grad=True)
        loss = ops.softmax_cross_entropy(leaf, t, reduction="none")
        exact = -log_softmax_formula(z.astype(np.float64), -1)[:, label]
        np.testing.assert_allclose(loss.numpy(), exact, rtol=1e-6, atol=2e-7)
        assert loss.numpy().min() >= 0
        loss.sum().backward()
        expected = softmax_formula(z.astype(np.float64), -1) - np.eye(4)[label]
        np.testing.assert_allclose(leaf.grad, expected, rtol=0, atol=1e-6)
