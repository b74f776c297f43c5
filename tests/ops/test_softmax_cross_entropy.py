"""softmax_cross_entropy against its definition in float64 and finite differences, on every device."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gpuprop.backend.arrays import to_host
from gpuprop.errors import DataError, ShapeError
from gpuprop.ops.softmax_cross_entropy import softmax_cross_entropy
from gpuprop.tensors import Tensor, tensor
from gpuprop.testing import gradcheck

TOLERANCE = {"float64": 1e-13, "float32": 2e-6, "float16": 1e-3, "bfloat16": 8e-3}


def reference(z, targets, weight=None, ignore_index=-100, smoothing=0.0):
    """Losses of the rows, their gradient (N, C), and w[target] of each row, 0 where it is ignored.

    The definition is PyTorch's: the target has 1 - smoothing of the mass, every class smoothing / C more.
    """
    n, classes = z.shape
    weight = np.ones(classes) if weight is None else weight
    losses, gradient, counted = np.zeros(n), np.zeros(z.shape), np.zeros(n)
    for i, t in enumerate(targets):
        if t == ignore_index:
            continue
        top = z[i].max()
        log_p = z[i] - top - math.log(np.exp(z[i] - top).sum())
        wanted = (1 - smoothing) * weight[t] * np.eye(classes)[t] + smoothing / classes * weight
        losses[i] = -np.where(wanted == 0, 0, wanted * log_p).sum()
        gradient[i] = np.exp(log_p) * wanted.sum() - wanted
        counted[i] = weight[t]
    return losses, gradient, counted


def dtype_named(name):
    return np.dtype(pytest.importorskip("ml_dtypes").bfloat16 if name == "bfloat16" else name)


def make(rows, classes, dtype=np.float64, ignored=True, seed=0):
    rng = np.random.default_rng(seed)
    logits = (rng.standard_normal((rows, classes)) * 3).astype(dtype)
    targets = rng.integers(0, classes, rows)
    if ignored and rows > 2:
        targets[1] = -100
    weight = rng.uniform(0.2, 2, classes)
    return logits, targets, weight, rng


def double(a):
    return to_host(a.data if isinstance(a, Tensor) else a).astype(np.float64)


@pytest.mark.parametrize("label", ["int64", "int32"])
@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize(("rows", "classes"), [(1, 1), (7, 2), (33, 5), (9, 65), (5, 1025), (3, 2)])
@pytest.mark.parametrize(("weighted", "smoothing"), [(False, 0.0), (True, 0.1)])
def test_equals_the_definition(device, dtype, label, rows, classes, weighted, smoothing):
    logits, targets, weight, rng = make(rows, classes, dtype_named(dtype))
    weight = weight if weighted else None
    z = tensor(logits, requires_grad=True)
    if weighted:
        weight = weight.astype(np.float32).astype(np.float64)
    losses, gradient, counted = reference(double(logits), targets, weight, smoothing=smoothing)
    for reduction, want, upstream in (
        ("none", losses, rng.standard_normal(rows)),
        ("sum", losses.sum(), np.float64(0.7)),
        ("mean", losses.sum() / counted.sum(), np.float64(1.0)),
    ):
        z.grad = None
        loss = softmax_cross_entropy(
            z, targets.astype(label), weight=weight, label_smoothing=smoothing, reduction=reduction
        )
        assert loss.dtype == (np.float64 if dtype == "float64" else np.float32)
        np.testing.assert_allclose(double(loss), want, rtol=1e-12 if dtype == "float64" else 2e-6, atol=1e-6)
        upstream = np.asarray(upstream).astype(loss.dtype)
        loss.backward(tensor(upstream).data)
        each = double(upstream) / (counted.sum() if reduction == "mean" else 1)
        expected = gradient * np.broadcast_to(each, rows)[:, None]
        assert z.grad.dtype == z.dtype
        assert np.abs(double(z.grad) - expected).max() <= TOLERANCE[dtype] * max(0.01, np.abs(expected).max())


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.integers(1, 5),
    st.integers(1, 6),
    st.booleans(),
    st.sampled_from([0.0, 0.1, 1.0]),
    st.sampled_from(["mean", "sum", "none"]),
    st.integers(0, 2**16),
)
def test_gradcheck(device, rows, classes, weighted, smoothing, reduction, seed):
    logits, targets, weight, _ = make(rows, classes, seed=seed)

    def loss(z):
        return softmax_cross_entropy(
            z, targets, weight=weight if weighted else None, label_smoothing=smoothing, reduction=reduction
        )

    assert gradcheck(loss, [logits]) <= 1e-6


def test_any_number_of_axes(device):
    logits, targets, *_ = make(12, 5)
    flat = softmax_cross_entropy(tensor(logits), targets, reduction="none")
    folded = softmax_cross_entropy(tensor(logits.reshape(3, 4, 5)), targets.reshape(3, 4), reduction="none")
    np.testing.assert_array_equal(double(folded), double(flat).reshape(3, 4))
    single = softmax_cross_entropy(tensor(logits[0]), targets[0])
    np.testing.assert_allclose(single.item(), double(flat)[0], rtol=1e-12)


@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
def test_all_ignored_gives_zero(device, reduction):
    z = tensor(np.ones((3, 4), np.float32), requires_grad=True)
    loss = softmax_cross_entropy(z, np.full(3, -100), reduction=reduction, label_smoothing=0.1)
    assert not double(loss).any()
    loss.backward(tensor(np.ones(loss.shape, np.float32)).data)
    assert not double(z.grad).any()


def test_no_rows_at_all(device):
    z = tensor(np.ones((0, 4), np.float32), requires_grad=True)
    loss = softmax_cross_entropy(z, np.zeros(0, np.int64))
    assert loss.item() == 0.0
    loss.backward()
    assert z.grad.shape == (0, 4)


def test_large_and_impossible_logits(device):
    """No exponential overflows, a common offset cancels, and a class with logit -inf gets no gradient."""
    logits = np.array([[1e4, 1e4 - 2, -np.inf], [-1e4, -1e4 + 1, -1e4 + 2]])
    z = tensor(logits, requires_grad=True)
    loss = softmax_cross_entropy(z, np.array([0, 2]), reduction="sum")
    want = math.log(1 + math.exp(-2)) + math.log(1 + math.exp(-1) + math.exp(-2))
    assert loss.item() == pytest.approx(want, rel=1e-10)
    loss.backward()
    assert double(z.grad)[0, 2] == 0.0
    assert np.isfinite(double(z.grad)).all()


def test_ignore_index_may_be_a_class(device):
    logits, targets, *_ = make(6, 3, ignored=False)
    targets[:] = [0, 1, 2, 0, 1, 2]
    losses, _, counted = reference(logits, targets, ignore_index=1)
    loss = softmax_cross_entropy(tensor(logits), targets, ignore_index=1)
    assert loss.item() == pytest.approx(losses.sum() / counted.sum(), rel=1e-12)


@pytest.mark.parametrize("bad", [5, -1, 2**40])
def test_a_target_out_of_range_raises_with_value_and_row(device, bad):
    """At once on the CPU; elsewhere when the loss is read."""
    logits, targets, *_ = make(40, 5)
    targets[[7, 30]] = bad
    with pytest.raises(
        DataError, match=rf"target {bad} at row 7 is outside 0\.\.4 and is not ignore_index=-100"
    ):
        softmax_cross_entropy(tensor(logits), targets).item()


def test_a_bad_target_leaves_the_other_rows_alone(device):
    if device == "cpu":
        pytest.skip("the CPU raises before there is a loss")
    logits, targets, *_ = make(6, 5, ignored=False)
    z = tensor(logits, requires_grad=True)
    targets[4] = 9
    loss = softmax_cross_entropy(z, targets, reduction="none")
    loss.backward(tensor(np.ones(6)).data)
    kept = np.arange(6) != 4
    losses, gradient, _ = reference(logits[kept], targets[kept])
    np.testing.assert_allclose(double(z.grad)[kept], gradient, rtol=1e-10, atol=1e-12)
    np.testing.assert_allclose(double(loss.data)[kept], losses, rtol=1e-12)
    assert np.isnan(double(loss.data)[4])
    assert not double(z.grad)[4].any()


def test_many_rows_of_many_classes_are_worked_on_in_blocks(device):
    logits, targets, _, _ = make(50, 3000)
    z = tensor(logits, requires_grad=True)
    loss = softmax_cross_entropy(z, targets)
    losses, gradient, counted = reference(logits, targets)
    assert loss.item() == pytest.approx(losses.sum() / counted.sum(), rel=1e-12)
    loss.backward()
    np.testing.assert_allclose(double(z.grad), gradient / counted.sum(), rtol=1e-9, atol=1e-15)


def test_same_bits_twice(device):
    bits = []
    for _ in range(2):
        logits, targets, weight, _ = make(700, 11, np.float32)
        z = tensor(logits, requires_grad=True)
        loss = softmax_cross_entropy(z, targets, weight=weight)
        loss.backward()
        bits.append((to_host(loss.data).tobytes(), to_host(z.grad).tobytes()))
    assert bits[0] == bits[1]


@pytest.mark.parametrize(
    ("shape", "targets", "options", "error", "words"),
    [
        ((4, 3), np.zeros(5, int), {}, ShapeError, r"targets \(4,\) for logits \(4, 3\) but got \(5,\)"),
        ((4, 3, 7), np.zeros((4, 7), int), {}, ShapeError, "the class axis is the last"),
        ((4, 3), np.zeros(4), {}, DataError, "integer targets, not float64"),
        ((4, 3), np.zeros(4, int), {"weight": np.ones(4)}, ShapeError, r"weight \(3,\) but got \(4,\)"),
        ((4, 3), np.zeros(4, int), {"reduction": "avg"}, DataError, "not 'avg'"),
        ((4, 3), np.zeros(4, int), {"label_smoothing": 1.5}, DataError, "between 0 and 1, not 1.5"),
    ],
)
def test_errors_name_what_was_expected(shape, targets, options, error, words):
    with pytest.raises(error, match=words):
        softmax_cross_entropy(np.zeros(shape, np.float32), targets, **options)
