"""The gated linear unit against its formula, PyTorch and finite differences."""

import numpy as np
import pytest

import gpuprop as gp
from gpuprop import ops
from gpuprop.backend.arrays import to_host


def draw(*shape, seed=0, dtype=np.float64):
    return np.random.default_rng(seed).standard_normal(shape).astype(dtype)


@pytest.mark.parametrize("shape", [(6,), (3, 2), (2, 3, 8), (2, 1, 2, 4), (0, 4)])
def test_the_left_half_times_the_gate_of_the_right_half(device, shape):
    x = draw(*shape)
    a, b = np.split(x, 2, axis=-1)
    np.testing.assert_allclose(gp.tensor(x).glu().numpy(), a / (1 + np.exp(-b)), rtol=1e-12)
    if x.size:
        gp.gradcheck(ops.glu, [x])


def test_inputs_that_are_views(device):
    x = draw(5, 4, 3)
    gp.gradcheck(lambda t: t.transpose(2, 0, 1).glu(), [x])
    gp.gradcheck(lambda t: t[:, ::2].glu().swapaxes(0, 1), [draw(3, 4, 2)])


@pytest.mark.parametrize("threads", [1, 2])
def test_many_rows_are_computed_in_blocks(threads):
    before = gp.num_threads()
    gp.set_num_threads(threads)
    try:
        x = draw(700, 600, dtype=np.float32)
        t = gp.tensor(x, requires_grad=True)
        y = t.glu()
        dy = draw(700, 300, seed=1, dtype=np.float32)
        y.backward(dy)
    finally:
        gp.set_num_threads(before)
    a, b = np.split(x.astype(np.float64), 2, axis=-1)
    gate = 1 / (1 + np.exp(-b))
    np.testing.assert_allclose(y.numpy(), a * gate, rtol=1e-5, atol=1e-6)
    expected = np.concatenate([dy * gate, dy * a * gate * (1 - gate)], axis=-1)
    np.testing.assert_allclose(to_host(t.grad), expected, rtol=1e-5, atol=1e-6)


def test_large_gates_neither_overflow_nor_lose_the_gradient(device):
    x = gp.tensor(np.array([2.0, 2.0, 1e4, -1e4], np.float32), requires_grad=True)
    y = x.glu()
    assert y.dtype == np.float32
    np.testing.assert_array_equal(y.numpy(), [2.0, 0.0])
    y.sum().backward()
    np.testing.assert_array_equal(to_host(x.grad), [1.0, 0.0, 0.0, 0.0])


def test_the_layer_is_pytorchs():
    torch = pytest.importorskip("torch")
    x, dy = draw(3, 5, 8), draw(3, 5, 4, seed=1)
    theirs = torch.tensor(x, requires_grad=True)
    torch.nn.GLU()(theirs).backward(torch.tensor(dy))
    ours = gp.tensor(x, requires_grad=True)
    gp.nn.GLU()(ours).backward(dy)
    np.testing.assert_allclose(ours.glu().numpy(), torch.nn.GLU()(theirs).detach().numpy(), rtol=1e-12)
    np.testing.assert_allclose(ours.grad, theirs.grad.numpy(), rtol=1e-12, atol=1e-15)


@pytest.mark.parametrize("shape", [(), (3,), (4, 5), (2, 0)])
def test_an_axis_without_halves_is_refused(shape):
    with pytest.raises(gp.ShapeError, match="must be even"):
        ops.glu(gp.tensor(np.ones(shape)))
