"""The models of the GPU bench's training steps in both libraries: those of `gpuprop_peer` and `torch_models`,
but ours without packed rows: no shape of a captured step may depend on a mask."""

from __future__ import annotations

import functools
from collections.abc import Mapping
from itertools import pairwise
from typing import Any

import gpuprop as gp
from gpuprop import nn
from gpuprop.nn.positions import sinusoids

from .gpu_data import torch_array
from .gpuprop_peer import CNN, MLP, PAD, GRUSeq2Seq, Transformer, our_name
from .torch_models import gru_seq2seq, transformer


class PaddedGRU(GRUSeq2Seq):
    """Luong's attention over all steps at once; padding has no loss."""

    def __init__(self, s: Mapping[str, Any]) -> None:
        super().__init__(s)
        self.criterion = nn.CrossEntropyLoss(ignore_index=PAD)

    def forward(self, src: Any, tgt_in: Any, tgt_out: Any) -> gp.Tensor:
        memory, last = self.enc(self.src_emb(src))
        h = self.bridge(gp.concatenate([last[0], last[1]], axis=1)).tanh().reshape(1, len(src), -1)
        hs, _ = self.dec(self.tgt_emb(tgt_in), h0=h)
        cs, _ = self.attend(hs, self.key(memory), memory, src != PAD)
        return self.criterion(self.out(self.comb(gp.concatenate([hs, cs], axis=2)).tanh()), tgt_out)


class PaddedTransformer(Transformer):
    """All positions go through the layers; padding is no key and has no loss."""

    def __init__(self, s: Mapping[str, Any]) -> None:
        super().__init__(s)
        self.table = gp.tensor(sinusoids(s["length"], s["d"]).astype("float32"))
        self.criterion = nn.CrossEntropyLoss(ignore_index=PAD, label_smoothing=s["smoothing"])

    def forward(self, src: Any, tgt_in: Any, tgt_out: Any) -> gp.Tensor:
        mask = src != PAD
        x = self.drops[0](self.src_emb(src) * self.scale + self.table)
        for layer, norm in ((block, block.norms) for block in self.encoder):
            x = norm[0](x + layer.drops[0](layer.self_attn(x, x, x, mask)))
            x = norm[1](x + layer.drops[-1](layer.feed(x)))
        memory = self.encoder_norm(x)
        y = self.drops[1](self.tgt_emb(tgt_in) * self.scale + self.table)
        for layer, norm in ((block, block.norms) for block in self.decoder):
            assert layer.multihead_attn is not None
            y = norm[0](y + layer.drops[0](layer.self_attn(y, y, y, causal=True)))
            y = norm[1](y + layer.drops[1](layer.multihead_attn(y, memory, memory, mask)))
            y = norm[2](y + layer.drops[-1](layer.feed(y)))
        return self.criterion(self.out(self.decoder_norm(y)), tgt_out)


OURS = {"mlp": MLP, "cnn": CNN, "gru": PaddedGRU, "tfm": PaddedTransformer}


def build(s: Mapping[str, Any]) -> nn.Module:
    """Our model of kind s["kind"] on the current device, the same weights each time."""
    gp.manual_seed(0)
    return OURS[s["kind"]](s)


def build_torch(torch: Any, s: Mapping[str, Any], precision: str) -> Any:
    """PyTorch's model on the CPU, with the weights of `build` as this precision keeps them."""
    state = _weights(tuple(s.items()))
    model = {"mlp": torch_mlp, "cnn": torch_cnn, "gru": gru_seq2seq, "tfm": transformer}[s["kind"]](torch, s)
    with torch.no_grad():
        for name, p in model.named_parameters():
            values = torch_array(torch, state[our_name(name, s)], "cpu", precision)
            p.copy_(values.transpose(1, 2) if values.ndim == 3 else values)
    return model


@functools.lru_cache(maxsize=1)
def _weights(sizes: tuple[tuple[str, Any], ...]) -> dict[str, Any]:
    """Those of `build`, drawn once for all works of a row."""
    with gp.use_device("cpu"):
        return build(dict(sizes)).state_dict()


def torch_mlp(torch: Any, s: Mapping[str, Any]) -> Any:
    """A perceptron, called with x (B, inputs) and classes (B,) for its mean loss."""

    class MLP(torch.nn.Module):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self.count = len(s["dims"]) - 1
            for i, (a, b) in enumerate(pairwise(s["dims"])):
                setattr(self, f"fc{i}", torch.nn.Linear(a, b))

        def forward(self, x: Any, y: Any) -> Any:
            for i in range(self.count):
                x = getattr(self, f"fc{i}")(x)
                x = torch.relu(x) if i < self.count - 1 else x
            return torch.nn.functional.cross_entropy(x, y)

    return MLP()


def torch_cnn(torch: Any, s: Mapping[str, Any]) -> Any:
    """The classifier of Kim (2014), channels last, called with ids (B, L) and classes (B,)."""

    class CNN(torch.nn.Module):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self.emb = torch.nn.Embedding(s["vocab"], s["emb"], padding_idx=PAD)
            for k in s["widths"]:
                setattr(self, f"conv{k}", torch.nn.Conv1d(s["emb"], s["filters"], k))
            self.drop = torch.nn.Dropout(s["dropout"])
            self.fc = torch.nn.Linear(s["filters"] * len(s["widths"]), s["classes"])

        def forward(self, x: Any, y: Any) -> Any:
            rows = self.emb(x).permute(0, 2, 1).unsqueeze(2)
            layers = [getattr(self, f"conv{k}") for k in s["widths"]]
            parts = [
                torch.nn.functional.conv2d(rows, layer.weight.unsqueeze(2), layer.bias) for layer in layers
            ]
            features = torch.cat([torch.relu(part).amax((2, 3)) for part in parts], 1)
            return torch.nn.functional.cross_entropy(self.fc(self.drop(features)), y)

    return CNN()
