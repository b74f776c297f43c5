"""Losses: values by their definitions, gradients by finite differences."""

import numpy as np
import pytest

import gpuprop as gp
from gpuprop import nn
from gpuprop.backend.arrays import to_host
from gpuprop.testing import gradcheck

rng = np.random.default_rng(3)


def test_cross_entropy_by_its_definition():
    z, y, w = rng.standard_normal((4, 5)), np.array([0, 4, -100, 2]), rng.uniform(0.5, 2, 5)
    logp = z - np.log(np.exp(z).sum(-1, keepdims=True))
    kept = [0, 1, 3]
    nll = -logp[kept, y[kept]]
    loss = nn.CrossEntropyLoss()(gp.tensor(z), y)
    np.testing.assert_allclose(loss.item(), nll.mean())
    weighted = nn.CrossEntropyLoss(weight=w)(gp.tensor(z), y)
    np.testing.assert_allclose(weighted.item(), (w[y[kept]] * nll).sum() / w[y[kept]].sum())
    smooth = nn.CrossEntropyLoss(label_smoothing=0.2, reduction="sum")(gp.tensor(z), y)
    np.testing.assert_allclose(smooth.item(), (0.8 * nll + 0.2 * -logp[kept].mean(-1)).sum())
    each = nn.CrossEntropyLoss(reduction="none")(gp.tensor(z), y)
    np.testing.assert_allclose(each.numpy(), [nll[0], nll[1], 0, nll[2]])


def test_all_targets_ignored_gives_zero_and_no_gradient():
    z = gp.tensor(rng.standard_normal((3, 4)), requires_grad=True)
    loss = nn.CrossEntropyLoss()(z, np.full(3, -100))
    loss.backward()
    assert loss.item() == 0
    np.testing.assert_array_equal(z.grad, np.zeros((3, 4)))


def test_sequence_cross_entropy_counts_real_tokens_only():
    z = rng.standard_normal((2, 3, 5))
    y = np.array([[1, 2, 3], [4, 0, 0]])
    mask = np.array([[True, True, True], [True, False, False]])
    masked = nn.SequenceCrossEntropyLoss()(gp.tensor(z), y, mask)
    flat = nn.CrossEntropyLoss()(gp.tensor(z[mask]), y[mask])
    np.testing.assert_allclose(masked.item(), flat.item(), rtol=1e-12)
    gradcheck(lambda t: nn.SequenceCrossEntropyLoss(label_smoothing=0.1)(t, y, mask), [z])
    with pytest.raises(gp.ShapeError, match=r"\(2, 3, 5\) and \(3, 2\)"):
        nn.SequenceCrossEntropyLoss()(gp.tensor(z), y.T)


@pytest.mark.parametrize("reduction", ["mean", "sum", "none"])
def test_binary_cross_entropy(reduction):
    z, y, w, p = (
        rng.standard_normal((3, 4)),
        rng.uniform(0, 1, (3, 4)),
        rng.uniform(0, 2, 4),
        rng.uniform(1, 3, 4),
    )
    s = 1 / (1 + np.exp(-z))
    each = -w * (p * y * np.log(s) + (1 - y) * np.log(1 - s))
    expected = {"mean": each.mean(), "sum": each.sum(), "none": each}[reduction]
    loss = nn.BCEWithLogitsLoss(weight=w, pos_weight=p, reduction=reduction)
    np.testing.assert_allclose(loss(gp.tensor(z), y).numpy(), expected)
    gradcheck(lambda t: loss(t, y), [z])


def test_binary_cross_entropy_of_large_logits_stays_finite():
    z = gp.tensor(np.array([800.0, -800.0], np.float32), requires_grad=True)
    loss = nn.BCEWithLogitsLoss()(z, np.array([0.0, 1.0], np.float32))
    loss.backward()
    assert loss.item() == 800
    np.testing.assert_array_equal(z.grad, [0.5, -0.5])


def test_mean_squared_error():
    x, y = rng.standard_normal((2, 3)), rng.standard_normal((2, 3))
    np.testing.assert_allclose(nn.MSELoss()(gp.tensor(x), y).item(), ((x - y) ** 2).mean())
    gradcheck(lambda a, b: nn.MSELoss()(a, b), [x, y])


@pytest.mark.parametrize("loss", [nn.MSELoss(), nn.BCEWithLogitsLoss()])
def test_shapes_do_not_broadcast(loss):
    with pytest.raises(gp.ShapeError, match=r"one shape but got \(3, 1\) and \(3,\)"):
        loss(gp.tensor(np.zeros((3, 1))), np.zeros(3))


def test_wrong_options_are_refused():
    with pytest.raises(ValueError, match="reduction"):
        nn.CrossEntropyLoss(reduction="average")
    with pytest.raises(ValueError, match="label_smoothing"):
        nn.CrossEntropyLoss(label_smoothing=1.5)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_losses_and_their_gradients_are_the_same_on_every_device(device, dtype):
    z, wanted = rng.standard_normal((4, 3)).astype(dtype), rng.uniform(0, 1, (4, 3)).astype(dtype)
    labels = np.array([2, -100, 0, 1])
    losses = (
        lambda t: nn.CrossEntropyLoss(weight=[1.0, 2.0, 0.5], label_smoothing=0.1)(t, labels),
        lambda t: nn.SequenceCrossEntropyLoss()(t.reshape(2, 2, 3), np.array([[2, 0], [0, 1]])),
        lambda t: nn.BCEWithLogitsLoss(pos_weight=[1.0, 2.0, 3.0])(t, wanted),
        lambda t: nn.MSELoss(reduction="sum")(t, wanted),
    )
    for loss_of in losses:
        found = []
        for place in (device, "cpu"):
            with gp.use_device(place):
                t = gp.tensor(z.copy(), requires_grad=True)
                loss = loss_of(t)
                loss.backward()
                found.append((loss.item(), to_host(t.grad)))
        (loss, grad), (expected_loss, expected_grad) = found
        rtol = 1e-5 if dtype == np.float32 else 1e-12
        np.testing.assert_allclose(loss, expected_loss, rtol=rtol)
        np.testing.assert_allclose(grad, expected_grad, rtol=rtol, atol=rtol)


def test_the_binary_loss_of_a_single_number():
    gradcheck(lambda z: nn.BCEWithLogitsLoss()(z, np.array(1.0)), [np.array(-0.3)])
