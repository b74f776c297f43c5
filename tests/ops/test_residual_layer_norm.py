"""residual_layer_norm: the operations that it stands for, with the same random bits; finite differences."""

import numpy as np
import pytest

import gpuprop as gp
from gpuprop import ops
from gpuprop.backend import random
from gpuprop.backend.arrays import to_host
from gpuprop.errors import ShapeError
from gpuprop.testing import gradcheck

TOLERANCE = {"float64": 1e-12, "float32": 2e-5, "float16": 6e-3}
SHAPES = {  # that a warp holds, in one pack a lane or several; any others
    "float64": ((3, 5, 48), (19, 512), (4, 3, 37)),
    "float32": ((19, 128), (2, 9, 336), (7, 1024), (5, 1040), (6, 20), (7, 124), (6, 500), (6, 508)),
    "float16": ((9, 16), (3, 4, 280), (5, 1024), (5, 24), (5, 1016)),
}


def draw(seed, shape, dtype="float64"):
    rng = np.random.default_rng(seed)
    sizes = (shape, shape, shape[-1:], shape[-1:])
    return [(rng.standard_normal(size) + 0.5).astype(dtype) for size in sizes]


def separately(x, residual, weight, bias, **dropout):
    """What a user writes without it."""
    total = x + ops.dropout(residual, dropout.pop("dropout", 0.0), **dropout)
    return ops.layer_norm(total, weight, bias), total


def run(fn, arrays, gradients, **options):
    """Both results and all gradients. gradients: of y and s, None for none."""
    random.state.calls.clear()
    leaves = [gp.tensor(a, requires_grad=True) for a in arrays]
    results = fn(*leaves, **options)
    used = [(y, dy) for y, dy in zip(results, gradients, strict=True) if dy is not None]
    sum((y * gp.tensor(dy)).sum() for y, dy in used).backward()
    found = [*(y.data for y in results), *(leaf.grad for leaf in leaves)]
    return [None if a is None else to_host(a) for a in found]


def agree(device, arrays, gradients, **options):
    """The same as the separate operations on a CPU, and there the very bits."""
    found = run(ops.residual_layer_norm, arrays, gradients, **options)
    with gp.use_device("cpu"):
        wanted = run(separately, arrays, gradients, **options)
    for got, want in zip(found, wanted, strict=True):
        assert (got is None or not got.any()) if want is None else got.dtype == want.dtype
        if device == "cpu":
            np.testing.assert_array_equal(got, want)
        elif want is not None:
            tolerance = TOLERANCE[arrays[0].dtype.name]
            np.testing.assert_allclose(got, want, rtol=tolerance, atol=tolerance * np.abs(want).max())


@pytest.mark.parametrize("p", [0.0, 0.3])
@pytest.mark.parametrize(("dtype", "shape"), [(d, s) for d, shapes in SHAPES.items() for s in shapes])
def test_residual_dropout_and_norm_in_one(device, dtype, shape, p):
    arrays, gradients = draw(1, shape, dtype), draw(2, shape, dtype)[:2]
    agree(device, arrays, gradients, dropout=p, stream=5)


@pytest.mark.parametrize("used", [(True, False), (False, True)])
@pytest.mark.parametrize("width", [32, 5])
def test_where_one_result_alone_is_used(device, width, used):
    gradients = [dy if u else None for dy, u in zip(draw(3, (6, width)), used, strict=False)]
    agree(device, draw(4, (6, width)), gradients, dropout=0.4, stream=2)


MASK = np.array([[True, True, True, False], [True, False, False, False], [True, True, True, True]])


@pytest.mark.parametrize("width", [48, 7])
def test_packed_rows_drop_what_the_padded_batch_drops(device, width):
    arrays, gradients = draw(5, (3, 4, width)), draw(6, (3, 4, width))[:2]
    packed = [a[MASK] for a in arrays[:2]] + arrays[2:]
    with random.rows_from(3):
        options = {"dropout": 0.5, "stream": 4}
        agree(device, packed, [dy[MASK] for dy in gradients], mask=MASK, **options)
        whole, rows = (
            run(ops.residual_layer_norm, a, g, **options, **more)
            for a, g, more in (
                (arrays, gradients, {}),
                (packed, [d[MASK] for d in gradients], {"mask": MASK}),
            )
        )
    for got, want in zip(rows[:4], whole[:4], strict=True):
        np.testing.assert_allclose(got, want[MASK], rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("shape", [(3, 2, 4), (2, 32)])
@pytest.mark.parametrize("p", [0.0, 0.5])
def test_gradients(device, shape, p):
    def both(*leaves):
        random.state.calls.clear()  # the same elements are dropped each time
        y, total = ops.residual_layer_norm(*leaves, dropout=p, stream=3)
        return ops.concatenate([y, total])

    gradcheck(both, draw(7, shape))


@pytest.mark.parametrize("wanted", range(4))
def test_gradients_only_where_they_are_wanted(device, wanted):
    arrays = draw(8, (3, 16))

    def fn(leaf):
        tensors = [gp.tensor(a) for a in arrays]
        tensors[wanted] = leaf
        return ops.residual_layer_norm(*tensors)[0]

    gradcheck(fn, [arrays[wanted]])


def test_rows_that_begin_anywhere(device):
    """Never misaligned loads: weights may lie anywhere in the optimizer's block."""
    arrays = [gp.tensor(a).data for a in draw(9, (6, 64), "float32")]
    shifted = [gp.tensor(np.zeros(a.size + 1, np.float32)).data for a in arrays]
    for a, into in zip(arrays, shifted, strict=True):
        into[1:] = a.reshape(-1)
    views = [gp.Tensor(into[1:].reshape(a.shape)) for a, into in zip(arrays, shifted, strict=True)]
    expected = ops.residual_layer_norm(*[gp.Tensor(a) for a in arrays])[0]
    found = ops.residual_layer_norm(*views)[0]
    np.testing.assert_allclose(found.numpy(), expected.numpy(), rtol=1e-5, atol=1e-6)


def test_what_does_not_fit_is_refused(device):
    x, _, weight, bias = (gp.tensor(a) for a in draw(0, (2, 4)))
    with pytest.raises(ShapeError, match=r"of one shape but got \(2, 4\) and \(4,\)"):
        ops.residual_layer_norm(x, weight, weight, bias)
    with pytest.raises(ShapeError, match=r"weight \(D,\).*\(2, 4\), \(2, 4\), \(4,\)"):
        ops.residual_layer_norm(x, x, x, bias)
    with pytest.raises(ValueError, match="below 1, not 1"):
        ops.residual_layer_norm(x, x, weight, bias, dropout=1.0)
