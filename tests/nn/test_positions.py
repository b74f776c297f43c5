"""Positions: the formula, tables that grow, and a text that is too long."""

import math

import numpy as np
import pytest

import gpuprop as gp
from gpuprop import nn


@pytest.mark.parametrize("width", [4, 5])
def test_sinusoids_follow_the_formula(width):
    layer = nn.SinusoidalPositions(width)
    places = np.array([[0, 1, 7], [3, 100, 64]])
    y = layer(gp.tensor(np.zeros((2, 3, width))), places, 101).numpy()
    for row in range(2):
        for column in range(3):
            for i in range(width):
                angle = places[row, column] / 10000 ** (2 * (i // 2) / width)
                wanted = math.sin(angle) if i % 2 == 0 else math.cos(angle)
                assert y[row, column, i] == pytest.approx(wanted, abs=1e-6)


@pytest.mark.parametrize("dtype", ["float32", "float64", "float16"])
def test_sinusoids_keep_the_type_and_are_the_same_whatever_was_asked_before(dtype, device):
    short, long = nn.SinusoidalPositions(6), nn.SinusoidalPositions(6)
    x = gp.tensor(np.zeros((5, 6), dtype))
    places = np.arange(5)
    long(gp.tensor(np.zeros((1, 6), dtype)), np.array([200]), 201)
    first, second = short(x, places, 5), long(x, places, 5)
    assert first.dtype == dtype
    np.testing.assert_array_equal(first.numpy(), second.numpy())


def test_learned_positions_are_trained():
    gp.manual_seed(0)
    layer = nn.LearnedPositions(4, 3)
    layer.weight = gp.Parameter(layer.weight.numpy().astype(np.float64))
    x = np.random.default_rng(0).standard_normal((2, 3, 3))
    places = np.array([[0, 1, 2], [3, 3, 0]])
    gp.gradcheck(lambda x, _: layer(x, places, 4), [x, layer.weight])


def test_a_text_beyond_the_learned_positions_is_refused():
    layer = nn.LearnedPositions(4, 3)
    with pytest.raises(gp.DataError, match=r"a text of 5 tokens is longer than the model's positions \(4\)"):
        layer(gp.tensor(np.zeros((1, 5, 3), np.float32)), np.arange(5)[None], 5)
    with pytest.raises(ValueError, match="max_positions"):
        nn.LearnedPositions(0, 3)
