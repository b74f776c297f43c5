"""Pooling layers: arguments and messages; tests/ops/test_pooling.py checks the numbers."""

import numpy as np
import pytest

import gpuprop as gp
from gpuprop import nn
from gpuprop.errors import ShapeError


def text(*shape):
    return np.arange(np.prod(shape), dtype=np.float32).reshape(shape)


def test_windows(device):
    x = gp.tensor(text(1, 6, 1))
    np.testing.assert_array_equal(nn.MaxPool1d(2)(x).numpy()[0, :, 0], [1, 3, 5])
    np.testing.assert_array_equal(
        nn.MaxPool1d(3, stride=1, padding=1)(x).numpy()[0, :, 0], [1, 2, 3, 4, 5, 5]
    )
    np.testing.assert_array_equal(nn.AvgPool1d(2)(x).numpy()[0, :, 0], [0.5, 2.5, 4.5])
    np.testing.assert_array_equal(nn.AvgPool1d(2, 4, 1)(x).numpy()[0, :, 0], [0, 3.5])
    np.testing.assert_array_equal(nn.AvgPool1d(2, 4, 1, False)(x).numpy()[0, :, 0], [0, 3.5])
    np.testing.assert_array_equal(nn.AvgPool1d(2, 2, 1)(x).numpy()[0, :, 0], [0, 1.5, 3.5, 2.5])
    np.testing.assert_array_equal(nn.AvgPool1d(2, 2, 1, False)(x).numpy()[0, :, 0], [0, 1.5, 3.5, 5])


def test_over_time(device):
    x, mask = gp.tensor(text(2, 3, 2)), np.array([[True, True, False], [False, False, False]])
    np.testing.assert_array_equal(nn.MaxOverTime()(x).numpy(), [[4, 5], [10, 11]])
    np.testing.assert_array_equal(nn.MaxOverTime()(x, mask).numpy(), [[2, 3], [0, 0]])
    np.testing.assert_allclose(nn.MeanOverTime()(x).numpy(), [[2, 3], [8, 9]], rtol=1e-6)
    np.testing.assert_array_equal(nn.MeanOverTime()(x, mask).numpy(), [[1, 2], [0, 0]])


def test_repr():
    assert repr(nn.MaxPool1d(3, 2, 1)) == "MaxPool1d(3, stride=2, padding=1)"
    assert repr(nn.AvgPool1d(2)) == "AvgPool1d(2)"
    assert repr(nn.AvgPool1d(2, 2, 1, False)) == "AvgPool1d(2, padding=1, count_include_pad=False)"


@pytest.mark.parametrize("kind", [nn.MaxPool1d, nn.AvgPool1d])
def test_window_messages(kind):
    name = kind.__name__
    with pytest.raises(
        ShapeError, match=rf"{name} expects a length of at least 4.*\(2, 3, 5\): pad the batch"
    ):
        kind(4)(text(2, 3, 5))
    with pytest.raises(ShapeError, match=rf"{name} expects \(batch, length, channels\) but got \(2, 3\)"):
        kind(2)(text(2, 3))
    with pytest.raises(ValueError, match=f"{name}: kernel_size must be an integer of at least 1"):
        kind(0)
    with pytest.raises(ValueError, match=f"{name}: stride must be an integer of at least 1"):
        kind(2, 0)
    for padding in (-1, 2, 0.5, True):
        with pytest.raises(ValueError, match="from 0 to half the kernel size"):
            kind(2, 1, padding)


@pytest.mark.parametrize("kind", [nn.MaxOverTime, nn.MeanOverTime])
def test_over_time_messages(kind):
    with pytest.raises(
        ShapeError, match=rf"{kind.__name__} expects a mask \(2, 3\) for \(2, 3, 4\) but got \(2, 4\)"
    ):
        kind()(text(2, 3, 4), np.ones((2, 4), bool))
    with pytest.raises(ShapeError, match=rf"{kind.__name__} expects \(batch, length, channels\)"):
        kind()(text(2, 3))
    with pytest.raises(ShapeError, match="length at least 1"):
        kind()(text(2, 0, 4), np.ones((2, 0), bool))
