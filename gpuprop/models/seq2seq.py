"""Encoder and decoder trained together: recurrent networks with attention between them.

    encoder    source ids -> states of every position, and the final states
    bridge     final states of the encoder -> first states of the decoder
    decoder    target ids so far, states, attention over the encoder's positions -> logits of the next token

(Sutskever et al. 2014; Bahdanau et al. 2015; the form of the decoder is Luong et al. 2015.)
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from .. import ops
from ..backend.arrays import Array, get_xp, to_device, to_host
from ..backprop import no_grad
from ..errors import DataError
from ..nn.dropout import Dropout
from ..nn.embedding import Embedding
from ..nn.linear import Linear
from ..nn.module import Module, ModuleList
from ..nn.recurrent import GRU, LSTM
from ..tensors import Tensor
from .attention import ATTENTIONS, GlobalAttention, Memory
from .classifier import token_ids
from .configured import MOST_LAYERS, MOST_UNITS, choice, probability, truth, whole
from .decoding import evaluating
from .encoder_decoder import TIED, EncoderDecoder, vocabulary_config

CELLS = {"gru": GRU, "lstm": LSTM}

States = tuple[Tensor, ...]  # (h,) of a GRU, (h, c) of an LSTM


def recur(cell: Module, x: Tensor, mask: Array | None, states: States | None) -> tuple[Tensor, States]:
    """Run a GRU or an LSTM, whose states are then a tuple in both cases."""
    if isinstance(cell, LSTM):
        output, both = cell(x, state=states, mask=mask)
        return output, both
    output, h = cell(x, h0=None if states is None else states[0], mask=mask)
    return output, (h,)


class RecurrentEncoder(Module):
    """A bidirectional GRU or LSTM over word vectors.

    ids (B, S), mask (B, S) -> states (B, S, 2 · hidden_size), and the final states, each (num_layers, B,
    2 · hidden_size): of the forward direction at the last real token, of the backward direction at the first.
    """

    def __init__(
        self,
        vocabulary_size: int,
        embedding_dim: int,
        hidden_size: int,
        num_layers: int,
        cell: str,
        dropout: float,
        padding_idx: int,
    ) -> None:
        self.padding_idx = padding_idx
        self.output_size = 2 * hidden_size
        self.embedding = Embedding(vocabulary_size, embedding_dim, padding_idx=padding_idx)
        self.dropout = Dropout(dropout)
        self.cell = CELLS[cell](embedding_dim, hidden_size, num_layers, bidirectional=True, dropout=dropout)

    def forward(self, ids: Any, mask: Any = None) -> tuple[Tensor, Array, States]:
        ids, mask = token_ids("Seq2Seq", ids, mask, self.embedding.weight, self.padding_idx)
        output, states = recur(self.cell, self.dropout(self.embedding(ids)), mask, None)
        return output, mask, tuple(_join_directions(s) for s in states)


def _join_directions(states: Tensor) -> Tensor:
    """(layers · 2, B, H), the two directions of a layer next to each other -> (layers, B, 2 H)."""
    layers, batch, hidden = states.shape[0] // 2, states.shape[1], states.shape[2]
    return states.reshape(layers, 2, batch, hidden).transpose(0, 2, 1, 3).reshape(layers, batch, 2 * hidden)


class Bridge(Module):
    """First states of the decoder, s = tanh(W e + b), from the encoder's final states e, for each kind of
    state and each layer (Bahdanau et al. 2015, appendix A.2.2)."""

    def __init__(self, kinds: int, num_layers: int, encoder_size: int, hidden_size: int) -> None:
        self.num_layers = num_layers
        self.layers = ModuleList([Linear(encoder_size, hidden_size) for _ in range(kinds * num_layers)])

    def forward(self, finals: States) -> States:
        bridged = []
        for kind, final in enumerate(finals):
            first = kind * self.num_layers
            states = [self.layers[first + i](final[i]).tanh() for i in range(self.num_layers)]
            bridged.append(ops.stack(states, axis=0))
        return tuple(bridged)


class AttentionDecoder(Module):
    """h_t = cell(y_{t-1}, h_{t-1});   c_t = attention(h_t, memory);   logits = W_o tanh(W_c [c_t; h_t])

    (Luong et al. 2015, equations 5 and 6, global attention.) With input feeding (section 3.3) the cell reads
    [y_{t-1}; tanh(W_c [c_{t-1}; h_{t-1}])], so that it knows what was attended to, and training goes step by
    step; without, all steps go through cell and attention at once. The same call with one token and the last
    states is a step of decoding.
    """

    def __init__(
        self,
        vocabulary_size: int,
        embedding_dim: int,
        hidden_size: int,
        num_layers: int,
        cell: str,
        attention: str,
        memory_size: int,
        dropout: float,
        padding_idx: int,
        input_feeding: bool,
        tied: bool,
    ) -> None:
        self.hidden_size, self.input_feeding = hidden_size, input_feeding
        self.embedding = Embedding(vocabulary_size, embedding_dim, padding_idx=padding_idx)
        self.dropout = Dropout(dropout)
        input_size = embedding_dim + (hidden_size if input_feeding else 0)
        self.cell = CELLS[cell](input_size, hidden_size, num_layers, dropout=dropout)
        self.attention = GlobalAttention(hidden_size, memory_size, attention)
        self.combine = Linear(memory_size + hidden_size, hidden_size)
        self.output = Linear(hidden_size, vocabulary_size)
        if tied:
            self.output.weight = self.embedding.weight

    def forward(
        self, ids: Any, states: States, memory: Memory, mask: Any = None
    ) -> tuple[Tensor, States, Tensor]:
        """ids (B, T) -> logits (B, T, V), or (N, V) of the real tokens of a mask (B, T); the states after the
        last token, the cell's (layers, B, H) and, with input feeding, what was last attended (1, B, H); and
        the weights of the attention (B, T, S)."""
        x = self.dropout(self.embedding(ids))
        attended, states, weights = self._walk(x, states, memory)
        attended = self.dropout(attended)
        return self.output(attended if mask is None else ops.pack(attended, mask)), states, weights

    def _walk(self, x: Tensor, states: States, memory: Memory) -> tuple[Tensor, States, Tensor]:
        """From vectors (B, T, E) to what was attended to (B, T, H)."""
        if not self.input_feeding:
            h, states = recur(self.cell, x, None, states)
            attended, weights = self._attend(h, memory)
            return attended, states, weights
        states, fed, steps = states[:-1], states[-1].swapaxes(0, 1), []
        for t in range(x.shape[1]):
            h, states = recur(self.cell, ops.concatenate([x[:, t : t + 1], fed], axis=2), None, states)
            fed, weights = self._attend(h, memory)
            steps.append((fed, weights))
        attended, weights = (ops.concatenate(list(parts), axis=1) for parts in zip(*steps, strict=True))
        return attended, (*states, fed.swapaxes(0, 1)), weights

    def first_states(self, bridged: States) -> States:
        """The states before the first token: nothing was attended yet."""
        if not self.input_feeding:
            return bridged
        h = bridged[0].data
        return (*bridged, Tensor(get_xp(h).zeros((1, h.shape[1], self.hidden_size), h.dtype)))

    def _attend(self, h: Tensor, memory: Memory) -> tuple[Tensor, Tensor]:
        """tanh(W_c [c; h]) of cell outputs (B, T, H), and the weights of the attention."""
        context, weights = self.attention(h, memory)
        return self.combine(ops.concatenate([context, h], axis=2)).tanh(), weights


@dataclass(frozen=True)
class DecodingState:
    """Between two steps: what the encoder left, the decoder's states (layers, N, H), and for each of the N
    rows the source row it belongs to."""

    memory: Memory
    states: States
    origin: np.ndarray[Any, Any]


class Seq2Seq(EncoderDecoder):
    """A bidirectional GRU or LSTM encoder and an attention decoder.

    hidden_size: of the decoder and of each direction of the encoder. cell: "gru" or "lstm". attention: "dot"
    (Luong's "general": h_tᵀ W s, scaled) or "additive" (Bahdanau's: vᵀ tanh(W h_t + U s)). dropout: on word
    vectors, between recurrent layers and before the output. input_feeding: the decoder reads what it last
    attended to; slower to train, often better. tied: which tables are one (see `TIED`); with a tied output
    embedding_dim must be hidden_size.
    """

    def __init__(
        self,
        source_vocabulary_size: int,
        target_vocabulary_size: int,
        embedding_dim: int = 256,
        hidden_size: int = 256,
        num_layers: int = 1,
        cell: str = "gru",
        attention: str = "dot",
        dropout: float = 0.0,
        padding_idx: int = 0,
        bos_idx: int = 2,
        eos_idx: int = 3,
        input_feeding: bool = False,
        tied: str = "none",
    ) -> None:
        config: dict[str, Any] = {
            "embedding_dim": whole("embedding_dim", embedding_dim, MOST_UNITS),
            "hidden_size": whole("hidden_size", hidden_size, MOST_UNITS),
            "num_layers": whole("num_layers", num_layers, MOST_LAYERS),
            "cell": choice("cell", cell, tuple(CELLS)),
            "attention": choice("attention", attention, ATTENTIONS),
            "dropout": probability("dropout", dropout),
            "input_feeding": truth("input_feeding", input_feeding),
            "tied": choice("tied", tied, TIED),
        }
        if tied != "none" and embedding_dim != hidden_size:
            raise DataError(
                f"tied {tied!r} makes the output's weights those of the embedding: embedding_dim "
                f"({embedding_dim}) must be hidden_size ({hidden_size})"
            )
        vocabularies = vocabulary_config(
            source_vocabulary_size, target_vocabulary_size, padding_idx, bos_idx, eos_idx, tied,
            max(embedding_dim, hidden_size),
        )  # fmt: skip
        self._config = vocabularies | config
        sizes = (embedding_dim, hidden_size, num_layers, cell)
        self.encoder = RecurrentEncoder(source_vocabulary_size, *sizes, dropout, padding_idx)
        memory_size = self.encoder.output_size
        self.bridge = Bridge(2 if cell == "lstm" else 1, num_layers, memory_size, hidden_size)
        self.decoder = AttentionDecoder(
            target_vocabulary_size, *sizes, attention, memory_size, dropout, padding_idx, input_feeding,
            tied != "none",
        )  # fmt: skip
        if tied == "all":
            self.encoder.embedding.weight = self.decoder.embedding.weight

    def forward(self, source: Any, source_mask: Any, target_in: Any, target_mask: Any = None) -> Tensor:
        memory, states = self.encode(source, source_mask)
        logits: Tensor = self.decoder(target_in, states, memory, target_mask)[0]
        return logits

    @property
    def source_table(self) -> Embedding:
        return self.encoder.embedding

    def alignment(self, source: Any, source_mask: Any, target_in: Any) -> np.ndarray[Any, Any]:
        with evaluating(self), no_grad():
            memory, states = self.encode(source, source_mask)
            return to_host(self.decoder(target_in, states, memory)[2].data)

    def encode(self, source: Any, source_mask: Any = None) -> tuple[Memory, States]:
        """What the decoder attends to, and its first states (num_layers, B, hidden_size); with input feeding
        also what it last attended to, zeros (1, B, hidden_size)."""
        output, mask, finals = self.encoder(source, source_mask)
        return self.decoder.attention.remember(output, mask), self.decoder.first_states(self.bridge(finals))

    def start(self, source: Any, mask: Any = None) -> DecodingState:
        """`Decodable`: read the source."""
        memory, states = self.encode(source, mask)
        return DecodingState(memory, states, np.arange(len(source)))

    def step(self, tokens: np.ndarray[Any, Any], state: DecodingState) -> tuple[Array, DecodingState]:
        """`Decodable`: read one token a row; padding and `<s>` are never proposed."""
        logits, states, _ = self.decoder(tokens[:, None], state.states, state.memory)
        return self._next_scores(logits.data[:, 0]), replace(state, states=states)

    def reorder(self, state: DecodingState, index: np.ndarray[Any, Any]) -> DecodingState:
        """`Decodable`: choose rows. The memory is copied only where a row turns to another source."""
        rows = to_device(index, state.states[0].device)
        origin = state.origin[index]
        same = np.array_equal(origin, state.origin)
        return DecodingState(
            state.memory if same else state.memory.rows(rows),
            tuple(Tensor(s.data[:, rows]) for s in state.states),
            origin,
        )
