"""The models of the CPU bench, written with gpuprop's public face as a user would write them.

`build(s, params, variant, threads)` makes one training step: s holds the model's dimensions, params its
initial weights in PyTorch's names and layouts.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

import gpuprop as gp
from gpuprop import nn

VERSION = gp.__version__
MODELS = {"mlp", "cnn", "gru", "tfm"}
PAD = 0

Batch = dict[str, Any]


class MLP(nn.Module):
    def __init__(self, s: Mapping[str, Any]) -> None:
        self.net = nn.FeedForward(s["dims"])
        self.criterion = nn.CrossEntropyLoss()

    def forward(self, x: Any, y: Any) -> gp.Tensor:
        return self.criterion(self.net(x), y)


class CNN(nn.Module):
    def __init__(self, s: Mapping[str, Any]) -> None:
        self.emb = nn.Embedding(s["vocab"], s["emb"], padding_idx=PAD)
        self.features = nn.ConvMaxOverTime(s["emb"], s["filters"], s["widths"])
        self.drop = nn.Dropout(s["dropout"])
        self.fc = nn.Linear(s["filters"] * len(s["widths"]), s["classes"])
        self.criterion = nn.CrossEntropyLoss()

    def forward(self, x: Any, y: Any) -> gp.Tensor:
        return self.criterion(self.fc(self.drop(self.features(self.emb(x)))), y)


class GRUSeq2Seq(nn.Module):
    def __init__(self, s: Mapping[str, Any]) -> None:
        d = s["d"]
        self.bahdanau = s["attention"] == "bahdanau"
        self.src_emb = nn.Embedding(s["src_vocab"], d, padding_idx=PAD)
        self.tgt_emb = nn.Embedding(s["tgt_vocab"], d, padding_idx=PAD)
        self.enc = nn.GRU(d, d, bidirectional=True)
        self.bridge = nn.Linear(2 * d, d)
        if self.bahdanau:
            self.attention = nn.AdditiveAttention(d, 2 * d, d)
            self.dec = nn.GRU(3 * d, d)
        else:
            self.key = nn.Linear(2 * d, d, bias=False)
            self.attend = nn.DotProductAttention(scale=1.0)
            self.dec = nn.GRU(d, d)
        self.comb = nn.Linear(3 * d, d)
        self.out = nn.Linear(d, s["tgt_vocab"])
        self.criterion = nn.CrossEntropyLoss()

    def forward(self, src: Any, tgt_in: Any, tgt_out: Any) -> gp.Tensor:
        mask = src != PAD
        memory, last = self.enc(self.src_emb(src))
        h = self.bridge(gp.concatenate([last[0], last[1]], axis=1)).tanh().reshape(1, len(src), -1)
        y = self.tgt_emb(tgt_in)
        if self.bahdanau:
            states, contexts = [], []
            keys = self.attention.project(memory)
            for t in range(y.shape[1]):
                context, _ = self.attention(h.swapaxes(0, 1), memory, mask, projected=keys)
                state, h = self.dec(gp.concatenate([y[:, t : t + 1], context], axis=2), h0=h)
                states.append(state)
                contexts.append(context)
            hs, cs = gp.concatenate(states, axis=1), gp.concatenate(contexts, axis=1)
        else:
            hs, _ = self.dec(y, h0=h)
            cs, _ = self.attend(hs, self.key(memory), memory, mask)
        real = tgt_out != PAD
        o = self.comb(gp.ops.pack(gp.concatenate([hs, cs], axis=2), real)).tanh()
        return self.criterion(self.out(o), tgt_out[real])


class Block(nn.Module):
    """A post-norm Transformer layer of the encoder, or of the decoder when it has memory to attend to."""

    def __init__(self, d: int, heads: int, ff: int, dropout: float, decoder: bool) -> None:
        self.self_attn = nn.MultiHeadAttention(d, heads, dropout)
        self.multihead_attn = nn.MultiHeadAttention(d, heads, dropout) if decoder else None
        self.feed = nn.FeedForward((d, ff, d), dropout=dropout)
        self.norms = [nn.LayerNorm(d) for _ in range(3 if decoder else 2)]
        self.drops = [nn.Dropout(dropout) for _ in range(3 if decoder else 2)]

    def forward(self, x: Any, mask: Any, memory: Any = None, memory_mask: Any = None) -> gp.Tensor:
        causal = self.multihead_attn is not None
        attended = self.self_attn(x, x, x, mask, causal=causal, query_mask=mask)
        x = self.norms[0](x + self.drops[0](attended))
        if self.multihead_attn is not None:
            attended = self.multihead_attn(x, memory, memory, memory_mask, query_mask=mask)
            x = self.norms[1](x + self.drops[1](attended))
        return self.norms[-1](x + self.drops[-1](self.feed(x)))


class Transformer(nn.Module):
    def __init__(self, s: Mapping[str, Any]) -> None:
        d = s["d"]
        self.scale = math.sqrt(d)
        self.src_emb = nn.Embedding(s["src_vocab"], d, padding_idx=PAD)
        self.tgt_emb = nn.Embedding(s["tgt_vocab"], d, padding_idx=PAD)
        self.positions = nn.SinusoidalPositions(d)
        self.drops = [nn.Dropout(s["dropout"]) for _ in range(2)]
        sizes = (d, s["heads"], s["ff"], s["dropout"])
        self.encoder = [Block(*sizes, decoder=False) for _ in range(s["layers"])]
        self.decoder = [Block(*sizes, decoder=True) for _ in range(s["layers"])]
        self.encoder_norm, self.decoder_norm = nn.LayerNorm(d), nn.LayerNorm(d)
        self.out = nn.Linear(d, s["tgt_vocab"])
        self.criterion = nn.CrossEntropyLoss(label_smoothing=s["smoothing"])

    def forward(self, src: Any, tgt_in: Any, tgt_out: Any) -> gp.Tensor:
        mask, real = src != PAD, tgt_in != PAD  # only rows of real tokens go through the layers
        x = self.drops[0](self.embedded(self.src_emb, src, mask))
        for block in self.encoder:
            x = block(x, mask)
        memory = self.encoder_norm(x)
        y = self.drops[1](self.embedded(self.tgt_emb, tgt_in, real))
        for block in self.decoder:
            y = block(y, real, memory, mask)
        return self.criterion(self.out(self.decoder_norm(y)), tgt_out[real])

    def embedded(self, table: nn.Embedding, ids: Any, mask: Any) -> gp.Tensor:
        return self.positions(table(ids[mask]) * self.scale, np.nonzero(mask)[1], ids.shape[1])


def our_name(name: str, s: Mapping[str, Any]) -> str:
    """PyTorch's name of a weight -> ours."""
    if s["kind"] == "mlp":
        return name.replace("fc", "net.layers.")
    for i, width in enumerate(s.get("widths", ())):
        name = name.replace(f"conv{width}.", f"features.convolutions.{i}.")
    if s["kind"] == "gru" and s["attention"] == "bahdanau":
        if name.startswith("dec."):
            name += "_l0"
        elif name.startswith(("query.", "key.", "score.")):
            name = "attention." + name
    for side in ("encoder", "decoder"):
        name = name.replace(f"tf.{side}.layers.", f"{side}.").replace(f"tf.{side}.norm", f"{side}_norm")
    for i in (1, 2, 3):
        name = name.replace(f".norm{i}.", f".norms.{i - 1}.")
        name = name.replace(f".linear{i}.", f".feed.layers.{i - 1}.")
    return name


def load(model: nn.Module, params: Mapping[str, Any], s: Mapping[str, Any]) -> None:
    """Copy PyTorch's weights; a convolution is (out, in, width) there and (out, width, in) here."""
    state = {our_name(name, s): a.swapaxes(1, 2) if a.ndim == 3 else a for name, a in params.items()}
    model.load_state_dict(state)


def build(
    s: Mapping[str, Any], params: Mapping[str, Any], variant: str, threads: int
) -> tuple[Callable[[Batch], Batch], Callable[[Batch], float]]:
    gp.manual_seed(0)
    gp.set_num_threads(threads)
    model = {"mlp": MLP, "cnn": CNN, "gru": GRUSeq2Seq, "tfm": Transformer}[s["kind"]](s)
    load(model, params, s)
    optimizer = gp.optim.Adam(model.parameters(), lr=s["lr"])

    def step(batch: Batch) -> float:
        optimizer.zero_grad()
        loss = model(**batch)
        loss.backward()
        optimizer.step()
        return float(loss.item())

    return lambda batch: batch, step
