"""The encoder-decoders of `gpuprop_peer` written for PyTorch, which comes in as an argument.

s: the sizes, as in `seq2seq_cases`. A model called with src, tgt_in and tgt_out (batch, length) of token ids,
0 = padding, gives the mean loss of the real target tokens.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from gpuprop.nn.positions import sinusoids

PAD = 0


def gru_seq2seq(torch: Any, s: Mapping[str, Any]) -> Any:
    """A two-way GRU, a GRU that starts from its states, and attention by Luong et al. (2015) over all steps
    at once, or by Bahdanau et al. (2015) in every step."""
    nn, d, bahdanau = torch.nn, s["d"], s["attention"] == "bahdanau"

    class GRUSeq2Seq(nn.Module):  # type: ignore[misc, name-defined]
        def __init__(self) -> None:
            super().__init__()
            self.src_emb = nn.Embedding(s["src_vocab"], d, padding_idx=PAD)
            self.tgt_emb = nn.Embedding(s["tgt_vocab"], d, padding_idx=PAD)
            self.enc = nn.GRU(d, d, batch_first=True, bidirectional=True)
            self.bridge = nn.Linear(2 * d, d)
            self.key = nn.Linear(2 * d, d, bias=False)
            if bahdanau:
                self.dec = nn.GRUCell(3 * d, d)
                self.query, self.score = nn.Linear(d, d, bias=False), nn.Linear(d, 1, bias=False)
            else:
                self.dec = nn.GRU(d, d, batch_first=True)
            self.comb = nn.Linear(3 * d, d)
            self.out = nn.Linear(d, s["tgt_vocab"])

        def forward(self, src: Any, tgt_in: Any, tgt_out: Any) -> Any:
            memory, last = self.enc(self.src_emb(src))
            pad, keys = src == PAD, self.key(memory)
            h = torch.tanh(self.bridge(torch.cat([last[0], last[1]], 1)))
            decode = self.step_by_step if bahdanau else self.at_once
            states, contexts = decode(self.tgt_emb(tgt_in), h, keys, memory, pad)
            o = torch.tanh(self.comb(torch.cat([states, contexts], 2)))
            return cross_entropy(torch, self.out(o), tgt_out)

        def at_once(self, y: Any, h: Any, keys: Any, memory: Any, pad: Any) -> tuple[Any, Any]:
            states, _ = self.dec(y, h.unsqueeze(0))
            energy = torch.bmm(states, keys.transpose(1, 2)).masked_fill(pad.unsqueeze(1), -1e9)
            return states, torch.bmm(torch.softmax(energy, 2), memory)

        def step_by_step(self, y: Any, h: Any, keys: Any, memory: Any, pad: Any) -> tuple[Any, Any]:
            states, contexts = [], []
            for t in range(y.shape[1]):
                energy = self.score(torch.tanh(keys + self.query(h).unsqueeze(1))).squeeze(2)
                weights = torch.softmax(energy.masked_fill(pad, -1e9), 1)
                context = torch.bmm(weights.unsqueeze(1), memory).squeeze(1)
                h = self.dec(torch.cat([y[:, t], context], 1), h)
                states.append(h)
                contexts.append(context)
            return torch.stack(states, 1), torch.stack(contexts, 1)

    return GRUSeq2Seq()


def transformer(torch: Any, s: Mapping[str, Any]) -> Any:
    """A Transformer (Vaswani et al. 2017) with norms after the sums and sinusoidal positions."""
    nn, d, length = torch.nn, s["d"], s["length"]

    class Transformer(nn.Module):  # type: ignore[misc, name-defined]
        def __init__(self) -> None:
            super().__init__()
            self.src_emb = nn.Embedding(s["src_vocab"], d, padding_idx=PAD)
            self.tgt_emb = nn.Embedding(s["tgt_vocab"], d, padding_idx=PAD)
            self.drop = nn.Dropout(s["dropout"])
            self.tf = nn.Transformer(
                d, s["heads"], s["layers"], s["layers"], s["ff"], s["dropout"], batch_first=True
            )
            self.out = nn.Linear(d, s["tgt_vocab"])
            self.register_buffer("positions", torch.from_numpy(sinusoids(length, d)), persistent=False)
            causal = torch.ones(length, length, dtype=torch.bool).triu(1)
            self.register_buffer("causal", causal, persistent=False)

        def forward(self, src: Any, tgt_in: Any, tgt_out: Any) -> Any:
            pad = src == PAD
            x = self.drop(self.src_emb(src) * math.sqrt(d) + self.positions)
            y = self.drop(self.tgt_emb(tgt_in) * math.sqrt(d) + self.positions)
            h = self.tf(
                x, y, tgt_mask=self.causal, src_key_padding_mask=pad, memory_key_padding_mask=pad,
                tgt_is_causal=True,
            )  # fmt: skip
            return cross_entropy(torch, self.out(h), tgt_out, s["smoothing"])

    return Transformer()


def cross_entropy(torch: Any, logits: Any, targets: Any, smoothing: float = 0.0) -> Any:
    """The mean loss over the targets that are no padding."""
    return torch.nn.functional.cross_entropy(
        logits.flatten(0, 1), targets.flatten(), ignore_index=PAD, label_smoothing=smoothing
    )
