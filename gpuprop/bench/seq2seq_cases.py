"""Whole training steps of encoder-decoders: a GRU with either attention, and a Transformer.

The models are those of `gpuprop_peer` and `torch_models`; sizes and batches are those of a small translation.
"""

from __future__ import annotations

from collections.abc import Mapping
from itertools import cycle
from typing import Any

import numpy as np

import gpuprop as gp

from .cases import Case, Work
from .gpuprop_peer import GRUSeq2Seq, Transformer
from .torch_models import gru_seq2seq, transformer

PAD, BOS, EOS = 0, 1, 2
SIZES = {"src_vocab": 8000, "tgt_vocab": 8000, "d": 256, "length": 20, "batch": 64}
GRU = SIZES | {"kind": "gru", "smoothing": 0.0}
TRANSFORMER = SIZES | {"kind": "tfm", "heads": 4, "ff": 1024, "layers": 3, "smoothing": 0.1}
SPECS: dict[str, dict[str, Any]] = {
    "gru_luong": GRU | {"attention": "luong"},
    "gru_bahdanau": GRU | {"attention": "bahdanau"},
    "transformer": TRANSFORMER | {"dropout": 0.1},
    "transformer0": TRANSFORMER | {"dropout": 0.0},
}
SHAPES = {
    "gru_luong": "two-way GRU and GRU of 256, Luong's attention, 8,000 words, 64 pairs of up to 20",
    "gru_bahdanau": "the same with Bahdanau's attention, step by step",
    "transformer": "3 + 3 layers of 256, 4 heads, 8,000 words, 64 pairs of up to 20, dropout 0.1",
    "transformer0": "the same without dropout",
}


def batches(s: Mapping[str, Any], count: int = 4) -> list[dict[str, np.ndarray[Any, Any]]]:
    """Pairs of texts: src, tgt_in and tgt_out (batch, length), from half the length to all of it."""
    rng = np.random.default_rng(2)
    n, length, place = s["batch"], s["length"], np.arange(s["length"])
    made = []
    for _ in range(count):
        src_len, tgt_len = rng.integers(length // 2, length + 1, (2, n, 1))
        src_len[0] = tgt_len[0] = length
        src, tgt = _words(rng, s["src_vocab"], (n, length)), _words(rng, s["tgt_vocab"], (n, length))
        tgt_in = np.concatenate([np.full((n, 1), BOS), tgt[:, :-1]], axis=1)
        tgt_out = np.where(place == tgt_len - 1, EOS, tgt)
        src[place >= src_len] = tgt_in[place >= tgt_len] = tgt_out[place >= tgt_len] = PAD
        made.append({"src": src, "tgt_in": tgt_in, "tgt_out": tgt_out})
    return made


def _words(rng: np.random.Generator, vocab: int, shape: tuple[int, ...]) -> np.ndarray[Any, Any]:
    """Ids from 3 on, with frequencies that fall as 1 / rank (Zipf's law)."""
    total = np.cumsum(1 / (np.arange(vocab - 3) + 2.7))
    return np.minimum(np.searchsorted(total / total[-1], rng.random(shape)), vocab - 4) + 3


def ours(s: Mapping[str, Any]) -> Work:
    """A step of our model, on the batches in turn."""
    gp.manual_seed(0)
    model = (GRUSeq2Seq if s["kind"] == "gru" else Transformer)(s)
    return _step(model, gp.optim.Adam(model.parameters(), lr=1e-12), batches(s))


def theirs(torch: Any, s: Mapping[str, Any]) -> Work:
    """The same step of PyTorch's."""
    torch.manual_seed(0)
    model = (gru_seq2seq if s["kind"] == "gru" else transformer)(torch, s)
    data = [{name: torch.from_numpy(a) for name, a in batch.items()} for batch in batches(s)]
    return _step(model, torch.optim.Adam(model.parameters(), lr=1e-12), data)


def _step(model: Any, optimizer: Any, data: list[dict[str, Any]]) -> Work:
    """One training step; the two libraries are called alike."""
    turns = cycle(data)

    def work() -> float:
        optimizer.zero_grad()
        loss = model(**next(turns))
        loss.backward()
        optimizer.step()
        return float(loss.item())

    return work


def seq2seq_cases() -> list[Case]:
    """A case for each model."""
    return [_case(name, SHAPES[name], s) for name, s in SPECS.items()]


def _case(name: str, shape: str, s: Mapping[str, Any]) -> Case:
    return Case(name, shape, lambda: ours(s), lambda torch: theirs(torch, s))
