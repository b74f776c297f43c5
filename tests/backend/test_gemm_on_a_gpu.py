"""Products of views in device memory, on the fake GPU and a real one, against NumPy in float64."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from gpuprop.backend import gemm
from gpuprop.backend.arrays import bfloat16, get_xp, to_device, to_host
from gpuprop.ops.gelu import CUBIC, SLOPE

View = Callable[[Any], Any]
VIEWS: dict[str, tuple[tuple[int, ...], View, tuple[int, ...], View]] = {
    "whole": ((48, 32), lambda a: a, (32, 40), lambda b: b),
    "transposes": ((32, 48), lambda a: a.T, (40, 32), lambda b: b.T),
    "slices": ((50, 40), lambda a: a[1:49, 3:35], (33, 64), lambda b: b[1:, 5:45]),
    "steps": ((96, 64), lambda a: a[::2, ::2], (32, 40), lambda b: b),
    "one row": ((1, 32), lambda a: a, (32, 40), lambda b: b),
    "one column": ((48, 32), lambda a: a, (32, 1), lambda b: b),
    "batch": ((5, 48, 32), lambda a: a, (5, 40, 32), lambda b: b.swapaxes(-1, -2)),
    "layer": ((5, 48, 32), lambda a: a, (32, 40), lambda b: b),
    "heads": ((5, 48, 3, 32), lambda a: a.swapaxes(1, 2), (5, 3, 32, 40), lambda b: b),
}
TYPES = {"float32": 2e-6, "float64": 1e-13, "float16": 2e-3, "bfloat16": 2e-2}


@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize("name", VIEWS)
def test_views(any_gpu: str, name: str, dtype: str) -> None:
    shape_a, view_a, shape_b, view_b = VIEWS[name]
    rng = np.random.default_rng(0)
    kind = bfloat16() if dtype == "bfloat16" else np.dtype(dtype)
    a, b = rng.standard_normal(shape_a).astype(kind), rng.standard_normal(shape_b).astype(kind)
    y = gemm.matmul(view_a(to_device(a, "cuda")), view_b(to_device(b, "cuda")))
    exact = np.matmul(view_a(a.astype(np.float64)), view_b(b.astype(np.float64)))
    assert y.dtype == kind
    assert np.abs(to_host(y).astype(np.float64) - exact).max() <= TYPES[dtype] * np.abs(exact).max()


def test_epilogues(any_gpu: str) -> None:
    """Whether or not cublasLt has an algorithm, which it says by None, what it computes is right."""
    rng = np.random.default_rng(1)
    x, w, bias, dy = (
        rng.standard_normal(s).astype(np.float32) for s in ((64, 32), (32, 48), (48,), (64, 48))
    )  # fmt: skip
    on = [to_device(a, "cuda") for a in (x, w, bias, dy)]
    done = gemm.affine(*on[:3], "relu")
    if done is not None:
        np.testing.assert_allclose(to_host(done), np.maximum(x @ w + bias, 0), atol=1e-4)
    xp = get_xp(on[0])
    dw, sums = xp.empty((32, 48), np.float32), xp.empty(48, np.float32)
    if gemm.with_sums(on[0].T, on[3], dw, sums):
        np.testing.assert_allclose(to_host(dw), x.T @ dy, atol=1e-4)
        np.testing.assert_allclose(to_host(sums), dy.sum(axis=0), atol=1e-4)
    if any_gpu == "fake":
        assert done is not None


@pytest.mark.parametrize("activation", ["relu", "gelu"])
@pytest.mark.parametrize("hidden", [48, 129])
def test_epilogues_of_activations(any_gpu: str, activation: str, hidden: int) -> None:
    """f(x w), dz = (dy v) f'(x w) and its sums; and how the bits of ReLU lie, the lowest of a byte first."""
    rng = np.random.default_rng(2)
    x, w, dy, v = (
        rng.standard_normal(s).astype(np.float32) for s in ((64, 32), (32, hidden), (64, 24), (24, hidden))
    )
    on = [to_device(a, "cuda") for a in (x, w, dy, v)]
    done = gemm.activated(on[0], on[1], None, activation)
    if done is None:
        assert any_gpu != "fake"
        return
    y, beside = map(to_host, done)
    z = x.astype(np.float64) @ w
    t = np.tanh(SLOPE * (z + CUBIC * z**3))
    if activation == "relu":
        np.testing.assert_array_equal(np.unpackbits(beside, axis=1, bitorder="little")[:, :hidden], y > 0)
        value, slope = np.maximum(z, 0), (z > 0).astype(float)
    else:
        np.testing.assert_allclose(beside[:, :hidden], z, atol=1e-4)
        value = 0.5 * z * (1 + t)
        slope = 0.5 * (1 + t) + 0.5 * z * (1 - t * t) * SLOPE * (1 + 3 * CUBIC * z * z)
    np.testing.assert_allclose(y, value, atol=1e-4)
    sums = get_xp(on[0]).empty(hidden, np.float32)
    dz = gemm.behind(on[2], on[3], done[1], activation, 0.5, sums)
    assert any_gpu != "fake" or dz is not None
    if dz is not None:
        exact = 0.5 * (dy.astype(np.float64) @ v) * slope
        np.testing.assert_allclose(to_host(dz), exact, atol=1e-4)
        np.testing.assert_allclose(to_host(sums), exact.sum(0), atol=1e-3)


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
def test_what_was_dropped_before_a_gelu_has_no_gradient(any_gpu: str, dtype: str) -> None:
    """activation.cu leaves z = -16 there, where the slope is 0 however it is computed."""
    kind = bfloat16() if dtype == "bfloat16" else np.dtype(dtype)
    dy, w = (to_device(np.full(shape, 100.0).astype(kind), "cuda") for shape in ((64, 32), (32, 128)))
    z = to_device(np.full((64, 128), -16.0).astype(kind), "cuda")
    dz = gemm.behind(dy, w, z, "gelu")
    assert any_gpu != "fake" or dz is not None
    if dz is not None:
        np.testing.assert_array_equal(to_host(dz).astype(np.float64), 0.0)
