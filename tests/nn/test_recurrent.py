"""GRU and LSTM layers: names, layers, directions, lengths, states, dropout, messages."""

import numpy as np
import pytest

import gpuprop as gp
from gpuprop import nn
from gpuprop.backend.arrays import to_host
from gpuprop.errors import DataError, ShapeError

LAYERS = [nn.GRU, nn.LSTM]
GATES = {nn.GRU: 3, nn.LSTM: 4}


def in_float64(module):
    """A copy of the layer's weights in float64."""
    for parameter in module.parameters():
        parameter.data = parameter.data.astype(np.float64)
    return module


def text(seed, *shape):
    return np.random.default_rng(seed).standard_normal(shape)


def last_states(last):
    return last if isinstance(last, tuple) else (last,)


def run(layer, x, lengths=None, state=None):
    """(output, last states..., dL/dx, dL/dparameters...) on the host."""
    layer.zero_grad()
    leaf = gp.tensor(x, requires_grad=True)
    output, last = layer(leaf, lengths, state)
    total = (output * output).sum()
    for s in last_states(last):
        total = total + (s * s * s).sum()
    total.backward()
    grads = [to_host(p.grad) for p in layer.parameters()]
    return [output.numpy(), *(s.numpy() for s in last_states(last)), to_host(leaf.grad), *grads]


@pytest.mark.parametrize("kind", LAYERS)
def test_names_shapes_and_initial_weights(kind):
    gp.manual_seed(3)
    layer = kind(5, 4, num_layers=2, bidirectional=True)
    rows = GATES[kind] * 4
    shapes = {name: p.shape for name, p in layer.named_parameters()}
    expected = {}
    for suffix, width in (("l0", 5), ("l0_reverse", 5), ("l1", 8), ("l1_reverse", 8)):
        expected |= {
            f"weight_ih_{suffix}": (rows, width), f"weight_hh_{suffix}": (rows, 4),
            f"bias_ih_{suffix}": (rows,), f"bias_hh_{suffix}": (rows,),
        }  # fmt: skip
    assert shapes == expected
    values = np.concatenate([p.numpy().ravel() for p in layer.parameters()])
    assert values.dtype == np.float32
    assert np.abs(values).max() <= 0.5  # 1 / sqrt(4)
    assert np.abs(values).max() > 0.49
    assert abs(values.mean()) < 0.05
    assert layer.weight_ih_l0.data.T.flags.c_contiguous  # input-major memory
    gp.manual_seed(3)
    again = kind(5, 4, num_layers=2, bidirectional=True)
    for a, b in zip(layer.parameters(), again.parameters(), strict=True):
        np.testing.assert_array_equal(a.numpy(), b.numpy())


@pytest.mark.parametrize("kind", LAYERS)
@pytest.mark.parametrize("bidirectional", [False, True])
def test_layers_and_directions_are_composed(device, kind, bidirectional):
    layer = in_float64(kind(3, 4, num_layers=2, bidirectional=bidirectional))
    lengths = np.array([5, 2, 4])
    x, directions = text(0, 3, 5, 3), 1 + bidirectional
    output, last = layer(gp.tensor(x), lengths)
    assert output.shape == (3, 5, 4 * directions)
    for s in last_states(last):
        assert s.shape == (2 * directions, 3, 4)
    h_n = last_states(last)[0].numpy()
    for row, n in enumerate(lengths):
        np.testing.assert_allclose(h_n[-directions, row], output.numpy()[row, n - 1, :4], rtol=1e-12)
        assert not output.numpy()[row, n:].any()
        if bidirectional:  # the second direction ends at the first token
            np.testing.assert_allclose(h_n[-1, row], output.numpy()[row, 0, 4:], rtol=1e-12)


@pytest.mark.parametrize("kind", LAYERS)
def test_padding_further_and_rows_alone(device, kind):
    layer = in_float64(kind(3, 4, num_layers=2, bidirectional=True))
    x, lengths = text(1, 3, 5, 3), np.array([5, 1, 3])
    states = 1 if kind is nn.GRU else 2
    result = run(layer, x, lengths)
    longer = run(layer, np.pad(x, ((0, 0), (0, 3), (0, 0)), constant_values=8.0), lengths)
    assert not longer[0][:, 5:].any()
    longer[0], longer[1 + states] = longer[0][:, :5], longer[1 + states][:, :5]
    for a, b in zip(longer, result, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-10, atol=1e-13)
    alone = [run(layer, x[i : i + 1, :n]) for i, n in enumerate(lengths)]
    for i, n in enumerate(lengths):
        np.testing.assert_allclose(alone[i][0][0], result[0][i, :n], rtol=1e-10)
        np.testing.assert_allclose(alone[i][1][:, 0], result[1][:, i], rtol=1e-10)
        np.testing.assert_allclose(alone[i][1 + states][0], result[1 + states][i, :n], rtol=1e-10, atol=1e-13)
    for k in range(2 + states, len(result)):  # the rows' gradients of the weights add up to the batch's
        np.testing.assert_allclose(sum(a[k] for a in alone), result[k], rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("kind", LAYERS)
def test_float32_padding_stays_within_rounding(device, kind):
    layer = kind(3, 4, bidirectional=True)
    x, lengths = text(2, 2, 6, 3).astype(np.float32), [6, 2]
    output, _ = layer(gp.tensor(x), lengths)
    longer, _ = layer(gp.tensor(np.pad(x, ((0, 0), (0, 20), (0, 0)))), lengths)
    assert output.dtype == np.float32
    np.testing.assert_allclose(longer.numpy()[:, :6], output.numpy(), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("kind", LAYERS)
def test_lengths_or_a_mask(device, kind):
    layer = kind(3, 4, bidirectional=True)
    x = gp.tensor(text(3, 2, 4, 3).astype(np.float32))
    by_lengths, _ = layer(x, [4, 2])
    by_tensor, _ = layer(x, gp.tensor(np.array([4, 2])))
    by_mask, _ = layer(x, mask=np.array([[True] * 4, [True, True, False, False]]))
    np.testing.assert_array_equal(by_lengths.numpy(), by_tensor.numpy())
    np.testing.assert_array_equal(by_lengths.numpy(), by_mask.numpy())


@pytest.mark.parametrize("kind", LAYERS)
def test_a_sequence_in_two_halves_is_the_whole(device, kind):
    layer = in_float64(kind(3, 4, num_layers=2))
    x = text(4, 2, 6, 3)
    whole = run(layer, x)
    layer.zero_grad()
    leaf = gp.tensor(x, requires_grad=True)
    first, state = layer(leaf[:, :2], None, None)
    second, last = layer(leaf[:, 2:], None, state)
    total = (first * first).sum() + (second * second).sum()
    for s in last_states(last):
        total = total + (s * s * s).sum()
    total.backward()  # through the state that was handed on
    parts = [np.concatenate([first.numpy(), second.numpy()], 1), *(s.numpy() for s in last_states(last))]
    parts += [to_host(leaf.grad), *(to_host(p.grad) for p in layer.parameters())]
    for a, b in zip(parts, whole, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("kind", LAYERS)
def test_dropout_between_layers_in_training_only(device, kind):
    gp.manual_seed(0)
    layer = kind(3, 16, num_layers=2, dropout=0.5)
    x = gp.tensor(text(5, 2, 4, 3).astype(np.float32))
    trained, _ = layer(x)
    again, _ = layer(x)
    assert not np.allclose(trained.numpy(), again.numpy())  # another mask each time
    layer.eval()
    evaluated, _ = layer(x)
    layer.dropout = 0.0
    layer.train()
    np.testing.assert_array_equal(evaluated.numpy(), layer(x)[0].numpy())
    assert not np.allclose(trained.numpy(), evaluated.numpy())
    single = kind(3, 4, dropout=0.5)  # one layer has nothing between
    np.testing.assert_array_equal(single(x)[0].numpy(), single(x)[0].numpy())


@pytest.mark.parametrize("kind", LAYERS)
def test_state_dict_round_trip(kind):
    a, b = kind(3, 4, bidirectional=True), kind(3, 4, bidirectional=True)
    x = gp.tensor(text(6, 2, 3, 3).astype(np.float32))
    assert not np.allclose(a(x)[0].numpy(), b(x)[0].numpy())
    b.load_state_dict(a.state_dict())
    np.testing.assert_array_equal(a(x)[0].numpy(), b(x)[0].numpy())


def test_messages():
    gru, lstm = nn.GRU(3, 4, num_layers=2), nn.LSTM(3, 4)
    x = np.zeros((2, 5, 3), np.float32)
    with pytest.raises(ShapeError, match=r"GRU expects \(batch, length, 3\) but got \(2, 3, 5\).*swapaxes"):
        gru(x.swapaxes(1, 2))
    with pytest.raises(ShapeError, match=r"h0 \(layers · directions, batch, hidden\) = \(2, 2, 4\) but got"):
        gru(x, None, np.zeros((1, 2, 4), np.float32))
    with pytest.raises(ShapeError, match=r"lengths \(2,\), one a row, but got \(3,\)"):
        gru(x, [1, 2, 3])
    with pytest.raises(DataError, match=r"from 0 to 5.*got 2 to 6"):
        gru(x, [2, 6])
    with pytest.raises(ShapeError, match=r"a mask \(2, 5\) but got \(2, 4\)"):
        gru(x, mask=np.ones((2, 4), bool))
    with pytest.raises(ValueError, match="not both"):
        gru(x, [1, 2], mask=np.ones((2, 5), bool))
    with pytest.raises(ShapeError, match=r"pair \(h0, c0\)"):
        lstm(x, None, np.zeros((1, 2, 4), np.float32))


@pytest.mark.parametrize("kind", LAYERS)
@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"hidden_size": 0}, "hidden_size must be an integer of at least 1, not 0"),
        ({"num_layers": 1.5}, "num_layers must be an integer"),
        ({"dropout": 1.0}, "at least 0 and below 1, not 1.0"),
        ({"bidirectional": 2}, "bidirectional must be True or False"),
    ],
)
def test_constructor_arguments(kind, options, message):
    with pytest.raises(ValueError, match=message):
        kind(**({"input_size": 3, "hidden_size": 4} | options))


def test_repr():
    assert repr(nn.GRU(3, 4, 2, True, 0.1)).startswith(
        "GRU(3, 4, num_layers=2, bidirectional=True, dropout=0.1)"
    )


@pytest.mark.parametrize("kind", LAYERS)
def test_pytorch_agrees(kind):
    torch = pytest.importorskip("torch")
    options = {"num_layers": 2, "bidirectional": True}
    layer = in_float64(kind(3, 4, **options))
    peer = getattr(torch.nn, kind.__name__)(3, 4, batch_first=True, dtype=torch.float64, **options)
    assert [name for name, _ in peer.named_parameters()] == [name for name, _ in layer.named_parameters()]
    peer.load_state_dict({name: torch.from_numpy(value) for name, value in layer.state_dict().items()})
    x, lengths = text(7, 3, 6, 3), [6, 2, 4]
    leaf = torch.from_numpy(x).requires_grad_()
    pack, unpack = torch.nn.utils.rnn.pack_padded_sequence, torch.nn.utils.rnn.pad_packed_sequence
    packed, last = peer(pack(leaf, torch.tensor(lengths), batch_first=True, enforce_sorted=False))
    output, _ = unpack(packed, batch_first=True)
    total = (output * output).sum()
    for s in last_states(last):
        total = total + (s * s * s).sum()
    total.backward()
    expected = [output, *last_states(last), leaf.grad, *(p.grad for p in peer.parameters())]
    for a, b in zip(run(layer, x, lengths), expected, strict=True):
        np.testing.assert_allclose(a, b.detach().numpy(), rtol=1e-8, atol=1e-12)
