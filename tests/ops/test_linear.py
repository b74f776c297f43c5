"""Products of layers: arrays that do not fit each other are refused before anything is read."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import gpuprop as gp
from gpuprop import ops

MISFITS = [
    ((2, 5), (3, 4), (3,), r"\(..., 5\), \(3, 4\), \(3,\)"),
    ((2, 5), (3, 4), None, r"\(..., 5\), \(3, 4\)"),
    ((2, 4), (3, 4), (7,), r"\(..., 4\), \(3, 4\), \(7,\)"),
    ((2, 4), (3, 4), (1,), r"\(..., 4\), \(3, 4\), \(1,\)"),
    ((4,), (3, 4), (2,), r"\(..., 4\), \(3, 4\), \(2,\)"),
]


def refused(f: Any, shapes: tuple[Any, ...], message: str) -> None:
    arrays = [None if s is None else gp.tensor(np.ones(s, np.float32), requires_grad=True) for s in shapes]
    with pytest.raises(gp.ShapeError, match=message):
        f(*arrays)


@pytest.mark.parametrize(("x", "weight", "bias", "got"), MISFITS)
def test_misfits(any_device: str, x: Any, weight: Any, bias: Any, got: str) -> None:
    message = rf"linear expects x \(..., I\), weight \(O, I\).* but got {got}"
    refused(ops.linear, (x, weight, bias), message)
    refused(lambda *a: ops.linear(*a, activation="relu"), (x, weight, bias), message)
    refused(lambda *a: ops.feed_forward(*a, gp.tensor(np.ones((2, 3), np.float32)), None),
            (x, weight, bias), message.replace("linear", "feed_forward"))  # fmt: skip


def test_misfits_of_a_later_layer(any_device: str) -> None:
    shapes = ((2, 4), (3, 4), None, (2, 3), (3,))
    refused(ops.feed_forward, shapes, r"feed_forward expects .* but got \(..., 3\), \(2, 3\), \(3,\)")


@pytest.fixture(params=["cpu", "emulated", "fake"])
def any_device(request: pytest.FixtureRequest) -> Any:
    if request.param == "fake":
        request.getfixturevalue("fake_gpu")
        yield "fake"
        return
    with gp.use_device(request.param):
        yield request.param
