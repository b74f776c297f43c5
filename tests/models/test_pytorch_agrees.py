"""Encoder-decoders made of PyTorch's own layers, with the same weights: the same logits and gradients."""

import numpy as np
import pytest
from model_checks import assert_close, random_texts
from torch_peers import DTYPES, TOLERANCE, same_gradients, torch, twins

import gpuprop as gp
from gpuprop.models import Seq2Seq, Transformer

BOS, EOS, ROWS, SIZE = 2, 3, 11, 6
functional = torch.nn.functional


class PeerEncoder(torch.nn.Module):
    def __init__(self, cell, num_layers):
        super().__init__()
        self.embedding = torch.nn.Embedding(ROWS, SIZE, padding_idx=0)
        self.rnn = cell(SIZE, SIZE, num_layers, bidirectional=True, batch_first=True)

    def forward(self, ids, mask):
        pack, pad = torch.nn.utils.rnn.pack_padded_sequence, torch.nn.utils.rnn.pad_packed_sequence
        packed = pack(self.embedding(ids), mask.sum(dim=1), batch_first=True, enforce_sorted=False)
        output, states = self.rnn(packed)
        output, _ = pad(output, batch_first=True, total_length=ids.shape[1])
        states = states if isinstance(states, tuple) else (states,)
        return output, [torch.cat([s[0::2], s[1::2]], dim=2) for s in states]


class PeerDecoder(torch.nn.Module):
    def __init__(self, cell, num_layers, attention, feeding):
        super().__init__()
        self.feeding, self.attention = feeding, attention
        self.embedding = torch.nn.Embedding(ROWS, SIZE, padding_idx=0)
        self.rnn = cell(SIZE + SIZE * feeding, SIZE, num_layers, batch_first=True)
        self.key = torch.nn.Linear(2 * SIZE, SIZE, bias=False)
        if attention == "additive":
            self.query = torch.nn.Linear(SIZE, SIZE, bias=False)
            self.score = torch.nn.Linear(SIZE, 1, bias=False)
        self.combine = torch.nn.Linear(3 * SIZE, SIZE)
        self.output = torch.nn.Linear(SIZE, ROWS)

    def attend(self, h, memory, mask):
        keys = self.key(memory)
        if self.attention == "additive":
            energy = self.score((self.query(h)[:, :, None] + keys[:, None]).tanh())[..., 0]
        else:
            energy = h @ keys.mT / SIZE**0.5
        context = energy.masked_fill(~mask[:, None], -torch.inf).softmax(dim=2) @ memory
        return self.combine(torch.cat([context, h], dim=2)).tanh()

    def forward(self, ids, states, memory, mask):
        x = self.embedding(ids)
        states = tuple(states) if isinstance(self.rnn, torch.nn.LSTM) else states[0]
        if not self.feeding:
            return self.output(self.attend(self.rnn(x, states)[0], memory, mask))
        attended = [torch.zeros_like(x[:, :1])]
        for t in range(ids.shape[1]):
            h, states = self.rnn(torch.cat([x[:, t : t + 1], attended[-1]], dim=2), states)
            attended.append(self.attend(h, memory, mask))
        return self.output(torch.cat(attended[1:], dim=1))


class PeerSeq2Seq(torch.nn.Module):
    def __init__(self, cell, num_layers, attention, feeding, tied):
        super().__init__()
        kind = getattr(torch.nn, cell.upper())
        self.encoder = PeerEncoder(kind, num_layers)
        states = num_layers * (2 if cell == "lstm" else 1)
        self.bridge = torch.nn.ModuleList([torch.nn.Linear(2 * SIZE, SIZE) for _ in range(states)])
        self.decoder = PeerDecoder(kind, num_layers, attention, feeding)
        tie(self.encoder.embedding, self.decoder.embedding, self.decoder.output, tied)

    def forward(self, source, mask, target_in):
        memory, finals = self.encoder(source, mask)
        bridge = iter(self.bridge)
        states = [torch.stack([next(bridge)(layer).tanh() for layer in final]) for final in finals]
        return self.decoder(target_in, states, memory, mask)


class PeerTransformer(torch.nn.Module):
    """The usual wrapping of nn.Transformer: vectors times √E, positions, and a layer to the vocabulary."""

    def __init__(self, activation, norm, tied, learned):
        super().__init__()
        self.source = torch.nn.Embedding(ROWS, SIZE, padding_idx=0)
        self.target = torch.nn.Embedding(ROWS, SIZE, padding_idx=0)
        self.learned = learned
        if learned:
            self.source_positions = torch.nn.Embedding(9, SIZE)
            self.target_positions = torch.nn.Embedding(9, SIZE)
        else:
            self.register_buffer("table", sinusoids())
        layer = {"dropout": 0.0, "batch_first": True, "norm_first": norm == "pre", "activation": activation}
        E, D = torch.nn.TransformerEncoderLayer, torch.nn.TransformerDecoderLayer
        norms = [torch.nn.LayerNorm(SIZE) for _ in range(2)]
        encoder = torch.nn.TransformerEncoder(E(SIZE, 2, 8, **layer), 2, norms[0], enable_nested_tensor=False)
        decoder = torch.nn.TransformerDecoder(D(SIZE, 2, 8, **layer), 2, norms[1])
        self.transformer = torch.nn.Transformer(
            SIZE, 2, batch_first=True, custom_encoder=encoder, custom_decoder=decoder
        )
        self.generator = torch.nn.Linear(SIZE, ROWS)
        tie(self.source, self.target, self.generator, tied)

    def vectors(self, ids, embedding, side):
        places = torch.arange(ids.shape[1])
        positions = getattr(self, side + "_positions")(places) if self.learned else self.table[places]
        return embedding(ids) * SIZE**0.5 + positions

    def forward(self, source, mask, target_in):
        y = self.transformer(
            self.vectors(source, self.source, "source"),
            self.vectors(target_in, self.target, "target"),
            src_key_padding_mask=~mask, memory_key_padding_mask=~mask,
            tgt_mask=torch.ones(target_in.shape[1], target_in.shape[1], dtype=torch.bool).triu(1),
            tgt_key_padding_mask=target_in == 0,
        )  # fmt: skip
        return self.generator(y)


def sinusoids():
    angle = torch.arange(9)[:, None] / 10000.0 ** (torch.arange(0, SIZE, 2, dtype=torch.float64) / SIZE)
    return torch.stack([angle.sin(), angle.cos()], dim=2).reshape(9, SIZE).float()


def tie(source, target, output, tied):
    if tied != "none":
        output.weight = target.weight
    if tied == "all":
        source.weight = target.weight


SEQ2SEQ_NAMES = {"encoder.rnn": "encoder.cell", "decoder.rnn": "decoder.cell", "bridge": "bridge.layers"}
DOT_NAMES = {"decoder.key": "decoder.attention.project"}
ADDITIVE_NAMES = {f"decoder.{n}": f"decoder.attention.additive.{n}" for n in ("key", "query", "score")}
TRANSFORMER_NAMES = {
    "transformer": "",
    "source": "encoder.embedding.table",
    "target": "decoder.embedding.table",
    "source_positions": "encoder.embedding.positions",
    "target_positions": "decoder.embedding.positions",
    "generator": "decoder.output",
    "table": None,
}


def compare(model, peer):
    """Logits of real tokens, and every gradient of the mean loss over them."""
    source, mask = random_texts([5, 2, 3], ROWS, seed=1)
    words, _ = random_texts([4, 1, 2], ROWS, seed=2)
    target_in = np.concatenate([np.full((3, 1), BOS), words], axis=1)
    target_mask = target_in != 0
    target_out = np.where(target_mask, np.concatenate([words, np.zeros_like(words[:, :1])], axis=1), -100)
    target_out[np.arange(3), [4, 1, 2]] = EOS
    tolerance = TOLERANCE[str(next(model.parameters()).dtype)]
    logits = model(source, mask, target_in)
    expected = peer(*(torch.from_numpy(a) for a in (source, mask, target_in)))
    assert_close(logits.data[target_mask], expected.detach().numpy()[target_mask], tolerance)
    gp.nn.SequenceCrossEntropyLoss()(logits, target_out).backward()
    functional.cross_entropy(expected.mT, torch.from_numpy(target_out)).backward()


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(
    ("cell", "num_layers", "attention", "feeding", "tied"),
    [
        ("gru", 1, "dot", False, "none"),
        ("gru", 2, "additive", True, "target"),
        ("lstm", 2, "dot", True, "all"),
        ("lstm", 1, "additive", False, "none"),
    ],
)
def test_recurrent(dtype, cell, num_layers, attention, feeding, tied):
    model = Seq2Seq(
        ROWS, ROWS, SIZE, SIZE, num_layers, cell, attention, input_feeding=feeding, tied=tied
    )  # fmt: skip
    names = SEQ2SEQ_NAMES | (DOT_NAMES if attention == "dot" else ADDITIVE_NAMES)
    model, peer = twins(model, PeerSeq2Seq(cell, num_layers, attention, feeding, tied), dtype, names)
    compare(model, peer)
    same_gradients(model, peer, names)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(
    ("activation", "norm", "tied", "positions"),
    [
        ("relu", "post", "none", "sinusoidal"),
        ("relu", "pre", "all", "sinusoidal"),
        ("gelu", "pre", "target", "learned"),
    ],
)
def test_transformer(dtype, activation, norm, tied, positions):
    model = Transformer(
        ROWS, ROWS, SIZE, 2, 8, 2, 0.0, norm, activation, positions, max_positions=9, tied=tied
    )  # fmt: skip
    act = (lambda x: functional.gelu(x, approximate="tanh")) if activation == "gelu" else activation
    peer = PeerTransformer(act, norm, tied, positions == "learned")
    model, peer = twins(model, peer, dtype, TRANSFORMER_NAMES)
    compare(model, peer)
    same_gradients(model, peer, TRANSFORMER_NAMES)
