"""layer_norm: the definition, finite differences, and PyTorch where it is installed."""

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import gpuprop as gp
from gpuprop.backend.arrays import to_host
from gpuprop.errors import ShapeError
from gpuprop.ops import layer_norm_rows
from gpuprop.ops.layer_norm import formula, formula_gradients, layer_norm
from gpuprop.testing import gradcheck

few = settings(
    max_examples=12,
    derandomize=True,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)


def draw(seed, shape):
    rng = np.random.default_rng(seed)
    return [
        3 * rng.standard_normal(shape) + 1,
        rng.standard_normal(shape[-1]),
        rng.standard_normal(shape[-1]),
    ]


def reference(x, weight, bias, eps=1e-5):
    mean, variance = x.mean(-1, keepdims=True), x.var(-1, keepdims=True)
    return (x - mean) / np.sqrt(variance + eps) * weight + bias


@few
@given(seed=st.integers(0, 99), lead=st.lists(st.integers(1, 4), max_size=2), size=st.integers(2, 9))
def test_definition_and_gradients(device, seed, lead, size):
    arrays = draw(seed, (*lead, size))
    y = layer_norm(*[gp.tensor(a) for a in arrays])
    np.testing.assert_allclose(y.numpy(), reference(*arrays), rtol=1e-10, atol=1e-12)
    gradcheck(layer_norm, arrays)


@pytest.mark.parametrize("wanted", [0, 1, 2])
def test_gradients_only_where_they_are_wanted(device, wanted):
    arrays = draw(1, (3, 4))

    def fn(leaf):
        tensors = [gp.tensor(a) for a in arrays]
        tensors[wanted] = leaf
        return layer_norm(*tensors)

    gradcheck(fn, [arrays[wanted]])


def test_more_rows_than_a_block(device):
    arrays = draw(2, (1500, 100))
    dy = np.random.default_rng(3).standard_normal((1500, 100))
    leaves = [gp.tensor(a, requires_grad=True) for a in arrays]
    y = layer_norm(*leaves)
    y.backward(gp.tensor(dy).data)
    np.testing.assert_allclose(y.numpy(), reference(*arrays), rtol=1e-10, atol=1e-12)
    x, weight, _ = arrays
    inverse = 1 / np.sqrt(x.var(-1, keepdims=True) + 1e-5)
    normal, g = (x - x.mean(-1, keepdims=True)) * inverse, dy * weight
    dx = inverse * (g - g.mean(-1, keepdims=True) - normal * (g * normal).mean(-1, keepdims=True))
    for leaf, expected in zip(leaves, (dx, (dy * normal).sum(0), dy.sum(0)), strict=True):
        np.testing.assert_allclose(to_host(leaf.grad), expected, rtol=1e-9, atol=1e-10)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_the_type_is_kept(device, dtype):
    leaves = [gp.tensor(a.astype(dtype), requires_grad=True) for a in draw(4, (2, 3, 5))]
    y = layer_norm(*leaves)
    assert y.dtype == dtype
    y.sum().backward()
    assert all(leaf.grad.dtype == dtype for leaf in leaves)


def test_a_large_mean_does_not_drown_the_variance(device):
    x = np.random.default_rng(5).standard_normal((4, 64))
    y = layer_norm(*[gp.tensor(a) for a in ((x + 1e6), np.ones(64), np.zeros(64))])
    np.testing.assert_allclose(y.numpy(), reference(x, np.ones(64), np.zeros(64)), atol=1e-7)


def test_a_constant_row_is_zero(device):
    x = np.full((2, 8), 3.0, np.float32)
    leaf = gp.tensor(x, requires_grad=True)
    y = layer_norm(leaf, gp.tensor(np.ones(8, np.float32)), gp.tensor(np.zeros(8, np.float32)))
    y.sum().backward()
    assert not y.numpy().any()
    assert np.isfinite(to_host(leaf.grad)).all()


def test_shapes_that_do_not_fit():
    with pytest.raises(ShapeError, match=r"weight \(D,\).*\(2, 4\), \(3,\), \(4,\)"):
        layer_norm(gp.tensor(np.ones((2, 4))), gp.tensor(np.ones(3)), gp.tensor(np.ones(4)))


def test_pytorch_agrees():
    torch = pytest.importorskip("torch")
    arrays = draw(6, (3, 4, 7))
    peers = [torch.from_numpy(a).requires_grad_() for a in arrays]
    expected = torch.nn.functional.layer_norm(peers[0], (7,), peers[1], peers[2], eps=1e-3)
    (expected * expected).sum().backward()
    leaves = [gp.tensor(a, requires_grad=True) for a in arrays]
    y = layer_norm(*leaves, eps=1e-3)
    (y * y).sum().backward()
    np.testing.assert_allclose(y.numpy(), expected.detach().numpy(), rtol=1e-10, atol=1e-12)
    for leaf, peer in zip(leaves, peers, strict=True):
        np.testing.assert_allclose(leaf.grad, peer.grad.numpy(), rtol=1e-8, atol=1e-11)


WIDTHS = {"float64": (64, 130, 512, 514), "float32": (128, 132, 1024, 1028, 30), "float16": (264, 1000, 1032)}


@pytest.mark.parametrize(("dtype", "width"), [(d, w) for d, widths in WIDTHS.items() for w in widths])
def test_widths_that_a_warp_holds_and_others(device, dtype, width):
    """Each number of packs a lane, rows that end inside one, and the kernels for any width."""
    arrays = [a.astype(dtype) for a in draw(7, (19, width))]
    dy = np.random.default_rng(8).standard_normal((19, width)).astype(dtype)
    leaves = [gp.tensor(a, requires_grad=True) for a in arrays]
    y = layer_norm(*leaves)
    y.backward(gp.tensor(dy).data)
    x, weight, bias = (a.astype(np.float64) for a in arrays)
    inverse = 1 / np.sqrt(x.var(-1, keepdims=True) + 1e-5)
    normal, g = (x - x.mean(-1, keepdims=True)) * inverse, dy.astype(np.float64) * weight
    dx = inverse * (g - g.mean(-1, keepdims=True) - normal * (g * normal).mean(-1, keepdims=True))
    wanted = normal * weight + bias, dx, (dy * normal).sum(0), dy.astype(np.float64).sum(0)
    tolerance = {"float64": 1e-12, "float32": 2e-5, "float16": 4e-3}[dtype]
    for got, want in zip((y.data, *(leaf.grad for leaf in leaves)), wanted, strict=True):
        np.testing.assert_allclose(to_host(got), want, rtol=tolerance, atol=tolerance * np.abs(want).max())


def test_rows_that_begin_anywhere(device):
    """Weights may lie in the optimizer's block and rows in a part of an array: never misaligned loads."""
    block = [gp.tensor(a.astype(np.float32)).data for a in draw(9, (6, 64))]
    shifted = [gp.tensor(np.zeros(a.size + 1, np.float32)).data for a in block]
    for a, into in zip(block, shifted, strict=True):
        into[1:] = a.reshape(-1)
    views = [gp.Tensor(into[1:].reshape(a.shape)) for a, into in zip(block, shifted, strict=True)]
    expected = layer_norm(*[gp.Tensor(a) for a in block])
    np.testing.assert_allclose(layer_norm(*views).numpy(), expected.numpy(), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("mean", [0.0, 1.0, 3.0, 1000.0])
@pytest.mark.parametrize("shape", [(40, 9), (700, 3), (300, 100), (2000, 150), (600, 700)])
def test_rows_in_few_passes_are_the_formula_wherever_their_mean_is(mean, shape):
    rng = np.random.default_rng(5)
    x = rng.standard_normal(shape) + mean * rng.choice([0.0, 1.0], (shape[0], 1))
    weight, bias, dy = (
        rng.standard_normal(shape[1]),
        rng.standard_normal(shape[1]),
        rng.standard_normal(shape),
    )
    y, *saved = formula(x, weight, bias, 1e-5)
    np.testing.assert_allclose(y, reference(x, weight, bias), rtol=1e-9, atol=1e-9)
    expected = (y, *formula_gradients(dy, weight, *saved))
    for dtype, tolerance in ((np.float64, 1e-10), (np.float32, 3e-5)):
        args = [a.astype(dtype) for a in (x, weight, bias)]
        y, done = layer_norm_rows.forward(*args, 1e-5)
        scale = 1 + mean * (dtype == np.float32)  # x itself is rounded
        for ours, right in zip(
            (y, *layer_norm_rows.backward(done, dy.astype(dtype), (True,) * 3)), expected, strict=True
        ):
            assert np.abs(ours - right).max() <= tolerance * scale * max(1, np.abs(right).max())
