"""The fused convolution, ReLU and maximum against the same thing written with single operations."""

import sys

import numpy as np
import pytest

import gpuprop as gp
from gpuprop import nn, ops
from gpuprop.ops.conv1d_relu_max import windows_with_tokens
from gpuprop.testing import gradcheck

rng = np.random.default_rng(0)
SHAPES = [(3, 3), (4, 2), (2, 1)]  # filters and kernel sizes of three convolutions side by side


def texts(batch=5, length=7, channels=4, padded=True):
    x = rng.standard_normal((batch, length, channels))
    mask = np.ones((batch, length), bool)
    if padded:
        mask[1, 4:], mask[2, 1:], mask[3] = False, False, False
        x *= mask[..., None]
    return x, mask


def weights(channels=4, dtype=np.float64):
    pairs = [(rng.standard_normal((f, k, channels)), rng.standard_normal(f)) for f, k in SHAPES]
    pairs[1] = (pairs[1][0], None)
    return [tuple(None if a is None else a.astype(dtype) for a in pair) for pair in pairs]


def plain(x, pairs, mask, paddings):
    features = []
    for (w, b), (left, right) in zip(pairs, paddings, strict=True):
        seen = None if mask is None else windows_with_tokens(mask, w.shape[1], left, right)
        features.append(ops.max_over_time(ops.conv1d(x, w, b, padding=(left, right)).relu(), seen))
    return ops.concatenate(features, axis=1)


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("paddings", [[(0, 0)] * 3, [(2, 2), (1, 1), (0, 0)], [(0, 1), (1, 0), (0, 2)]])
@pytest.mark.parametrize("block", [1, 1 << 18])
def test_it_is_the_composition_of_the_single_operations(masked, paddings, block, monkeypatch):
    module = sys.modules["gpuprop.ops.conv1d_relu_max"]  # the package has the function by that name
    monkeypatch.setattr(module, "FORWARD_BLOCK", block)
    monkeypatch.setattr(module, "BACKWARD_BLOCK", block)
    x, mask = texts()
    x[0, 2, 0] = 0  # a real row that begins with 0
    mask = mask if masked else None
    arrays, results = weights(), []
    dy = rng.standard_normal((5, 9))
    for f in (plain, lambda x, pairs, m, p: ops.conv1d_relu_max(x, pairs, m, paddings=p)):
        leaf = gp.tensor(x, requires_grad=True)
        pairs = [tuple(None if a is None else gp.tensor(a, requires_grad=True) for a in p) for p in arrays]
        y = f(leaf, pairs, mask, paddings)
        y.backward(gp.tensor(dy).data)
        grads = [t.grad for pair in pairs for t in pair if t is not None]
        results.append([gp.tensor(a).numpy() for a in (y.data, leaf.grad, *grads)])
    for a, b in zip(*results, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-10, atol=1e-12)


def test_gradients_against_finite_differences():
    x, _ = texts(3, 5, 2, padded=False)
    mask = np.array([[1, 1, 1, 1, 1], [1, 1, 1, 0, 0], [1, 0, 0, 0, 0]], bool)
    w, v, b = rng.standard_normal((3, 3, 2)), rng.standard_normal((2, 2, 2)), rng.standard_normal(3)
    gradcheck(
        lambda x, w, b, v: ops.conv1d_relu_max(x, [(w, b), (v, None)], mask, paddings=[(2, 2), (1, 0)]),
        [x, w, b, v],
    )


def test_windows_without_a_real_token_never_win():
    mask = np.array([[1, 1, 0, 0], [0, 0, 0, 0]], bool)
    np.testing.assert_array_equal(
        windows_with_tokens(mask, 2, 1, 1), [[True, True, True, False, False], [False] * 5]
    )
    x = np.zeros((2, 4, 1)) + mask[..., None] * -1.0
    y = ops.conv1d_relu_max(x, [(np.ones((1, 2, 1)), np.array([5.0]))], mask, paddings=1)
    np.testing.assert_array_equal(y.data, [[4.0], [0.0]])  # -1 + 5, not 0 + 5; no window, no value


def test_the_layer_is_its_convolutions_and_a_maximum():
    gp.manual_seed(0)
    layer = nn.ConvMaxOverTime(4, 3, (2, 3), padding="full")
    x, mask = texts()
    x = x.astype(np.float32)
    expected = [
        nn.MaxOverTime()(c(x).relu(), windows_with_tokens(mask, k, k - 1, k - 1))
        for c, k in zip(layer.convolutions, (2, 3), strict=True)
    ]
    got = layer(x, mask)
    np.testing.assert_allclose(got.data, np.concatenate([e.data for e in expected], 1), rtol=1e-5, atol=1e-6)
    assert set(layer.state_dict()) == {f"convolutions.{i}.{n}" for i in (0, 1) for n in ("weight", "bias")}


def test_what_does_not_fit_is_refused():
    x, mask = texts()
    w = np.ones((1, 3, 4))
    with pytest.raises(gp.ShapeError, match=r"expects a mask \(5, 7\) but got \(5, 6\)"):
        ops.conv1d_relu_max(x, [(w, None)], mask[:, 1:])
    with pytest.raises(gp.ShapeError, match="1 convolutions and 2 paddings"):
        ops.conv1d_relu_max(x, [(w, None)], paddings=[0, 0])
    with pytest.raises(ValueError, match="stride, dilation and groups of 1"):
        nn.conv_max_over_time(x.astype(np.float32), [nn.Conv1d(4, 2, 3, stride=2)])
    with pytest.raises(ValueError, match="at least one width"):
        nn.ConvMaxOverTime(4, 3, ())
