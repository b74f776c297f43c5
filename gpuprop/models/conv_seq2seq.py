"""Encoder and decoder of gated convolutions, with attention in every decoder layer (Gehring et al. 2017).

    encoder    source ids -> vectors and positions -> gated convolutions -> keys z and values z + e
    decoder    target ids so far -> vectors and positions -> causal gated convolutions, each with attention
               over the encoder's positions -> logits

Only rows of real tokens go through the layers, as in the Transformer; each convolution sees zeros at padding.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from .. import ops
from ..backend.arrays import Array, get_xp, to_device, to_host
from ..backprop import no_grad
from ..nn import init
from ..nn.conv import Conv1d
from ..nn.dropout import Dropout
from ..nn.embedding import Embedding
from ..nn.linear import Linear
from ..nn.module import Module, ModuleList, Sequential
from ..ops.packing import Packing
from ..tensors import Tensor
from .attention import Memory
from .configured import MOST_LAYERS, MOST_UNITS, check_table, choice, probability, whole
from .decoding import evaluating
from .encoder_decoder import TIED, EncoderDecoder, vocabulary_config
from .positioned_embedding import POSITIONS, PositionedEmbedding

HALF = math.sqrt(0.5)  # keeps the variance of a sum of two (section 3.4)


def linear(inputs: int, outputs: int, kept: float = 1.0) -> Linear:
    """A Linear that keeps its input's variance: normal with standard deviation √(kept / inputs), kept = the
    share of inputs that dropout keeps; bias 0 (section 3.5)."""
    layer = Linear(inputs, outputs)
    layer.weight = init.normal((outputs, inputs), math.sqrt(kept / inputs), order=layer.weight.order)
    layer.bias = init.constant((outputs,))
    return layer


def projection(inputs: int, outputs: int) -> Sequential:
    """A linear map between two widths; nothing where they are one."""
    return Sequential(*[linear(inputs, outputs)] if inputs != outputs else [])


class GatedConv1d(Module):
    """dropout, a convolution to twice the channels, and a GLU, which halves them.   (..., C) -> (..., C)

    The weights start normal with standard deviation √(3 kept / inputs): of inputs with variance 1 the gate,
    near a half and spread by its own variance, lets a third through. (Section 3.5 and appendix A say 4, for
    inputs so small that every gate is a half.) padding: "same", or "causal".
    """

    def __init__(self, channels: int, kernel_size: int, dropout: float, padding: str) -> None:
        self.dropout = Dropout(dropout)
        self.conv = Conv1d(channels, 2 * channels, kernel_size, padding=padding)
        weight = self.conv.weight
        spread = math.sqrt(3.0 * (1.0 - dropout) / (kernel_size * channels))
        self.conv.weight = init.normal(weight.shape, spread, order=weight.order)
        self.conv.bias = init.constant((2 * channels,))

    def forward(self, x: Tensor, real: Packing) -> Tensor:
        """x, the rows of the real tokens (N, C) -> (N, C)."""
        y = self.conv(ops.unpack(self.dropout(x, real), real))
        return ops.pack(y, real).glu()

    def step(self, x: Tensor, past: Tensor) -> tuple[Tensor, Tensor]:
        """x (N, 1, C), the inputs before it (N, kernel_size - 1, C) -> (N, 1, C), and the inputs before the
        next."""
        window = ops.concatenate([past, self.dropout(x)], axis=1)
        return ops.conv1d(window, self.conv.weight, self.conv.bias).glu(), window[:, 1:]


class ConvEncoder(Module):
    """ids (B, S), mask (B, S) -> what the decoder attends to.

    Keys are the last layer's outputs z, values √½ (z + e), e the token vectors (section 3.3). The paper's
    factor √m for a text of m tokens makes up for what a mean over all of them loses; our energies have
    variance 1, so that attention begins with a few tokens, and then it would only blow the values up.
    """

    def __init__(
        self, embedding: PositionedEmbedding, width: int, channels: int, layers: int, kernel_size: int,
        dropout: float,
    ) -> None:  # fmt: skip
        self.embedding = embedding
        self.input = projection(width, channels)
        self.layers = ModuleList([GatedConv1d(channels, kernel_size, dropout, "same") for _ in range(layers)])
        self.output = projection(channels, width)

    def forward(self, ids: Any, mask: Any = None) -> Memory:
        ids, real = self.embedding.readable("ConvSeq2Seq", ids, mask)
        e = self.embedding(ids, real)
        x = self.input(e)
        for layer in self.layers:
            x = (layer(x, real) + x) * HALF
        z = self.output(x)
        return Memory(ops.unpack((z + e) * HALF, real), ops.unpack(z, real), real.mask)


class ConvDecoderLayer(Module):
    """A gated convolution of what came before, and attention over the memory.

    d = W h + b + e: the query, of the convolution's output h and the token vectors e (equation 1). Unlike
    there, energies d · z are divided by √E, as our vectors have variance 1 and theirs 0.01.
    """

    def __init__(self, width: int, channels: int, kernel_size: int, dropout: float) -> None:
        self.block = GatedConv1d(channels, kernel_size, dropout, "causal")
        self.query = linear(channels, width)
        self.context = projection(width, channels)

    def forward(self, x: Tensor, e: Tensor, real: Packing, memory: Memory) -> tuple[Tensor, Tensor]:
        """x (N, C) and e (N, E), rows of the real tokens -> (N, C), and the attention's weights (B, T, S)."""
        h = self.block(x, real)
        context, weights = self._look(ops.unpack(self._ask(h, e), real), memory)
        return self._sum(x, h, ops.pack(context, real)), weights

    def step(self, x: Tensor, e: Tensor, past: Tensor, memory: Memory) -> tuple[Tensor, Tensor]:
        """x (N, 1, C), e (N, 1, E) and what `GatedConv1d.step` needs -> (N, 1, C), and the same for the next
        token."""
        h, past = self.block.step(x, past)
        context, _ = self._look(self._ask(h, e), memory)
        return self._sum(x, h, context), past

    def _ask(self, h: Tensor, e: Tensor) -> Tensor:
        return (self.query(h) + e) * HALF

    def _look(self, query: Tensor, memory: Memory) -> tuple[Tensor, Tensor]:
        return ops.attention(query, memory.keys, memory.values, memory.mask)

    def _sum(self, x: Tensor, h: Tensor, context: Tensor) -> Tensor:
        return ((h + self.context(context)) * HALF + x) * HALF


class ConvDecoder(Module):
    """ids (B, T), where their real tokens stand, memory -> logits of the real tokens (N, V)."""

    def __init__(
        self, embedding: PositionedEmbedding, vocabulary_size: int, width: int, channels: int, layers: int,
        kernel_size: int, dropout: float, tied: bool,
    ) -> None:  # fmt: skip
        self.embedding = embedding
        self.input = projection(width, channels)
        self.layers = ModuleList(
            [ConvDecoderLayer(width, channels, kernel_size, dropout) for _ in range(layers)]
        )
        self.last = projection(channels, width)
        self.dropout = Dropout(dropout)
        self.output = linear(width, vocabulary_size, 1.0 - dropout)
        if tied:
            self.output.weight = embedding.table.weight

    def forward(self, ids: Array, real: Packing, memory: Memory) -> tuple[Tensor, list[Tensor]]:
        """The logits, and each layer's weights of the attention (B, T, S)."""
        e = self.embedding(ids, real)
        x, looks = self.input(e), []
        for layer in self.layers:
            x, weights = layer(x, e, real, memory)
            looks.append(weights)
        return self.logits(x, real), looks

    def logits(self, x: Tensor, real: Packing | None = None) -> Tensor:
        """x (..., C), or rows (N, C) of the real tokens -> (..., V)"""
        y: Tensor = self.output(self.dropout(self.last(x), real))
        return y


@dataclass(frozen=True)
class ConvState:
    """Between two steps: what the decoder attends to; for each of its layers the last inputs (N, kernel_size
    - 1, C), zeros before the first token; the position of the next token; and the source row of each of the
    N rows."""

    memory: Memory
    past: tuple[Tensor, ...]
    place: int
    origin: np.ndarray[Any, Any]


class ConvSeq2Seq(EncoderDecoder):
    """An encoder and a decoder of `num_layers` gated convolutions each.

    embedding_dim: of token vectors, keys and values. channels: of the convolutions; linear maps stand
    between where the two differ. kernel_size: positions that a convolution sees. positions: "sinusoidal", for
    any length, or "learned", as in the paper, for texts of at most max_positions. dropout: on token vectors,
    before each convolution and before the output. tied: which tables are one (see `TIED`).

    The paper also normalises weights and divides the encoder's gradients by the number of attentions; an
    optimizer that scales each gradient itself, as Adam does, needs neither.
    """

    def __init__(
        self,
        source_vocabulary_size: int,
        target_vocabulary_size: int,
        embedding_dim: int = 256,
        channels: int = 256,
        num_layers: int = 4,
        kernel_size: int = 3,
        dropout: float = 0.1,
        positions: str = "sinusoidal",
        max_positions: int = 512,
        tied: str = "none",
        padding_idx: int = 0,
        bos_idx: int = 2,
        eos_idx: int = 3,
    ) -> None:
        config: dict[str, Any] = {
            "embedding_dim": whole("embedding_dim", embedding_dim, MOST_UNITS),
            "channels": whole("channels", channels, MOST_UNITS),
            "num_layers": whole("num_layers", num_layers, MOST_LAYERS),
            "kernel_size": whole("kernel_size", kernel_size, MOST_UNITS),
            "dropout": probability("dropout", dropout),
            "positions": choice("positions", positions, POSITIONS),
            "max_positions": whole("max_positions", max_positions, MOST_UNITS),
            "tied": choice("tied", tied, TIED),
        }
        vocabularies = vocabulary_config(
            source_vocabulary_size, target_vocabulary_size, padding_idx, bos_idx, eos_idx, tied, embedding_dim
        )
        check_table("a convolution", 2 * channels, kernel_size * channels)
        self._config = vocabularies | config
        source, target = (
            PositionedEmbedding(rows, embedding_dim, padding_idx, positions, max_positions, dropout)
            for rows in (source_vocabulary_size, target_vocabulary_size)
        )
        sizes = (embedding_dim, channels, num_layers, kernel_size, dropout)
        self.encoder = ConvEncoder(source, *sizes)
        self.decoder = ConvDecoder(target, target_vocabulary_size, *sizes, tied != "none")
        if tied == "all":
            source.table.weight = target.table.weight

    def forward(self, source: Any, source_mask: Any, target_in: Any, target_mask: Any = None) -> Tensor:
        memory = self.encoder(source, source_mask)
        ids, real = self.decoder.embedding.readable("ConvSeq2Seq", target_in, target_mask)
        logits: Tensor = self.decoder(ids, real, memory)[0]
        return logits if target_mask is not None else ops.unpack(logits, real)

    @property
    def source_table(self) -> Embedding:
        return self.encoder.embedding.table

    @property
    def longest(self) -> int | None:
        return self.encoder.embedding.longest

    def alignment(self, source: Any, source_mask: Any, target_in: Any) -> np.ndarray[Any, Any]:
        """The mean of all layers' attention."""
        with evaluating(self), no_grad():
            memory = self.encoder(source, source_mask)
            ids, real = self.decoder.embedding.readable("ConvSeq2Seq", target_in, None)
            _, looks = self.decoder(ids, real, memory)
            return to_host(sum(weights.data for weights in looks) / len(looks))

    def start(self, source: Any, mask: Any = None) -> ConvState:
        memory = self.encoder(source, mask)
        values = memory.values.data
        shape = (len(values), self._config["kernel_size"] - 1, self._config["channels"])
        past = Tensor(get_xp(values).zeros(shape, values.dtype))
        return ConvState(memory, (past,) * self._config["num_layers"], 0, np.arange(len(source)))

    def step(self, tokens: np.ndarray[Any, Any], state: ConvState) -> tuple[Array, ConvState]:
        decoder, pasts = self.decoder, []
        e = decoder.embedding.at(to_device(tokens, state.past[0].device), state.place)
        x = decoder.input(e)
        for layer, past in zip(decoder.layers, state.past, strict=True):
            assert isinstance(layer, ConvDecoderLayer)
            x, past = layer.step(x, e, past, state.memory)
            pasts.append(past)
        scores = self._next_scores(decoder.logits(x).data[:, 0])
        return scores, replace(state, past=tuple(pasts), place=state.place + 1)

    def reorder(self, state: ConvState, index: np.ndarray[Any, Any]) -> ConvState:
        """`Decodable`: choose rows. The memory is copied only where a row turns to another source."""
        rows = to_device(index, state.past[0].device)
        origin = state.origin[index]
        same = np.array_equal(origin, state.origin)
        memory = state.memory if same else state.memory.rows(rows)
        return ConvState(memory, tuple(Tensor(p.data[rows]) for p in state.past), state.place, origin)
