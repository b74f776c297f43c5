"""Arithmetic, functions, reductions, shapes and products against NumPy and finite differences."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst

import gpuprop as gp
from gpuprop import ops
from gpuprop.backend import kernels
from gpuprop.testing import gradcheck

shapes = npst.array_shapes(min_dims=1, max_dims=3, max_side=4)
seeds = st.integers(0, 2**32 - 1)
quick = settings(max_examples=15, deadline=None, derandomize=True)

UNARY = {
    "exp": np.exp,
    "log": np.log,
    "sqrt": np.sqrt,
    "abs": np.abs,
    "tanh": np.tanh,
    "sigmoid": lambda x: 1 / (1 + np.exp(-x)),
    "relu": lambda x: np.maximum(x, 0),
    "gelu": lambda x: 0.5 * x * (1 + np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x**3))),
}


def draw(seed, *shape, away_from_zero=0.0, low=-2.0, high=2.0):
    """Uniform values; finite differences need a distance from a kink."""
    x = np.random.default_rng(seed).uniform(low, high, shape)
    return np.where(np.abs(x) < away_from_zero, away_from_zero, x)


@pytest.mark.parametrize("name", UNARY)
@quick
@given(shape=shapes, seed=seeds)
def test_functions_of_one_variable(name, shape, seed):
    low = 0.3 if name in ("log", "sqrt") else -2.0
    x = draw(seed, *shape, away_from_zero=0.01, low=low)
    np.testing.assert_allclose(getattr(gp.tensor(x), name)().numpy(), UNARY[name](x), rtol=1e-12)
    gradcheck(lambda t: getattr(t, name)(), [x])


@pytest.mark.parametrize("symbol", ["+", "-", "*", "/"])
@quick
@given(pair=npst.mutually_broadcastable_shapes(num_shapes=2, max_dims=3, max_side=4), seed=seeds)
def test_arithmetic_broadcasts(symbol, pair, seed):
    compute = {
        "+": lambda a, b: a + b,
        "-": lambda a, b: a - b,
        "*": lambda a, b: a * b,
        "/": lambda a, b: a / b,
    }[symbol]
    a = draw(seed, *pair.input_shapes[0])
    b = draw(seed + 1, *pair.input_shapes[1], low=0.5)
    np.testing.assert_allclose(compute(gp.tensor(a), gp.tensor(b)).numpy(), compute(a, b))
    gradcheck(compute, [a, b])


def test_numbers_on_either_side():
    x = draw(0, 3, low=0.5)
    for f in (
        lambda t: 2 - t,
        lambda t: t - 2,
        lambda t: 2 / t,
        lambda t: t / 2,
        lambda t: -t,
        lambda t: t**3,
        lambda t: t**-0.5,
    ):
        np.testing.assert_allclose(f(gp.tensor(x)).numpy(), f(x))
        gradcheck(f, [x])
    with pytest.raises(TypeError, match="exponent"):
        gp.tensor(x) ** gp.tensor(x)


@pytest.mark.parametrize("name", ["sum", "mean", "max"])
@quick
@given(shape=shapes, seed=seeds, data=st.data())
def test_reductions(name, shape, seed, data):
    axes = st.one_of(
        st.none(), st.integers(-len(shape), len(shape) - 1), st.just(tuple(range(len(shape))[-2:]))
    )
    axis, keep = data.draw(axes), data.draw(st.booleans())
    x = np.random.default_rng(seed).permutation(int(np.prod(shape))).reshape(shape) * 0.1  # no ties
    np.testing.assert_allclose(
        getattr(gp.tensor(x), name)(axis, keepdims=keep).numpy(), getattr(x, name)(axis=axis, keepdims=keep)
    )
    gradcheck(lambda t: getattr(t, name)(axis, keepdims=keep), [x])


def test_ties_of_max_share_the_gradient():
    x = gp.tensor(np.array([1.0, 3.0, 3.0]), requires_grad=True)
    x.max().backward()
    np.testing.assert_array_equal(x.grad, [0, 0.5, 0.5])


@quick
@given(shape=npst.array_shapes(min_dims=1, max_dims=3, max_side=5), seed=seeds, data=st.data())
def test_softmax_and_its_logarithm(shape, seed, data):
    axis = data.draw(st.integers(-len(shape), len(shape) - 1))
    x = draw(seed, *shape)
    expected = np.exp(x) / np.exp(x).sum(axis=axis, keepdims=True)
    np.testing.assert_allclose(gp.tensor(x).softmax(axis).numpy(), expected)
    np.testing.assert_allclose(gp.tensor(x).log_softmax(axis).numpy(), np.log(expected))
    gradcheck(lambda t: t.softmax(axis), [x])
    gradcheck(lambda t: t.log_softmax(axis), [x])


def test_softmax_of_large_numbers_does_not_overflow():
    x = gp.tensor(np.array([1000.0, 0.0, -1000.0], np.float32))
    np.testing.assert_array_equal(x.softmax().numpy(), [1, 0, 0])
    np.testing.assert_array_equal(x.log_softmax().numpy(), [0, -1000, -2000])


INDICES = [
    1,
    -1,
    slice(1, None),
    (slice(None), 0),
    (slice(None, None, 2), slice(None, None, -1)),
    None,
    (0, None, slice(None)),
    [2, 0, 2],
    (slice(None), [1, 1, 0]),
    ([0, 1, 0], [1, 1, 1]),
    np.array([[0, 2], [2, 2]]),
    ...,
]


@pytest.mark.parametrize("index", INDICES, ids=str)
def test_indexing_also_where_an_element_is_named_twice(index):
    x = draw(1, 3, 4)
    np.testing.assert_array_equal(gp.tensor(x)[index].numpy(), x[index])
    gradcheck(lambda t: t[index], [x])


def test_indexing_by_a_mask_and_by_a_tensor():
    x = draw(2, 3, 4)
    gradcheck(lambda t: t[x > 0], [x])
    np.testing.assert_array_equal(gp.tensor(x)[gp.tensor(np.array([1, 1]))].numpy(), x[[1, 1]])


def test_shapes_move_elements_and_gradients():
    x = draw(3, 2, 3, 4)
    for f in (
        lambda t: t.reshape(4, -1),
        lambda t: t.reshape((-1,)),
        lambda t: t.transpose(),
        lambda t: t.transpose(1, 2, 0),
        lambda t: t.transpose((0, -1, 1)),
        lambda t: t.swapaxes(0, -1),
    ):
        np.testing.assert_array_equal(f(gp.tensor(x)).numpy(), f(x))
        gradcheck(f, [x])
    np.testing.assert_array_equal(gp.tensor(x).T.numpy(), x.T)


@pytest.mark.parametrize("axis", [0, 1, -1])
def test_concatenate_and_stack(axis):
    a, b = draw(4, 2, 3), draw(5, 2, 3)
    np.testing.assert_array_equal(
        gp.concatenate([gp.tensor(a), b], axis).numpy(), np.concatenate([a, b], axis)
    )
    np.testing.assert_array_equal(
        gp.stack([gp.tensor(a), gp.tensor(b)], axis).numpy(), np.stack([a, b], axis)
    )
    gradcheck(lambda s, t: gp.concatenate([s, t, s], axis), [a, b])
    gradcheck(lambda s, t: gp.stack([s, t], axis), [a, b])


@pytest.mark.parametrize(
    ("a", "b"),
    [((2, 3), (3, 4)), ((5, 2, 3), (3, 4)), ((3,), (3, 4)), ((2, 3), (3,)), ((3,), (3,)),
     ((2, 1, 2, 3), (4, 3, 2)), ((4, 2, 3), (3,)), ((3,), (4, 3, 2))],
)  # fmt: skip
def test_matmul_follows_numpy(a, b):
    x, y = draw(6, *a), draw(7, *b)
    np.testing.assert_allclose((gp.tensor(x) @ gp.tensor(y)).numpy(), x @ y)
    gradcheck(lambda s, t: s @ t, [x, y])


@quick
@given(
    rows=npst.array_shapes(min_dims=0, max_dims=3, max_side=3, min_side=0),
    i=st.integers(1, 4),
    o=st.integers(1, 4),
    bias=st.booleans(),
)
def test_linear(rows, i, o, bias):
    x, w, b = draw(8, *rows, i), draw(9, o, i), draw(10, o)
    args = [x, w, b] if bias else [x, w]
    np.testing.assert_allclose(ops.linear(*args).numpy(), x @ w.T + (b if bias else 0), atol=1e-12)
    gradcheck(ops.linear, args)


@quick
@given(
    rows=st.integers(1, 6),
    dim=st.integers(1, 4),
    shape=npst.array_shapes(max_dims=2, max_side=5, min_side=0),
    seed=seeds,
)
def test_embedding_sums_the_gradients_of_repeated_ids(rows, dim, shape, seed):
    ids = np.random.default_rng(seed).integers(0, rows, shape)
    table = draw(seed, rows, dim)
    np.testing.assert_array_equal(ops.embedding(ids, gp.tensor(table)).numpy(), table[ids])
    gradcheck(lambda t: ops.embedding(ids, t), [table])
    t = gp.tensor(table, requires_grad=True)
    dy = draw(seed + 1, *shape, dim)
    ops.embedding(ids, t, padding_idx=0).backward(dy)
    expected = np.zeros_like(table)
    np.add.at(expected, ids, dy)
    expected[0] = 0
    np.testing.assert_allclose(t.grad, expected, atol=1e-12)


@pytest.mark.parametrize(
    ("ids", "message"), [([[0, 5]], r"id 5 at \(0, 1\)"), ([-1], r"id -1 at \(0,\)"), ([0.5], "integers")]
)
def test_embedding_names_the_bad_id(ids, message):
    with pytest.raises(gp.DataError, match=message):
        ops.embedding(np.array(ids), gp.tensor(np.zeros((5, 2))))


def test_on_each_device_the_same_gradient(device):
    """Embedding has a kernel of its own; the rest runs as array expressions."""
    ids = np.random.default_rng(0).integers(0, 7, (5, 9))
    table, dy = draw(1, 7, 40).astype(np.float32), draw(2, 5, 9, 40).astype(np.float32)
    t = gp.tensor(table, requires_grad=True)
    ops.embedding(ids, t).backward(gp.tensor(dy))
    expected = np.zeros_like(table)
    np.add.at(expected, ids, dy)
    np.testing.assert_allclose(gp.Tensor(t.grad).numpy(), expected, rtol=2e-6, atol=2e-6)


def test_the_kernel_of_embedding_runs_off_the_cpu(device, monkeypatch):
    launched = []
    project = kernels.project
    monkeypatch.setattr(kernels, "project", lambda *names: launched.append(names[0]) or project(*names))
    t = gp.tensor(draw(1, 5, 3), requires_grad=True)
    ops.embedding(np.array([4, 0, 4]), t).sum().backward()
    np.testing.assert_array_equal(gp.Tensor(t.grad).numpy().sum(axis=1), [3, 0, 0, 0, 6])
    assert set(launched) == (set() if device == "cpu" else {"embedding"})
