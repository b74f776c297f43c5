"""Softmax cross-entropy by the number of classes: every kernel, with each option, against the definition."""

import numpy as np
import pytest

import gpuprop as gp
from gpuprop.backend.arrays import to_host
from gpuprop.backend.start import starting_from
from gpuprop.errors import DataError
from gpuprop.ops import softmax_cross_entropy_kernels as in_kernels
from gpuprop.ops.softmax_cross_entropy import softmax_cross_entropy
from gpuprop.testing import gradcheck

OPTIONS = {
    "plain": {},
    "smoothed": {"label_smoothing": 0.1, "weighted": True},
    "z-loss": {"z_loss": 0.01},
    "all": {"label_smoothing": 0.2, "weighted": True, "z_loss": 0.02, "soft_cap": 3.0},
}


def definition(z, targets, weight, smoothing, z_loss, soft_cap):
    """The mean loss and its gradient, in float64."""
    classes = z.shape[1]
    v = soft_cap * np.tanh(z / soft_cap) if soft_cap else z
    top = v.max(1, keepdims=True)
    lse = top + np.log(np.exp(v - top).sum(1, keepdims=True))
    keep = (targets != -100)[:, None]
    one_hot = np.arange(classes) == targets[:, None]
    of_target = weight[np.where(keep[:, 0], targets, 0)][:, None]
    wanted = (1 - smoothing) * of_target * one_hot + smoothing / classes * weight
    total = (of_target * keep).sum()
    loss = keep * ((wanted * (lse - v)).sum(1, keepdims=True) + z_loss * lse**2)
    p = np.exp(v - lse)
    gradient = keep * (p * wanted.sum(1, keepdims=True) - wanted + 2 * z_loss * lse * p)
    if soft_cap:
        gradient *= 1 - (v / soft_cap) ** 2
    return loss.sum() / total, gradient / total


def draw(rows, classes, dtype):
    rng = np.random.default_rng(classes)
    targets = rng.integers(0, classes, rows)
    targets[rows // 2] = -100
    weight = rng.uniform(0.5, 2, classes).astype(np.float32).astype(np.float64)
    return (2 * rng.standard_normal((rows, classes))).astype(dtype), targets, weight


# up to 64 classes a slab (two of them), a warp, a block, a larger one
SIZES = [(140, 2), (131, 7), (5, 64), (11, 65), (9, 256), (3, 1000), (3, 1029), (2, 8192), (2, 8195)]


@pytest.mark.parametrize("options", OPTIONS)
@pytest.mark.parametrize(("rows", "classes"), SIZES)
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_every_kernel_gives_the_definition(device, rows, classes, options, dtype):
    z, targets, weight = draw(rows, classes, dtype)
    given = dict(OPTIONS[options])
    weight = weight if given.pop("weighted", False) else None
    ones = np.ones(classes) if weight is None else weight
    smoothing, z_loss = given.get("label_smoothing", 0.0), given.get("z_loss", 0.0)
    want, slope = definition(
        z.astype(np.float64), targets, ones, smoothing, z_loss, given.get("soft_cap", 0.0)
    )
    leaf = gp.tensor(z, requires_grad=True)
    loss = softmax_cross_entropy(leaf, targets, weight=weight, **given)
    tolerance = 1e-12 if dtype == np.float64 else 3e-6
    assert loss.item() == pytest.approx(want, rel=tolerance)
    loss.backward()
    assert np.abs(to_host(leaf.grad) - slope).max() <= tolerance * np.abs(slope).max()
    with gp.no_grad():
        assert softmax_cross_entropy(leaf, targets, weight=weight, **given).item() == loss.item()


@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
def test_gradcheck_of_the_new_options(device, reduction):
    z, targets, weight = draw(4, 5, np.float64)
    gradcheck(
        lambda t: softmax_cross_entropy(
            t, targets, weight=weight, reduction=reduction, label_smoothing=0.1, z_loss=0.3, soft_cap=2.0
        ),
        [z],
    )


def test_rows_that_begin_anywhere_give_the_same(device):
    """A part of an array that does not begin at 16 bytes is what the simple kernels are for."""
    z, targets, _ = draw(9, 70, np.float32)
    block = gp.tensor(np.zeros(z.size + 1, np.float32)).data
    block[1:] = gp.tensor(z).data.reshape(-1)
    results = []
    for data in (gp.tensor(z).data, block[1:].reshape(z.shape)):
        leaf = gp.Tensor(data)
        leaf.requires_grad = True
        loss = softmax_cross_entropy(leaf, targets, z_loss=0.01, soft_cap=5.0)
        loss.backward()
        results.append([loss.item(), to_host(leaf.grad)])
    np.testing.assert_allclose(results[1][0], results[0][0], rtol=1e-6)
    np.testing.assert_allclose(results[1][1], results[0][1], rtol=1e-4, atol=1e-7)


def test_a_gradient_of_float16_is_scaled_before_it_is_rounded(device):
    """One of 2e-8 is nothing in float16; with a loss scale of 2^16 it is something."""
    z, targets = np.zeros((4096, 2), np.float16), np.zeros(4096, np.int64)
    z[:, 0] = 9.0
    leaf = gp.tensor(z, requires_grad=True)
    loss = softmax_cross_entropy(leaf, targets)
    loss.backward(gp.tensor(np.array(65536.0, np.float32)).data)
    want = 65536 / 4096 / (1 + np.exp(9.0))
    np.testing.assert_allclose(to_host(leaf.grad)[:, 1].astype(np.float64), want, rtol=2e-3)


@pytest.mark.parametrize("options", OPTIONS)
def test_a_row_that_shared_memory_does_not_hold(device, monkeypatch, options):
    """What is beyond it is read again, and nothing else changes; the last pack is cut, too."""
    z, targets, weight = draw(3, 8197, np.float32)
    given = dict(OPTIONS[options])
    weight = weight if given.pop("weighted", False) else None
    found = []
    for room in (1 << 16, 2064 + 1024, 1024):  # all, 129 packs, none
        monkeypatch.setattr(in_kernels, "shared_memory", lambda _, room=room: room)
        leaf = gp.tensor(z, requires_grad=True)
        loss = softmax_cross_entropy(leaf, targets, weight=weight, **given)
        loss.backward()
        found.append((loss.item(), to_host(leaf.grad)))
    for value, gradient in found[1:]:
        assert value == found[0][0]
        np.testing.assert_array_equal(gradient, found[0][1])


@pytest.mark.parametrize("reduction", ["mean", "sum"])
@pytest.mark.parametrize("dtype", [np.float16, np.float32])
def test_what_backward_starts_from_may_be_known_before(device, dtype, reduction):
    """It then finds the gradient made. Where it starts from something else, it makes another."""
    z, targets, _ = draw(6, 70, dtype)
    scale, other = (gp.tensor(np.array(value, np.float32)).data for value in (1024.0, 3.0))

    def gradient(expected, start):
        leaf = gp.tensor(z, requires_grad=True)
        with starting_from(expected):
            loss = softmax_cross_entropy(leaf, targets, reduction=reduction)
            loss.backward(start)
        return to_host(leaf.grad).astype(np.float64)

    for start in (scale, other, scale.copy()):
        want = gradient(None, start)
        for expected in (scale, other):
            np.testing.assert_allclose(
                gradient(expected, start), want, rtol=2e-3 if dtype == np.float16 else 1e-6
            )


def test_which_kernel_takes_which_number_of_classes():
    def names(dtype, *classes):
        return [in_kernels.plan(np.empty((1, c), dtype))[0] for c in classes]

    assert names(np.float32, 2, 64, 65, 1024) == ["slab", "slab", "row 32", "row 32"]
    assert names(np.float32, 1028, 8192, 8196, 262144) == ["row 256", "row 256", "row 1024", "row 1024"]
    assert names(np.float32, 1021, 1022, 1024) == ["row 32", "row 256", "row 32"]  # rows that cut packs
    assert names(np.float16, 64, 16377, 16378, 16384) == ["slab", "row 256", "row 1024", "row 256"]
    assert names(np.float64, 32, 33) == ["slab", "row 32"]


def test_numbers_that_make_no_sense():
    z, targets, _ = draw(3, 4, np.float32)
    for bad in ({"z_loss": -1.0}, {"z_loss": np.inf}, {"soft_cap": 0.0}, {"soft_cap": -2.0}):
        with pytest.raises(DataError, match=f"{next(iter(bad))} is a finite number"):
            softmax_cross_entropy(gp.tensor(z), targets, **bad)


@pytest.mark.parametrize("classes", [7, 300])
@pytest.mark.parametrize("excluded", [0, 5])
def test_a_class_that_is_excluded_makes_the_smoothed_loss_infinite(device, classes, excluded):
    """Smoothing wants a share of it; a logit of -inf has no share. As in PyTorch."""
    z = np.random.default_rng(0).standard_normal((2, classes)).astype(np.float32)
    z[0, excluded] = -np.inf
    loss = softmax_cross_entropy(
        gp.tensor(z), np.array([3, 4]), label_smoothing=0.1, reduction="none"
    ).numpy()
    assert loss[0] == np.inf
    assert np.isfinite(loss[1])
