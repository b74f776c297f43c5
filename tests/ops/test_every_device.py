"""Small operations give the same values and gradients on every device; kernels have files of their own."""

import numpy as np
import pytest

import gpuprop as gp
from gpuprop import ops
from gpuprop.backend.arrays import to_host

rng = np.random.default_rng(7)
X, Y, POSITIVE = rng.standard_normal((2, 3, 4)), rng.standard_normal((3, 1)), rng.uniform(0.5, 2, (2, 3, 4))
WEIGHT, BIAS = rng.standard_normal((5, 4)), rng.standard_normal(5)
TABLE, IDS = rng.standard_normal((6, 3)), np.array([[1, 0, 5], [5, 5, 2]])
PICK = np.array([True, False, True])

OPERATIONS = {
    "add": (lambda x, y: x + y, X, Y),
    "subtract": (lambda x, y: 1.0 - x - y, X, Y),
    "multiply": (lambda x, y: x * y, X, Y),
    "divide": (lambda x, y: y / x, POSITIVE, Y),
    "power": (lambda x: x**3.0, X),
    "exp": (lambda x: x.exp(), X),
    "log": (lambda x: x.log(), POSITIVE),
    "sqrt": (lambda x: x.sqrt(), POSITIVE),
    "abs": (lambda x: x.abs(), X),
    "tanh": (lambda x: x.tanh(), X),
    "sigmoid": (lambda x: x.sigmoid(), X),
    "relu": (lambda x: x.relu(), X),
    "gelu": (lambda x: x.gelu(), X),
    "glu": (lambda x: x.glu(), X),
    "softmax": (lambda x: x.softmax(axis=1), X),
    "log_softmax": (lambda x: x.log_softmax(), X),
    "sum": (lambda x: x.sum(axis=(0, 2)), X),
    "mean": (lambda x: x.mean(axis=1, keepdims=True), X),
    "max": (lambda x: x.max(axis=-1), X),
    "min": (lambda x: x.min(), X),
    "matmul": (lambda x, w: x @ w.T, X, WEIGHT),
    "linear": (ops.linear, X, WEIGHT, BIAS),
    "embedding": (lambda table: ops.embedding(IDS, table, padding_idx=0), TABLE),
    "reshape": (lambda x: x.reshape(4, -1), X),
    "transpose": (lambda x: x.transpose(2, 0, 1), X),
    "swapaxes": (lambda x: x.swapaxes(0, 2), X),
    "slice": (lambda x: x[:, 1:, ::2], X),
    "rows": (lambda table: table[IDS], TABLE),
    "where true": (lambda y: y[PICK], Y),
    "concatenate": (lambda x, p: gp.concatenate([x, p], axis=1), X, POSITIVE),
    "stack": (lambda x, p: gp.stack([x, p]), X, POSITIVE),
}


def values_and_gradients(place, function, arrays):
    with gp.use_device(place):
        inputs = [gp.tensor(array.copy(), requires_grad=True) for array in arrays]
        y = function(*inputs)
        assert y.device.type == place
        scale = gp.tensor(np.cos(np.arange(y.size)).reshape(y.shape))
        (y * scale).sum().backward()
        return [y.numpy(), *(to_host(x.grad) for x in inputs)]


@pytest.mark.parametrize("name", OPERATIONS)
def test_an_operation_is_the_same_on_every_device(device, name):
    function, *arrays = OPERATIONS[name]
    found = values_and_gradients(device, function, arrays)
    expected = values_and_gradients("cpu", function, arrays)
    for value, wanted in zip(found, expected, strict=True):
        assert value.dtype == wanted.dtype
        np.testing.assert_allclose(value, wanted, rtol=1e-10, atol=1e-12)
