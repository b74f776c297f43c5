"""Layers of a Transformer's encoder and decoder, with PyTorch's parameter names."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from ..ops.feed_forward import ACTIVATIONS
from ..ops.packing import Packing, packing_of
from ..ops.shapes import concatenate
from ..tensors import Tensor
from .attention import MultiHeadAttention
from .checks import positive
from .dropout import Dropout
from .feed_forward import feed_forward
from .layer_norm import LayerNorm
from .linear import Linear
from .module import Module

NORMS = ("pre", "post")


class TransformerLayer(Module):
    """What both kinds share: sublayers between which x flows, each with dropout and a layer norm around it.

    norm "post":  x <- norm(x + dropout(f(x)))  (Vaswani et al. 2017)
    norm "pre":   x <- x + dropout(f(norm(x)))  (trains without a warm-up; Xiong et al. 2020)

    The last sublayer is the feed-forward network linear2(dropout(activation(linear1(x)))).
    """

    def __init__(
        self, embed_dim: int, num_heads: int, feedforward: int, dropout: float, activation: str, norm: str
    ) -> None:
        name = type(self).__name__
        positive(name, "feedforward", feedforward)
        for what, value, known in (("activation", activation, ACTIVATIONS), ("norm", norm, NORMS)):
            if value not in known:
                raise ValueError(f"{name}: {what} is one of {', '.join(known)}, not {value!r}")
        self.norm_first, self.activation = norm == "pre", activation
        self.self_attn = MultiHeadAttention(embed_dim, num_heads, dropout)
        self.linear1 = Linear(embed_dim, feedforward, activation="relu" if activation == "relu" else None)
        self.dropout = Dropout(dropout)
        self.linear2 = Linear(feedforward, embed_dim)
        self.norm1, self.norm2 = LayerNorm(embed_dim), LayerNorm(embed_dim)
        self.dropout1, self.dropout2 = Dropout(dropout), Dropout(dropout)

    def _before(self, x: Tensor, norm: LayerNorm) -> Tensor:
        """What a sublayer reads."""
        return norm(x) if self.norm_first else x

    def _after(
        self, x: Tensor, y: Tensor, norm: LayerNorm, dropout: Dropout, mask: Any, following: LayerNorm | None
    ) -> tuple[Tensor, Tensor]:
        """What flows on, from x and the sublayer's y, and what the next sublayer reads. norm: around this
        sublayer; following: before the next, None where the caller reads by itself. mask: of packed rows."""
        if not self.norm_first:
            x, _ = norm.of_sum(x, y, dropout, mask)
            return x, x
        if following is not None:
            read, x = following.of_sum(x, y, dropout, mask)
            return x, read
        x = x + dropout(y, mask)
        return x, x

    def _feed_forward(self, x: Tensor, mask: Any) -> Tensor:
        return feed_forward(x, (self.linear1, self.linear2), self.activation, self.dropout, mask)


class TransformerEncoderLayer(TransformerLayer):
    """Self-attention, then the feed-forward network.

    x (B, S, E) and mask (B, S), True = real token -> (B, S, E); or packed rows (N, E) of the real tokens.
    The mask may be its `ops.Packing`, which is then not made in each layer.
    """

    def __init__(
        self, embed_dim: int, num_heads: int, feedforward: int, dropout: float = 0.1,
        activation: str = "relu", norm: str = "post",
    ) -> None:  # fmt: skip
        super().__init__(embed_dim, num_heads, feedforward, dropout, activation, norm)

    def forward(self, x: Any, mask: Any = None) -> Tensor:
        return self.through(x, self._before(x, self.norm1), mask)[0]

    def through(
        self, x: Any, read: Any, mask: Any = None, following: LayerNorm | None = None
    ) -> tuple[Tensor, Tensor]:
        """`forward` where the norm of x is made already, and that of what flows on is made here: `stack`."""
        packed, mask = packing(x, mask)
        attended = self.self_attn(read, read, read, mask, query_mask=mask)
        x, read = self._after(x, attended, self.norm1, self.dropout1, packed, self.norm2)
        y = self._feed_forward(read, packed)
        return self._after(x, y, self.norm2, self.dropout2, packed, following)


class TransformerDecoderLayer(TransformerLayer):
    """Causal self-attention, attention over the encoder's memory, then the feed-forward network.

    x (B, T, E), mask (B, T), memory (B, S, E), memory_mask (B, S) -> (B, T, E); x and memory may each be
    packed rows of the real tokens, and masks be their `ops.Packing`. `step` is the same for one new position,
    over cached keys and values.
    """

    def __init__(
        self, embed_dim: int, num_heads: int, feedforward: int, dropout: float = 0.1,
        activation: str = "relu", norm: str = "post",
    ) -> None:  # fmt: skip
        super().__init__(embed_dim, num_heads, feedforward, dropout, activation, norm)
        self.multihead_attn = MultiHeadAttention(embed_dim, num_heads, dropout)
        self.norm3, self.dropout3 = LayerNorm(embed_dim), Dropout(dropout)

    def forward(self, x: Any, memory: Any, mask: Any = None, memory_mask: Any = None) -> Tensor:
        return self.through(x, self._before(x, self.norm1), memory, mask, memory_mask)[0]

    def through(
        self, x: Any, read: Any, memory: Any, mask: Any = None, memory_mask: Any = None,
        following: LayerNorm | None = None,
    ) -> tuple[Tensor, Tensor]:  # fmt: skip
        """`forward` where the norm of x is made already, and that of what flows on is made here: `stack`."""
        packed, mask = packing(x, mask)
        attended = self.self_attn(read, read, read, mask, causal=True, query_mask=mask)
        x, read = self._after(x, attended, self.norm1, self.dropout1, packed, self.norm2)
        attended = self.multihead_attn(read, memory, memory, memory_mask, query_mask=mask)
        x, read = self._after(x, attended, self.norm2, self.dropout2, packed, self.norm3)
        return self._after(x, self._feed_forward(read, packed), self.norm3, self.dropout3, packed, following)

    def step(self, x: Any, past: Cache | None, memory: Cache, memory_mask: Any) -> tuple[Tensor, Cache]:
        """x (N, 1, E), the keys and values of the positions before it (None: there are none), those of the
        memory from `remember` -> (N, 1, E), and keys and values up to this position."""
        read = self._before(x, self.norm1)
        past = joined(past, self.self_attn.project_keys(read))
        attended = self.self_attn.attend(read, *past)
        x, read = self._after(x, attended, self.norm1, self.dropout1, None, self.norm2)
        attended = self.multihead_attn.attend(read, *memory, memory_mask)
        x, read = self._after(x, attended, self.norm2, self.dropout2, None, self.norm3)
        y = self._feed_forward(read, None)
        return self._after(x, y, self.norm3, self.dropout3, None, None)[0], past

    def remember(self, memory: Any, memory_mask: Any = None) -> Cache:
        """Keys and values of the memory, for `step`; memory (B, S, E), or packed rows of a mask (B, S)."""
        return self.multihead_attn.project_keys(memory, memory_mask)

    def looks_at(self, x: Any, memory: Any, mask: Any = None, memory_mask: Any = None) -> Tensor:
        """Weights (B, T, S) of the attention over the memory, the mean over heads, for x (B, T, E)."""
        read = self._before(x, self.norm1)
        attended = self.self_attn(read, read, read, mask, causal=True)
        _, read = self._after(x, attended, self.norm1, self.dropout1, None, self.norm2)
        return self.multihead_attn.weights(read, memory, memory_mask)


def stack(layers: Iterable[Any], norm: LayerNorm, x: Tensor, *others: Any) -> Tensor:
    """norm(x) after all layers; others: what else their `forward` takes. Where norms come before sublayers,
    each is made together with the sum before it, across layers."""
    layers = list(layers)
    if not layers or not layers[0].norm_first:
        for layer in layers:
            x = layer(x, *others)
        return norm(x)
    read = layers[0].norm1(x)
    for layer, following in zip(layers, [*(layer.norm1 for layer in layers[1:]), norm], strict=True):
        x, read = layer.through(x, read, *others, following=following)
    return read


def packing(x: Any, mask: Any) -> tuple[Packing | None, Any]:
    """Where x is packed rows, how they are packed, and that again in place of the mask; else None, and the
    mask."""
    packed = packing_of(mask, x) if len(x.shape) == 2 and mask is not None else None
    return packed, mask if packed is None else packed


Cache = tuple[Tensor, Tensor]  # keys and values (N, heads, L, E / heads)


def joined(past: Cache | None, new: Cache) -> Cache:
    """Keys and values of the positions before, and of one more."""
    if past is None:
        return new
    keys, values = (concatenate([old, added], axis=2) for old, added in zip(past, new, strict=True))
    return keys, values
