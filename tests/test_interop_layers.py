"""Layers with weights from PyTorch: its outputs and its gradients."""

import functools

import numpy as np
import pytest
from torch_peers import DTYPES, agree, arrays, torch, twins

import gpuprop as gp
from gpuprop import nn

MASK = np.arange(5) < np.array([3, 5, 1])[:, None]  # of a batch of 3 texts
MEMORY_MASK = np.arange(4) < np.array([4, 2, 3])[:, None]
PAD, MEMORY_PAD = torch.from_numpy(~MASK), torch.from_numpy(~MEMORY_MASK)
FUTURE = torch.ones(5, 5, dtype=torch.bool).triu(1)
FORMS = [(activation, norm) for activation in ("relu", "gelu") for norm in ("pre", "post")]
tanh_gelu = functools.partial(torch.nn.functional.gelu, approximate="tanh")  # the default there is exact


@pytest.fixture(params=DTYPES)
def dtype(request):
    return request.param


def call(layer, *inputs):
    return layer(*inputs)


@pytest.mark.parametrize("bias", [True, False])
def test_linear(dtype, bias):
    model, peer = twins(nn.Linear(4, 3, bias=bias), torch.nn.Linear(4, 3, bias=bias), dtype)
    agree(model, peer, call, call, arrays(dtype, (2, 5, 4)))


def test_layer_norm(dtype):
    model, peer = twins(nn.LayerNorm(6), torch.nn.LayerNorm(6), dtype)
    agree(model, peer, call, call, arrays(dtype, (2, 5, 6)))


def test_embedding(dtype):
    model, peer = twins(nn.Embedding(7, 3, padding_idx=0), torch.nn.Embedding(7, 3, padding_idx=0), dtype)
    ids = np.array([[1, 5, 0], [6, 1, 1]])
    agree(model, peer, lambda m: m(ids), lambda p: p(torch.from_numpy(ids)), [])


@pytest.mark.parametrize(
    "options",
    [
        {"kernel_size": 3},
        {"kernel_size": 3, "stride": 2, "padding": 2},
        {"kernel_size": 3, "padding": "same", "dilation": 2},
        {"kernel_size": 1, "groups": 2},
        {"kernel_size": 3, "groups": 4, "bias": False},
    ],
    ids=str,
)
def test_conv1d(dtype, options):
    model, peer = twins(nn.Conv1d(4, 8, **options), torch.nn.Conv1d(4, 8, **options), dtype)
    channels_first = lambda layer, x: layer(x.swapaxes(1, 2)).swapaxes(1, 2)  # noqa: E731
    agree(model, peer, call, channels_first, arrays(dtype, (2, 9, 4)))


@pytest.mark.parametrize("cell", ["GRU", "LSTM"])
@pytest.mark.parametrize(("num_layers", "bidirectional"), [(1, False), (2, False), (2, True)])
def test_recurrent(dtype, cell, num_layers, bidirectional):
    sizes = (4, 3, num_layers)
    peer = getattr(torch.nn, cell)(*sizes, bidirectional=bidirectional, batch_first=True)
    model, peer = twins(getattr(nn, cell)(*sizes, bidirectional=bidirectional), peer, dtype)
    lengths = MASK.sum(axis=1)

    def ours(layer, x, *states):
        output, last = layer(x, lengths, states if cell == "LSTM" else states[0])
        return (output, *last) if cell == "LSTM" else (output, last)

    def theirs(layer, x, *states):
        pack, pad = torch.nn.utils.rnn.pack_padded_sequence, torch.nn.utils.rnn.pad_packed_sequence
        packed = pack(x, torch.from_numpy(lengths), batch_first=True, enforce_sorted=False)
        output, last = layer(packed, states if cell == "LSTM" else states[0])
        output = pad(output, batch_first=True, total_length=5)[0]
        return (output, *last) if cell == "LSTM" else (output, last)

    state = (num_layers * (1 + bidirectional), 3, 3)
    agree(model, peer, ours, theirs, arrays(dtype, (3, 5, 4), *[state] * (2 if cell == "LSTM" else 1)))


def test_self_attention(dtype):
    model, peer = twins(
        nn.MultiHeadAttention(6, 2), torch.nn.MultiheadAttention(6, 2, batch_first=True), dtype
    )
    agree(
        model, peer,
        lambda m, x: m(x, x, x, MASK, causal=True),
        lambda p, x: p(x, x, x, key_padding_mask=PAD, attn_mask=FUTURE, need_weights=False)[0],
        arrays(dtype, (3, 5, 6)),
    )  # fmt: skip


def test_attention_over_another_text(dtype):
    model, peer = twins(
        nn.MultiHeadAttention(6, 3), torch.nn.MultiheadAttention(6, 3, batch_first=True), dtype
    )
    agree(
        model, peer,
        lambda m, q, k, v: m(q, k, v, MEMORY_MASK),
        lambda p, q, k, v: p(q, k, v, key_padding_mask=MEMORY_PAD, need_weights=False)[0],
        arrays(dtype, (3, 5, 6), (3, 4, 6), (3, 4, 6)),
    )  # fmt: skip


def peer_layer(kind, activation, norm):
    activation = tanh_gelu if activation == "gelu" else activation
    return kind(6, 2, 8, 0.0, activation, batch_first=True, norm_first=norm == "pre")


def encoder(layer, x):
    return layer(x, src_key_padding_mask=PAD)


def decoder(layer, x, memory):
    return layer(
        x, memory, tgt_mask=FUTURE, tgt_key_padding_mask=PAD, memory_key_padding_mask=MEMORY_PAD
    )  # fmt: skip


@pytest.mark.parametrize(("activation", "norm"), FORMS)
def test_transformer_encoder_layer(dtype, activation, norm):
    layer = nn.TransformerEncoderLayer(6, 2, 8, 0.0, activation, norm)
    model, peer = twins(layer, peer_layer(torch.nn.TransformerEncoderLayer, activation, norm), dtype)
    agree(model, peer, lambda m, x: m(x, MASK), encoder, arrays(dtype, (3, 5, 6)), where=MASK[..., None])


@pytest.mark.parametrize(("activation", "norm"), FORMS)
def test_transformer_decoder_layer(dtype, activation, norm):
    layer = nn.TransformerDecoderLayer(6, 2, 8, 0.0, activation, norm)
    model, peer = twins(layer, peer_layer(torch.nn.TransformerDecoderLayer, activation, norm), dtype)
    ours = lambda m, x, memory: m(x, memory, MASK, MEMORY_MASK)  # noqa: E731
    agree(model, peer, ours, decoder, arrays(dtype, (3, 5, 6), (3, 4, 6)), where=MASK[..., None])


class Stack(nn.Module):
    """Layers and a norm, under the names of PyTorch's TransformerEncoder and TransformerDecoder."""

    def __init__(self, kind, norm):
        self.layers = nn.ModuleList([kind(6, 2, 8, 0.0, "relu", norm) for _ in range(2)])
        self.norm = nn.LayerNorm(6)

    def forward(self, x, *others):
        for layer in self.layers:
            x = layer(x, *others)
        return self.norm(x)


@pytest.mark.parametrize("norm", ["pre", "post"])
def test_transformer_encoder(dtype, norm):
    layer = peer_layer(torch.nn.TransformerEncoderLayer, "relu", norm)
    peer = torch.nn.TransformerEncoder(layer, 2, torch.nn.LayerNorm(6), enable_nested_tensor=False)
    model, peer = twins(Stack(nn.TransformerEncoderLayer, norm), peer, dtype)
    agree(model, peer, lambda m, x: m(x, MASK), encoder, arrays(dtype, (3, 5, 6)), where=MASK[..., None])


@pytest.mark.parametrize("norm", ["pre", "post"])
def test_transformer_decoder(dtype, norm):
    layer = peer_layer(torch.nn.TransformerDecoderLayer, "relu", norm)
    peer = torch.nn.TransformerDecoder(layer, 2, torch.nn.LayerNorm(6))
    model, peer = twins(Stack(nn.TransformerDecoderLayer, norm), peer, dtype)
    ours = lambda m, x, memory: m(x, memory, MASK, MEMORY_MASK)  # noqa: E731
    agree(model, peer, ours, decoder, arrays(dtype, (3, 5, 6), (3, 4, 6)), where=MASK[..., None])


def test_the_exact_gelu_is_near_ours_and_can_be_had():
    """What the guide says about weights trained with PyTorch's default."""
    x = np.linspace(-6, 6, 4001)
    theirs = torch.nn.functional.gelu(torch.from_numpy(x)).numpy()
    assert 4e-4 < np.abs(gp.tensor(x).gelu().data - theirs).max() < 5e-4
    np.testing.assert_allclose(gp.tensor(x).gelu("none").data, theirs, rtol=0, atol=1e-14)
