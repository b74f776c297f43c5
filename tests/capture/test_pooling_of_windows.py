"""Pooling of windows in captured steps."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import gpuprop as gp
from gpuprop import ops


@pytest.mark.parametrize(
    "op", [ops.max_pool1d, ops.avg_pool1d, lambda *a: ops.avg_pool1d(*a, count_include_pad=False)]
)
def test_replays_give_the_bits_of_steps_that_are_not_captured(any_gpu: str, op: Any) -> None:
    """A step copies nothing from the host that it makes anew."""

    def step(x: Any) -> Any:
        leaf = gp.tensor(x, requires_grad=True)
        y = op(leaf, 3, 2, 1)
        (y * y).sum().backward()
        return y.data, leaf.grad

    captured = gp.capture(step)
    for seed in range(4):
        x = np.random.default_rng(seed).normal(size=(2, 9, 4)).astype(np.float32)
        for found, wanted in zip(captured(x), step(x), strict=True):
            np.testing.assert_array_equal(found.get(), wanted.get())
