"""Conv1d layer: shapes, padding, weights, messages; tests/ops/test_conv1d.py checks the numbers in full."""

import numpy as np
import pytest

import gpuprop as gp
from gpuprop import nn
from gpuprop.errors import ShapeError
from gpuprop.testing import gradcheck


def draw(seed, *shape):
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def reference(layer, x, left, right):
    """One output position at a time."""
    weight, groups = layer.weight.numpy(), layer.groups
    x = np.pad(x, ((0, 0), (left, right), (0, 0)))
    reach = (layer.kernel_size - 1) * layer.dilation
    columns = []
    for start in range(0, x.shape[1] - reach, layer.stride):
        window = x[:, start : start + reach + 1 : layer.dilation]
        parts = zip(np.split(window, groups, axis=2), np.split(weight, groups, axis=0), strict=True)
        columns.append(np.concatenate([np.einsum("bkc,okc->bo", w, v) for w, v in parts], 1))
    return np.stack(columns, 1) + (0 if layer.bias is None else layer.bias.numpy())


@pytest.mark.parametrize(
    ("options", "sides"),
    [
        ({}, (0, 0)),
        ({"padding": 2, "stride": 2}, (2, 2)),
        ({"padding": (3, 1)}, (3, 1)),
        ({"padding": "same", "dilation": 2}, (2, 2)),
        ({"padding": "same", "kernel_size": 2}, (0, 1)),
        ({"padding": "causal", "dilation": 2}, (4, 0)),
        ({"groups": 2, "bias": False}, (0, 0)),
        ({"groups": 4, "padding": "causal"}, (2, 0)),
    ],
)
def test_geometry(device, options, sides):
    layer = nn.Conv1d(4, 8, **({"kernel_size": 3} | options))
    x = draw(0, 2, 7, 4)
    y = layer(gp.tensor(x))
    expected = reference(layer, x, *sides)
    assert y.shape == expected.shape
    np.testing.assert_allclose(y.numpy(), expected, rtol=1e-4, atol=1e-5)
    if options.get("padding") in ("same", "causal"):
        assert y.shape[1] == 7


def test_causal_sees_nothing_later(device):
    layer, x = nn.Conv1d(3, 4, 3, padding="causal", dilation=2), draw(1, 1, 8, 3)
    before = layer(gp.tensor(x)).numpy()
    x[:, 5:] += 1
    after = layer(gp.tensor(x)).numpy()
    np.testing.assert_allclose(after[:, :5], before[:, :5], rtol=1e-5, atol=1e-6)
    assert not np.allclose(after[:, 5:], before[:, 5:])


def test_weights(device):
    gp.manual_seed(1)
    layer = nn.Conv1d(8, 6, 5, groups=2)
    assert layer.weight.shape == (6, 5, 4)
    assert layer.weight.data.transpose(1, 2, 0).flags.c_contiguous
    bound = 1 / np.sqrt(5 * 4)  # kaiming uniform with a = √5 (He et al. 2015), as in PyTorch
    for parameter in (layer.weight, layer.bias):
        assert np.abs(parameter.numpy()).max() <= bound
    assert np.abs(layer.weight.numpy()).max() > 0.9 * bound
    assert [name for name, _ in nn.Conv1d(2, 3, 1, bias=False).named_parameters()] == ["weight"]


def test_gradients(device):
    layer = nn.Conv1d(2, 4, 2, stride=2, padding=1, groups=2)
    for parameter in layer.parameters():
        parameter.data = parameter.data.astype(np.float64)
    x = gp.tensor(draw(2, 2, 4, 2).astype(np.float64), requires_grad=True)
    gradcheck(lambda x, *_: layer(x), [x, *layer.parameters()])


def test_repr():
    assert repr(nn.Conv1d(2, 3, 4)).startswith("Conv1d(2, 3, kernel_size=4)")
    layer = nn.Conv1d(2, 4, 3, 1, "same", 2, 2, False)
    assert repr(layer).startswith(
        "Conv1d(2, 4, kernel_size=3, padding='same', dilation=2, groups=2, bias=False)"
    )


def test_messages():
    layer = nn.Conv1d(300, 8, 5)
    with pytest.raises(ShapeError) as caught:
        layer(np.zeros((50, 300, 56), np.float32))
    assert str(caught.value) == (
        "Conv1d expects (batch, length, 300) but got (50, 300, 56): "
        "text is channels last; use x.swapaxes(1, 2)"
    )
    with pytest.raises(ShapeError, match=r"length of at least 5 .*window of 5.*\(2, 4, 300\): pad the batch"):
        layer(np.zeros((2, 4, 300), np.float32))
    with pytest.raises(ShapeError, match=r"length of at least 3 .*window of 7"):
        nn.Conv1d(3, 4, 4, padding=2, dilation=2)(np.zeros((2, 2, 3), np.float32))
    with pytest.raises(ShapeError, match="batch axis is missing"):
        layer(np.zeros((9, 300), np.float32))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"kernel_size": 0}, "kernel_size must be an integer of at least 1, not 0"),
        ({"dilation": 0}, "dilation must be"),
        ({"padding": -1}, "padding must be an integer of at least 0"),
        ({"padding": "valid"}, "padding must be an integer of at least 0"),
        ({"padding": (1, 2, 3)}, r"not \(1, 2, 3\)"),
        ({"padding": "same", "stride": 2}, "keeps the length, which stride=2 cannot"),
        ({"groups": 3}, "in_channels 4 is not a multiple of groups 3"),
        ({"groups": 4, "out_channels": 6}, "out_channels 6 is not a multiple of groups 4"),
    ],
)
def test_constructor_arguments(options, message):
    with pytest.raises(ValueError, match=message):
        nn.Conv1d(**({"in_channels": 4, "out_channels": 8, "kernel_size": 3} | options))


@pytest.mark.parametrize(
    "options", [{}, {"padding": "same", "dilation": 2}, {"padding": 1, "stride": 2, "groups": 2}]
)
def test_pytorch_agrees(options):
    torch = pytest.importorskip("torch")
    layer = nn.Conv1d(4, 6, 3, **options)
    peer = torch.nn.Conv1d(4, 6, 3, **options)
    with torch.no_grad():
        peer.weight.copy_(torch.from_numpy(layer.weight.numpy().swapaxes(1, 2).copy()))
        peer.bias.copy_(torch.from_numpy(layer.bias.numpy()))
    x = draw(3, 2, 9, 4)
    leaf, other = (
        gp.tensor(x, requires_grad=True),
        torch.from_numpy(x).swapaxes(1, 2).clone().requires_grad_(),
    )
    y, expected = layer(leaf), peer(other)
    (y * y).sum().backward()
    (expected * expected).sum().backward()
    np.testing.assert_allclose(y.numpy(), expected.detach().numpy().swapaxes(1, 2), rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(leaf.grad, other.grad.numpy().swapaxes(1, 2), rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(
        layer.weight.grad, peer.weight.grad.numpy().swapaxes(1, 2), rtol=1e-4, atol=1e-3
    )
