"""The Transformer: encoder and decoder of attention alone (Vaswani et al. 2017).

    encoder    source ids -> vectors and positions -> layers of self-attention -> memory
    decoder    target ids so far -> vectors and positions -> layers that also attend to the memory -> logits

Padding costs nothing in training: only rows of real tokens go through the layers.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from .. import ops
from ..backend.arrays import Array, to_device, to_host
from ..backprop import no_grad
from ..errors import DataError
from ..nn.embedding import Embedding
from ..nn.layer_norm import LayerNorm
from ..nn.linear import Linear
from ..nn.module import Module, ModuleList
from ..nn.transformer import NORMS, Cache, TransformerDecoderLayer, TransformerEncoderLayer, stack
from ..ops.feed_forward import ACTIVATIONS
from ..ops.packing import Packing
from ..tensors import Tensor
from .configured import MOST_LAYERS, MOST_UNITS, check_table, choice, probability, whole
from .decoding import evaluating
from .encoder_decoder import TIED, EncoderDecoder, vocabulary_config
from .positioned_embedding import POSITIONS, PositionedEmbedding


class TransformerEncoder(Module):
    """ids (B, S), mask (B, S) -> memory, rows of the real tokens (N, E), and where they stand."""

    def __init__(self, embedding: PositionedEmbedding, layers: int, sizes: tuple[Any, ...]) -> None:
        self.embedding = embedding
        self.layers = ModuleList([TransformerEncoderLayer(*sizes) for _ in range(layers)])
        self.norm = LayerNorm(sizes[0])

    def forward(self, ids: Any, mask: Any = None) -> tuple[Tensor, Packing]:
        ids, real = self.embedding.readable("Transformer", ids, mask)
        return stack(self.layers, self.norm, self.embedding(ids, real), real), real


class TransformerDecoder(Module):
    """ids (B, T) and memory (N, E), and where the real tokens of each stand -> logits of real ids (M, V)."""

    def __init__(
        self, embedding: PositionedEmbedding, vocabulary_size: int, layers: int, sizes: tuple[Any, ...],
        tied: bool,
    ) -> None:  # fmt: skip
        self.embedding = embedding
        self.layers = ModuleList([TransformerDecoderLayer(*sizes) for _ in range(layers)])
        self.norm = LayerNorm(sizes[0])
        self.output = Linear(sizes[0], vocabulary_size)
        if tied:
            self.output.weight = embedding.table.weight

    def forward(self, ids: Array, real: Packing, memory: Tensor, remembered: Packing) -> Tensor:
        y = stack(self.layers, self.norm, self.embedding(ids, real), memory, real, remembered)
        return self.output(y)


@dataclass(frozen=True)
class TransformerState:
    """Between two steps: for each decoder layer the keys and values of the memory and of the tokens so far,
    (N, heads, L, E / heads); how many those are; and the source row of each of the N rows."""

    memory: tuple[Cache, ...]
    memory_mask: Array
    past: tuple[Cache, ...] | None
    place: int
    origin: np.ndarray[Any, Any]


class Transformer(EncoderDecoder):
    """An encoder and a decoder of `num_layers` layers each.

    embedding_dim: width of the model. feedforward: width inside the feed-forward networks. norm: "pre" or
    "post"; activation: "relu" or "gelu"; see `nn.TransformerEncoderLayer`. positions: "sinusoidal", for any
    length, or "learned", for texts of at most max_positions. tied: which tables are one (see `TIED`).
    """

    def __init__(
        self,
        source_vocabulary_size: int,
        target_vocabulary_size: int,
        embedding_dim: int = 256,
        num_heads: int = 4,
        feedforward: int = 1024,
        num_layers: int = 3,
        dropout: float = 0.1,
        norm: str = "pre",
        activation: str = "relu",
        positions: str = "sinusoidal",
        max_positions: int = 512,
        tied: str = "none",
        padding_idx: int = 0,
        bos_idx: int = 2,
        eos_idx: int = 3,
    ) -> None:
        config: dict[str, Any] = {
            "embedding_dim": whole("embedding_dim", embedding_dim, MOST_UNITS),
            "num_heads": whole("num_heads", num_heads, MOST_UNITS),
            "feedforward": whole("feedforward", feedforward, MOST_UNITS),
            "num_layers": whole("num_layers", num_layers, MOST_LAYERS),
            "dropout": probability("dropout", dropout),
            "norm": choice("norm", norm, NORMS),
            "activation": choice("activation", activation, ACTIVATIONS),
            "positions": choice("positions", positions, POSITIONS),
            "max_positions": whole("max_positions", max_positions, MOST_UNITS),
            "tied": choice("tied", tied, TIED),
        }
        vocabularies = vocabulary_config(
            source_vocabulary_size, target_vocabulary_size, padding_idx, bos_idx, eos_idx, tied, embedding_dim
        )
        if embedding_dim % num_heads:
            raise DataError(f"embedding_dim {embedding_dim} is not a multiple of num_heads {num_heads}")
        check_table("the feed-forward network", feedforward, embedding_dim)
        self._config = vocabularies | config
        sizes = (embedding_dim, num_heads, feedforward, dropout, activation, norm)
        source, target = (
            PositionedEmbedding(rows, embedding_dim, padding_idx, positions, max_positions, dropout)
            for rows in (source_vocabulary_size, target_vocabulary_size)
        )
        self.encoder = TransformerEncoder(source, num_layers, sizes)
        self.decoder = TransformerDecoder(target, target_vocabulary_size, num_layers, sizes, tied != "none")
        if tied == "all":
            source.table.weight = target.table.weight

    def forward(self, source: Any, source_mask: Any, target_in: Any, target_mask: Any = None) -> Tensor:
        memory, remembered = self.encoder(source, source_mask)
        ids, real = self.decoder.embedding.readable("Transformer", target_in, target_mask)
        logits: Tensor = self.decoder(ids, real, memory, remembered)
        return logits if target_mask is not None else ops.unpack(logits, real)

    @property
    def source_table(self) -> Embedding:
        return self.encoder.embedding.table

    @property
    def longest(self) -> int | None:
        return self.encoder.embedding.longest

    def alignment(self, source: Any, source_mask: Any, target_in: Any) -> np.ndarray[Any, Any]:
        """Of the last layer's attention over the memory, the mean over its heads."""
        with evaluating(self), no_grad():
            memory, remembered = self.encoder(source, source_mask)
            ids, real = self.decoder.embedding.readable("Transformer", target_in, None)
            y = self.decoder.embedding(ids, real)
            *before, last = self._decoder_layers()
            for layer in before:
                y = layer(y, memory, real, remembered)
            y, memory = ops.unpack(y, real), ops.unpack(memory, remembered)
            return to_host(last.looks_at(y, memory, real, remembered).data)

    def start(self, source: Any, mask: Any = None) -> TransformerState:
        memory, real = self.encoder(source, mask)
        cached = tuple(layer.remember(memory, real) for layer in self._decoder_layers())
        return TransformerState(cached, real.mask, None, 0, np.arange(len(source)))

    def step(self, tokens: np.ndarray[Any, Any], state: TransformerState) -> tuple[Array, TransformerState]:
        decoder, past = self.decoder, []
        y = decoder.embedding.at(to_device(tokens, decoder.norm.weight.device), state.place)
        for i, layer in enumerate(self._decoder_layers()):
            before = None if state.past is None else state.past[i]
            y, cache = layer.step(y, before, state.memory[i], state.memory_mask)
            past.append(cache)
        scores = self._next_scores(decoder.output(decoder.norm(y)).data[:, 0])
        return scores, TransformerState(
            state.memory, state.memory_mask, tuple(past), state.place + 1, state.origin
        )

    def reorder(self, state: TransformerState, index: np.ndarray[Any, Any]) -> TransformerState:
        """`Decodable`: choose rows. The memory is copied only where a row turns to another source."""
        rows = to_device(index, state.memory[0][0].device)
        origin, memory, mask = state.origin[index], state.memory, state.memory_mask
        if not np.array_equal(origin, state.origin):
            memory, mask = tuple(_rows(cache, rows) for cache in memory), mask[rows]
        past = None if state.past is None else tuple(_rows(cache, rows) for cache in state.past)
        return TransformerState(memory, mask, past, state.place, origin)

    def _decoder_layers(self) -> list[TransformerDecoderLayer]:
        layers = self.decoder.layers
        return [layer for layer in layers if isinstance(layer, TransformerDecoderLayer)]


def _rows(cache: Cache, rows: Array) -> Cache:
    keys, values = cache
    return Tensor(keys.data[rows]), Tensor(values.data[rows])
