"""The fused convolution, ReLU and maximum against the same thing written with single operations."""

import sys
from contextlib import nullcontext

import numpy as np
import pytest

import gpuprop as gp
from gpuprop import nn, ops
from gpuprop.backend.arrays import to_host
from gpuprop.backend.gemm import tf32_products
from gpuprop.ops import conv1d_products
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


# batch, length, channels, (filters, width) of each convolution, padding
SIZES = {
    "short texts, four to a tile": (9, 7, 5, [(3, 3), (2, 4)], "full"),
    "two texts to a tile": (3, 28, 4, [(66, 2), (3, 3)], "same"),
    "several tiles of windows and filters": (2, 140, 8, [(65, 3), (3, 1)], "none"),
    "texts shorter than the window": (3, 2, 4, [(3, 5), (2, 3)], "full"),
    "more widths than a launch takes": (4, 9, 3, [(2, 1), (3, 2), (1, 3), (2, 2), (3, 3), (1, 4)], "full"),
    "a long filter": (2, 6, 132, [(5, 3)], "same"),
}


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("sizes", SIZES.values(), ids=SIZES)
def test_every_device_gives_what_the_single_operations_give(device, sizes, masked):
    batch, length, channels, shapes, padding = sizes
    generator = np.random.default_rng(1)
    x = generator.standard_normal((batch, length, channels))
    mask = np.arange(length) < generator.integers(0, length + 1, (batch, 1))
    mask[0], mask[-1, : length // 2] = False, False  # none at all; padding on the left
    pairs = [(generator.standard_normal((f, k, channels)), generator.standard_normal(f)) for f, k in shapes]
    dy = generator.standard_normal((batch, sum(f for f, _ in shapes)))
    sides = [
        {"full": (k - 1, k - 1), "same": ((k - 1) // 2, k // 2), "none": (0, 0)}[padding] for _, k in shapes
    ]
    results = []
    for place, f in (
        (gp.get_device(), lambda x, p, m, s: ops.conv1d_relu_max(x, p, m, paddings=s)),
        ("cpu", plain),
    ):
        with gp.use_device(place):
            leaves = [gp.tensor(a, requires_grad=True) for a in (x, *(a for pair in pairs for a in pair))]
            y = f(
                leaves[0], list(zip(leaves[1::2], leaves[2::2], strict=True)), mask if masked else None, sides
            )
            y.backward(gp.tensor(dy).data)
            results.append([y.numpy(), *(to_host(leaf.grad) for leaf in leaves)])
    for got, want in zip(*results, strict=True):
        np.testing.assert_allclose(got, want, rtol=1e-11, atol=1e-12)


def test_the_first_of_equal_maxima_takes_the_gradient(device):
    x = gp.tensor(np.tile([1.0, 2.0, 2.0], 30).reshape(1, 90, 1), requires_grad=True)
    ones = [gp.tensor(np.ones((1, k, 1))) for k in (1, 2)]
    y = ops.conv1d_relu_max(x, [(w, None) for w in ones])
    y.backward(gp.tensor(np.array([[1.0, 10.0]])).data)
    expected = np.zeros(90)
    expected[[1, 2]] = 11, 10
    np.testing.assert_array_equal(y.numpy(), [[2, 4]])
    np.testing.assert_array_equal(to_host(x.grad)[0, :, 0], expected)


def test_numbers_that_are_not_finite(device):
    """Four texts: NaN wins and has no gradient; so do not -inf and what a mask hides; inf wins."""
    x = np.array([[1, np.nan, 3], [-np.inf, -np.inf, -np.inf], [np.nan, 2, 1], [1, np.inf, 2]])[..., None]
    mask = np.ones((4, 3), bool)
    mask[2, 0] = False
    weight = gp.tensor(np.ones((1, 1, 1)), requires_grad=True)
    text = gp.tensor(x, requires_grad=True)
    y = ops.conv1d_relu_max(text, [(weight, gp.tensor(np.array([0.5])))], mask)
    y.sum().backward()
    np.testing.assert_array_equal(y.numpy(), [[np.nan], [0], [2.5], [np.inf]])
    np.testing.assert_array_equal(to_host(text.grad)[..., 0], [[0, 0, 0], [0, 0, 0], [0, 1, 0], [0, 1, 0]])


@pytest.mark.parametrize("wanted", [0, 1, 2, 3])
def test_gradients_only_where_they_are_wanted(device, wanted):
    arrays = [rng.standard_normal(s) for s in ((2, 5, 4), (3, 2, 4), (3,), (2, 3, 4))]

    def fn(leaf):
        x, w, b, v = (leaf if i == wanted else gp.tensor(a) for i, a in enumerate(arrays))
        return ops.conv1d_relu_max(x, [(w, b), (v, None)], paddings="same")

    gradcheck(fn, [arrays[wanted]])


def test_gradients_against_finite_differences(device):
    x, _ = texts(3, 5, 2, padded=False)
    mask = np.array([[1, 1, 1, 1, 1], [1, 1, 1, 0, 0], [1, 0, 0, 0, 0]], bool)
    w, v, b = rng.standard_normal((3, 3, 2)), rng.standard_normal((2, 2, 2)), rng.standard_normal(3)
    gradcheck(
        lambda x, w, b, v: ops.conv1d_relu_max(x, [(w, b), (v, None)], mask, paddings=[(2, 2), (1, 0)]),
        [x, w, b, v],
    )


def test_windows_without_a_real_token_never_win(device):
    mask = np.array([[1, 1, 0, 0], [0, 0, 0, 0]], bool)
    np.testing.assert_array_equal(
        windows_with_tokens(mask, 2, 1, 1), [[True, True, True, False, False], [False] * 5]
    )
    x = np.zeros((2, 4, 1)) + mask[..., None] * -1.0
    y = ops.conv1d_relu_max(x, [(np.ones((1, 2, 1)), np.array([5.0]))], mask, paddings=1)
    np.testing.assert_array_equal(y.numpy(), [[4.0], [0.0]])  # -1 + 5, not 0 + 5; no window, no value


def test_the_layer_is_its_convolutions_and_a_maximum(device):
    gp.manual_seed(0)
    layer = nn.ConvMaxOverTime(4, 3, (2, 3), padding="full")
    x, mask = texts()
    x, mask = gp.tensor(x.astype(np.float32)), gp.tensor(mask).data
    expected = [
        nn.MaxOverTime()(c(x).relu(), windows_with_tokens(mask, k, k - 1, k - 1))
        for c, k in zip(layer.convolutions, (2, 3), strict=True)
    ]
    got = layer(x, mask)
    np.testing.assert_allclose(
        got.numpy(), np.concatenate([e.numpy() for e in expected], 1), rtol=1e-5, atol=1e-6
    )
    assert set(layer.state_dict()) == {f"convolutions.{i}.{n}" for i in (0, 1) for n in ("weight", "bias")}


@pytest.mark.parametrize("dtype", ["float16", "float32"])
def test_tensor_cores_compute_what_one_kernel_does(fake_gpu, dtype, monkeypatch):
    """In half types, and with TF32, products are cuBLAS's; the gradients are gathered as ever. Of eighths all
    products and sums are exact, and some are equal. Gradients of a half type are rounded, dx once for each
    group of widths."""
    monkeypatch.setattr(conv1d_products, "LEAST", 1)
    generator = np.random.default_rng(2)
    shapes = [(24, 3), (20, 4), (16, 2), (16, 1), (16, 5)]
    x = np.round(generator.standard_normal((5, 12, 16)) * 2) / 8
    mask = np.arange(12) < np.array([[12], [3], [0], [7], [1]])
    draws = [generator.standard_normal(s) for f, k in shapes for s in ((f, k, 16), f)]
    parameters = [np.round(a * 8) / 8 for a in draws]
    dy = generator.standard_normal((5, sum(f for f, _ in shapes)))
    results = []
    for place, precision in (("cuda", tf32_products()), ("cpu", nullcontext())):
        with gp.use_device(place), precision:
            leaves = [gp.tensor(a.astype(dtype), requires_grad=True) for a in (x, *parameters)]
            pairs = list(zip(leaves[1::2], leaves[2::2], strict=True))
            y = ops.conv1d_relu_max(leaves[0], pairs, mask, paddings=[(k - 1, k - 1) for _, k in shapes])
            y.backward(gp.tensor(dy.astype(dtype)).data)
            results.append([y.numpy(), *(to_host(leaf.grad) for leaf in leaves)])
    assert fake_gpu.launches.count("conv1d_relu_max_largest") == len(shapes)
    assert "conv1d_relu_max_forward" not in fake_gpu.launches
    np.testing.assert_array_equal(results[0][0], results[1][0])
    tolerance = 2e-3 if dtype == "float16" else 1e-5
    for got, want in zip(*results, strict=True):
        np.testing.assert_allclose(got, want, rtol=tolerance, atol=tolerance)


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
