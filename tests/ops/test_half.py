"""Operations on float16 and bfloat16: the type stays, and what adds up does so in float32."""

import numpy as np
import pytest

import gpuprop as gp
from gpuprop import nn, ops
from gpuprop.backend import half
from gpuprop.backend.arrays import to_host
from gpuprop.backend.gemm import matmul
from gpuprop.backprop import Watcher, watching

ml_dtypes = pytest.importorskip("ml_dtypes")
HALVES = {"float16": np.dtype(np.float16), "bfloat16": np.dtype(ml_dtypes.bfloat16)}
PRECISION = {"float16": 2**-11, "bfloat16": 2**-8}


@pytest.fixture(params=HALVES)
def name(request):
    return request.param


def test_sums_do_not_stall_where_one_more_is_too_little(name):
    ones = np.ones((4, 3000), HALVES[name])  # the half types cannot count beyond 2048 and 256
    for result in (
        half.total(ones, axis=1),
        matmul(ones, np.ones((3000, 1), HALVES[name]))[:, 0],
        ops.sum(gp.Tensor(ones), axis=1).data,
        ops.mean(gp.Tensor(ones), axis=1).data * 3000,
        ops.elementwise.unbroadcast(ones, (4, 1))[:, 0],
    ):
        assert result.dtype == HALVES[name]
        np.testing.assert_allclose(result.astype(np.float32), 3000, rtol=PRECISION[name])


def test_products_are_rounded_once(name):
    rng = np.random.default_rng(0)
    a, b = (rng.standard_normal(shape).astype(HALVES[name]) for shape in ((3, 5, 40), (3, 40, 6)))
    exact = a.astype(np.float64) @ b.astype(np.float64)
    np.testing.assert_allclose(matmul(a, b).astype(np.float64), exact, rtol=2 * PRECISION[name], atol=1e-5)
    assert matmul(a, b).dtype == HALVES[name]
    into = np.empty((3, 5, 6), np.float32)
    assert matmul(a, b, out=into) is into
    np.testing.assert_allclose(into, exact, rtol=1e-5, atol=1e-5)


def test_the_lowest_number_is_finite_and_the_next_is_not(name):
    value = np.array(half.lowest(HALVES[name]), np.float32)
    assert np.isfinite(value.astype(HALVES[name]))
    with np.errstate(over="ignore"):
        assert not np.isfinite((value * np.float32(1.01)).astype(HALVES[name]).astype(np.float32))


MASK = np.arange(7) < np.array([7, 3, 1])[:, None]
IDS = np.random.default_rng(5).integers(0, 6, (3, 40))
SHAPES = {
    "x": (3, 7, 4),
    "y": (3, 7, 4),
    "w": (5, 4),
    "b": (5,),
    "v": (4,),
    "table": (6, 4),
    "k": (12, 4),
    "kb": (12,),
}


def losses(kind, x):
    targets = np.random.default_rng(6).uniform(0, 1, x.shape).astype(np.float32)
    return nn.BCEWithLogitsLoss()(x, targets) if kind == "bce" else nn.MSELoss()(x, targets)


CASES = {
    "linear": (("x", "w", "b"), lambda x, w, b: ops.linear(x, w, b, activation="relu")),
    "matmul": (("x", "y"), lambda x, y: ops.matmul(x, y.swapaxes(1, 2))),
    "layer_norm": (("x", "v", "v"), ops.layer_norm),
    "softmax": (("x",), ops.softmax),
    "log_softmax": (("x",), ops.log_softmax),
    "attention": (("x", "y", "y"), lambda q, k, v: ops.attention(q, k, v, MASK)[0]),
    "one_attention": (("x", "y", "y"), lambda q, k, v: ops.scaled_dot_product_attention(q, k, v, MASK)),
    "glu": (("x",), ops.glu),
    "additive": (("x", "y", "v"), lambda q, k, v: ops.additive_attention_weights(q, k, v, MASK)),
    "gru": (("x", "k", "k", "kb", "kb"), lambda x, wi, wh, bi, bh: ops.gru(x, wi, wh, bi, bh, mask=MASK)[0]),
    "max_over_time": (("x",), lambda x: ops.max_over_time(x, MASK)),
    "mean_over_time": (("x",), lambda x: ops.mean_over_time(x, MASK)),
    "mean": (("x",), lambda x: ops.mean(x, axis=1)),
    "sum": (("x",), lambda x: ops.sum(x, axis=(0, 1))),
    "numbers": (("x",), lambda x: 2.0 * x / 3 - (1 - x) + 0.5),
    "power": (("x",), lambda x: (x * x + 1) ** 0.5),
    "gelu": (("x",), lambda x: ops.gelu(x) + ops.sigmoid(x) + ops.tanh(x)),
    "broadcast": (("x", "v"), lambda x, v: x * v + v),
    "embedding": (("table",), lambda table: ops.embedding(IDS, table, padding_idx=0)),
}
LOSSES = {"mse": (("x",), lambda x: losses("mse", x)), "bce": (("x",), lambda x: losses("bce", x))}


def run(case, dtype):
    """Output and gradients of a case whose inputs, rounded to half, come in `dtype`."""
    inputs, fn = {**CASES, **LOSSES}[case]
    rng = np.random.default_rng(1)
    leaves = []
    for name in inputs:
        values = rng.standard_normal(SHAPES[name]).astype(ml_dtypes.bfloat16)
        leaves.append(gp.tensor(values.astype(dtype), requires_grad=True))
    y = fn(*leaves)
    y.backward(np.ones(y.shape, y.dtype))
    return y.data, [leaf.grad for leaf in leaves]


@pytest.mark.parametrize("case", [*CASES, *LOSSES])
def test_an_operation_keeps_the_type_and_comes_near_float32(case, name):
    y, grads = run(case, HALVES[name])
    expected, expected_grads = run(case, np.float32)
    assert y.dtype == (np.float32 if case in LOSSES else HALVES[name])
    for ours, theirs in zip([y, *grads], [expected, *expected_grads], strict=True):
        assert ours.dtype == (HALVES[name] if ours is not y else y.dtype)
        scale = max(1.0, float(np.abs(theirs).max()))
        assert float(np.abs(ours.astype(np.float32) - theirs).max()) <= 12 * PRECISION[name] * scale


class Types(Watcher):
    """The types of the gradients that arrive at operations."""

    def __init__(self):
        self.seen = set()

    def passing(self, node):
        self.seen |= {gradient.dtype for gradient in node.grads if gradient is not None}
        node.run_backward()


@pytest.mark.parametrize("case", CASES)
def test_gradients_keep_the_type_on_their_way(case, name):
    inputs, fn = CASES[case]
    leaves = [gp.tensor(np.ones(SHAPES[x]).astype(HALVES[name]), requires_grad=True) for x in inputs]
    # so that the last gradients arrive somewhere; those of parameters may be float32, as their memory is
    pairs = zip(inputs, leaves, strict=True)
    y = fn(*(leaf.reshape(leaf.shape) if which in "xy" else leaf for which, leaf in pairs))
    types = Types()
    with watching(types):
        y.backward(np.ones(y.shape, y.dtype))
    assert types.seen == {HALVES[name]}


@pytest.mark.parametrize("case", LOSSES)
def test_losses_of_half_types_do_not_overflow(case):
    """70 000 is beyond float16, as a square and as a sum."""
    x = gp.tensor(np.full((400, 50), 300, np.float16), requires_grad=True)
    target = np.zeros(x.shape, np.float32)
    loss = {"mse": nn.MSELoss, "bce": nn.BCEWithLogitsLoss}[case](reduction="sum")(x, target)
    assert loss.item() == pytest.approx(20000 * (90000 if case == "mse" else 300))


def test_gradients_are_added_in_the_type_of_the_optimizers_memory(device, name):
    """A table in half whose gradient is kept in float32: many small rows of one id must not stall."""
    table = gp.tensors.Parameter(gp.tensor(np.zeros((3, 4), np.float32)).data)
    gp.optim.SGD([table], lr=0.1)
    table.data = table.data.astype(HALVES[name])
    ops.embedding(np.ones((2, 3000), np.int64), table).sum().backward()
    assert table.grad.dtype == np.float32
    np.testing.assert_array_equal(to_host(table.grad), [[0] * 4, [6000] * 4, [0] * 4])


def test_a_leaf_alone_keeps_its_gradient_in_its_own_type(name):
    norm = nn.LayerNorm(4)
    for p in (norm.weight, norm.bias):
        p.data = p.data.astype(HALVES[name])
    x = gp.tensor(np.arange(8).reshape(2, 4).astype(HALVES[name]), requires_grad=True)
    norm(x).sum().backward()
    assert x.grad.dtype == HALVES[name]


def test_cast_goes_there_and_its_gradient_comes_back(name):
    x = gp.tensor(np.array([1.0, 2.5], np.float32), requires_grad=True)
    y = ops.cast(x, HALVES[name])
    assert y.dtype == HALVES[name]
    (y * y).sum().backward()
    assert x.grad.dtype == np.float32
    np.testing.assert_array_equal(x.grad, [2.0, 5.0])
    assert ops.cast(x, "float32") is x


LAYERS = {
    "linear": lambda: nn.Linear(4, 3),
    "conv1d": lambda: nn.Conv1d(4, 3, 2),
    "gru": lambda: nn.GRU(4, 3),
    "lstm": lambda: nn.LSTM(4, 3),
}


@pytest.mark.parametrize("layer", LAYERS)
def test_float32_features_meet_half_weights_in_the_half_type(layer, name):
    module = LAYERS[layer]()
    for p in module.parameters():
        p.data = p.in_memory_order(p.data.astype(HALVES[name]))
    x = gp.tensor(np.random.default_rng(0).standard_normal((2, 5, 4)).astype(np.float32), requires_grad=True)
    y = module(x)
    y = y[0] if isinstance(y, tuple) else y
    assert y.dtype == HALVES[name]
    y.sum().backward()
    assert x.grad.dtype == np.float32
