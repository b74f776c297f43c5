"""LayerNorm: what it starts as and what it says; tests/ops/test_layer_norm.py checks the numbers."""

import numpy as np
import pytest

import gpuprop as gp
from gpuprop import nn
from gpuprop.errors import ShapeError


def test_normalises_the_last_axis(device):
    layer = nn.LayerNorm(16)
    x = 5 * np.random.default_rng(0).standard_normal((3, 4, 16)).astype(np.float32) + 2
    y = layer(gp.tensor(x))
    assert y.dtype == np.float32
    np.testing.assert_allclose(y.numpy().mean(-1), 0, atol=1e-5)
    np.testing.assert_allclose(y.numpy().std(-1), 1, rtol=1e-4)
    layer.weight.data[...] = 3.0
    layer.bias.data[...] = -1.0
    np.testing.assert_allclose(layer(gp.tensor(x)).numpy(), 3 * y.numpy() - 1, rtol=1e-4, atol=1e-5)


def test_parameters_and_repr():
    layer = nn.LayerNorm(4, eps=1e-6)
    assert [name for name, _ in layer.named_parameters()] == ["weight", "bias"]
    np.testing.assert_array_equal(layer.weight.numpy(), np.ones(4, np.float32))
    np.testing.assert_array_equal(layer.bias.numpy(), np.zeros(4, np.float32))
    assert repr(layer).startswith("LayerNorm(4, eps=1e-06)")


def test_messages():
    with pytest.raises(ShapeError, match=r"LayerNorm expects \(\.\.\., 4\) but got \(2, 5\)"):
        nn.LayerNorm(4)(np.zeros((2, 5), np.float32))
    with pytest.raises(ValueError, match="normalized_shape must be an integer of at least 1"):
        nn.LayerNorm(0)
    with pytest.raises(ValueError, match="eps must be above 0"):
        nn.LayerNorm(4, eps=0.0)
