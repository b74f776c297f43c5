"""Layers of the Transformer: gradients, packed rows, masks, and steps over cached keys and values."""

import numpy as np
import pytest

import gpuprop as gp
from gpuprop import nn
from gpuprop.nn.transformer import stack
from gpuprop.ops import pack
from gpuprop.tensors import Parameter

KINDS = [("post", "relu"), ("pre", "relu"), ("pre", "gelu")]
MASK = np.array([[True, True, True], [True, False, False]])
MEMORY_MASK = np.array([[True, True, False, False], [True, True, True, True]])


def layer_of(kind, norm, activation, dropout=0.0):
    """A small layer in float64."""
    gp.manual_seed(3)
    layer = kind(4, 2, 6, dropout, activation=activation, norm=norm)
    rng = np.random.default_rng(0)
    for module in layer.modules():
        for name, value in list(vars(module).items()):
            if isinstance(value, Parameter):
                stored = value.numpy().astype(np.float64) + 0.1 * rng.standard_normal(value.shape)
                setattr(module, name, Parameter(stored, value.order))
    return layer.to(gp.get_device())


def inputs():
    rng = np.random.default_rng(1)
    return rng.standard_normal((2, 3, 4)), rng.standard_normal((2, 4, 4))


@pytest.mark.parametrize(("norm", "activation"), KINDS)
def test_gradients_of_an_encoder_layer(norm, activation):
    layer = layer_of(nn.TransformerEncoderLayer, norm, activation)
    x, _ = inputs()
    gp.gradcheck(lambda x, *_: pack(layer(x, MASK), MASK), [x, *layer.parameters()])


@pytest.mark.parametrize(("norm", "activation"), KINDS)
def test_gradients_of_a_decoder_layer(norm, activation):
    layer = layer_of(nn.TransformerDecoderLayer, norm, activation)
    gp.gradcheck(
        lambda x, m, *_: pack(layer(x, m, MASK, MEMORY_MASK), MASK), [*inputs(), *layer.parameters()]
    )


@pytest.mark.parametrize(("norm", "activation"), KINDS)
def test_packed_rows_give_the_rows_of_the_padded_batch(norm, activation, device):
    x, memory = (gp.tensor(a) for a in inputs())
    encoder = layer_of(nn.TransformerEncoderLayer, norm, activation)
    padded = pack(encoder(x, MASK), MASK).numpy()
    np.testing.assert_allclose(encoder(pack(x, MASK), MASK).numpy(), padded, rtol=1e-12)
    decoder = layer_of(nn.TransformerDecoderLayer, norm, activation)
    padded = pack(decoder(x, memory, MASK, MEMORY_MASK), MASK).numpy()
    packed = decoder(pack(x, MASK), pack(memory, MEMORY_MASK), MASK, MEMORY_MASK).numpy()
    np.testing.assert_allclose(packed, padded, rtol=1e-12)


@pytest.mark.parametrize(("norm", "activation"), KINDS)
def test_steps_over_the_cache_are_the_layer(norm, activation, device):
    layer = layer_of(nn.TransformerDecoderLayer, norm, activation)
    x, memory = (gp.tensor(a) for a in inputs())
    whole = layer(x, memory, None, MEMORY_MASK).numpy()
    cached, past = layer.remember(memory, MEMORY_MASK), None
    for t in range(3):
        y, past = layer.step(x[:, t : t + 1], past, cached, MEMORY_MASK)
        np.testing.assert_allclose(y.numpy()[:, 0], whole[:, t], rtol=1e-12)


@pytest.mark.parametrize("kind", [nn.TransformerEncoderLayer, nn.TransformerDecoderLayer])
@pytest.mark.parametrize("norm", ["pre", "post"])
def test_a_stack_is_its_layers_one_after_another(kind, norm, device):
    """With the same random bits; on a CPU results and gradients are the very same."""
    found = []
    for together in (True, False):
        layers, last = [layer_of(kind, norm, "gelu", dropout=0.3).train() for _ in range(2)], nn.LayerNorm(4)
        last = last.to(gp.get_device())
        gp.backend.random.state.calls.clear()
        x, memory = (gp.tensor(a, requires_grad=True) for a in inputs())
        others = (MASK,) if kind is nn.TransformerEncoderLayer else (memory, MASK, MEMORY_MASK)
        if together:
            y = stack(layers, last, x, *others)
        else:
            y = x
            for layer in layers:
                y = layer(y, *others)
            y = last(y)
        y.backward(gp.tensor(inputs()[0]).data)
        found.append(
            [y.numpy(), *(gp.Tensor(p.grad).numpy() for layer in layers for p in layer.parameters())]
        )
    for got, want in zip(*found, strict=True):
        tolerance = 0 if device == "cpu" else 1e-12
        np.testing.assert_allclose(got, want, rtol=tolerance, atol=tolerance)


def test_attention_to_look_at_adds_up_to_one_over_real_tokens():
    layer = layer_of(nn.TransformerDecoderLayer, "pre", "relu")
    x, memory = (gp.tensor(a) for a in inputs())
    weights = layer.looks_at(x, memory, MASK, MEMORY_MASK).numpy()
    assert weights.shape == (2, 3, 4)
    np.testing.assert_allclose(weights.sum(axis=-1), 1.0)
    assert not weights[~np.broadcast_to(MEMORY_MASK[:, None], weights.shape)].any()


@pytest.mark.parametrize("kind", [nn.TransformerEncoderLayer, nn.TransformerDecoderLayer])
def test_packed_rows_drop_what_the_padded_batch_drops(kind):
    layer = layer_of(kind, "post", "relu", dropout=0.3).train()
    x, memory = (gp.tensor(a) for a in inputs())
    memory = () if kind is nn.TransformerEncoderLayer else (memory,)
    masks = (MASK, MEMORY_MASK)[: 1 + len(memory)]
    gp.backend.random.state.calls.clear()
    padded = pack(layer(x, *memory, *masks), MASK).numpy()
    gp.backend.random.state.calls.clear()
    np.testing.assert_allclose(layer(pack(x, MASK), *memory, *masks).numpy(), padded, rtol=1e-12)


def test_dropout_acts_in_training_only():
    layer = layer_of(nn.TransformerEncoderLayer, "pre", "relu", dropout=0.5)
    x = gp.tensor(inputs()[0])
    assert not np.array_equal(layer.train()(x).numpy(), layer(x).numpy())
    np.testing.assert_array_equal(layer.eval()(x).numpy(), layer(x).numpy())


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"norm": "both"}, "norm is one of pre, post"),
        ({"activation": "tanh"}, "activation is one of relu, gelu"),
    ],
)
def test_unknown_options_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        nn.TransformerEncoderLayer(4, 2, 6, **options)
