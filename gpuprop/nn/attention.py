"""Attention layers."""

from __future__ import annotations

from typing import Any

from ..backend.random import new_stream
from ..errors import ShapeError
from ..ops.attention import additive_attention_weights, attention, attention_weights
from ..ops.linear import linear, matmul
from ..ops.packing import Packing, join_heads, mask_of, packing_of, split_heads
from ..ops.scaled_dot_product_attention import scaled_dot_product_attention
from ..tensors import Tensor
from . import init
from .checks import positive, probability, require_text
from .linear import Linear
from .module import Module


class DotProductAttention(Module):
    """Scaled dot-product attention (Luong et al. 2015, "dot"; scaled as by Vaswani et al. 2017).

    query (B, T, D), key (B, S, D), value (B, S, Dv), mask (B, S) or (B, T, S), True = real key
    -> context (B, T, Dv), weights (B, T, S). scale: what q·k is multiplied with, 1/√D if None.
    """

    def __init__(self, scale: float | None = None) -> None:
        if scale is not None and not scale > 0:
            raise ValueError(f"DotProductAttention: scale must be above 0, not {scale!r}")
        self.scale = None if scale is None else float(scale)

    def forward(
        self, query: Any, key: Any, value: Any, mask: Any = None, *, causal: bool = False
    ) -> tuple[Tensor, Tensor]:
        if len(query.shape) != 3:
            raise ShapeError(
                f"DotProductAttention expects a query (batch, length, D) but got {tuple(query.shape)}"
            )
        _require_pair("DotProductAttention", query, key, query.shape[2])
        _require_values("DotProductAttention", key, value)
        return attention(query, key, value, mask, causal=causal, scale=self.scale)

    def extra_repr(self) -> str:
        return "" if self.scale is None else f"scale={self.scale:g}"


class AdditiveAttention(Module):
    """Additive attention: the energy of a key is v · tanh(W_q q + W_k k) (Bahdanau et al. 2015).

    query (B, T, query_size), keys (B, S, key_size), mask (B, S) or (B, T, S), True = real key
    -> context (B, T, key_size), the mean of the keys under the weights, and weights (B, T, S).

    A decoder that asks one query at a time calls `project` once and hands the result on as `projected`.
    """

    def __init__(self, query_size: int, key_size: int, hidden_size: int) -> None:
        self.query_size = positive("AdditiveAttention", "query_size", query_size)
        self.key_size = positive("AdditiveAttention", "key_size", key_size)
        self.hidden_size = positive("AdditiveAttention", "hidden_size", hidden_size)
        self.query = Linear(query_size, hidden_size, bias=False)
        self.key = Linear(key_size, hidden_size, bias=False)
        self.score = Linear(hidden_size, 1, bias=False)

    def project(self, keys: Any) -> Tensor:
        """W_k k for all keys: (B, S, key_size) -> (B, S, hidden_size)."""
        require_text("AdditiveAttention (keys)", keys, self.key_size)
        return self.key(keys)

    def forward(
        self, query: Any, keys: Any, mask: Any = None, *, projected: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        require_text("AdditiveAttention (query)", query, self.query_size)
        _require_pair("AdditiveAttention", query, keys, self.key_size)
        projected = self.project(keys) if projected is None else projected
        weights = additive_attention_weights(
            self.query(query), projected, self.score.weight.reshape(-1), mask
        )
        return matmul(weights, keys), weights

    def extra_repr(self) -> str:
        return f"{self.query_size}, {self.key_size}, {self.hidden_size}"


class MultiHeadAttention(Module):
    """Several scaled dot-product attentions side by side (Vaswani et al. 2017, section 3.2.2).

    query (B, T, E), key and value (B, S, E); key_mask (B, S) or (B, T, S), True = real key; causal: query t
    sees the keys 0..t only -> (B, T, E). dropout: of the weights, in training. Parameters as in PyTorch:
    in_proj_weight (3E, E) for q, k, v, in_proj_bias (3E,), out_proj.

    Packed rows (`ops.pack`) save the work on padding: query (N, E) with query_mask (B, T) -> (N, E), and key
    and value (M, E) with key_mask (B, S); N and M are the numbers of real tokens. Either mask may be the
    `ops.Packing` of one.

    Decoding word by word: `project_keys` once, then `attend`; `weights` shows where it looks.
    """

    options_of_graphs = ("training", "dropout")

    def __init__(self, embed_dim: int, num_heads: int, dropout: float = 0.0) -> None:
        self.embed_dim = positive("MultiHeadAttention", "embed_dim", embed_dim)
        self.num_heads = positive("MultiHeadAttention", "num_heads", num_heads)
        if embed_dim % num_heads:
            raise ValueError(
                f"MultiHeadAttention: embed_dim {embed_dim} is not a multiple of num_heads {num_heads}"
            )
        self.dropout = probability("MultiHeadAttention", dropout)
        self.in_proj_weight = init.xavier_uniform((3 * embed_dim, embed_dim), order=(1, 0))
        self.in_proj_bias = init.constant((3 * embed_dim,))
        self.out_proj = Linear(embed_dim, embed_dim)
        self.out_proj.bias = init.constant((embed_dim,))
        self._stream = new_stream()

    def forward(
        self,
        query: Any,
        key: Any,
        value: Any,
        key_mask: Any = None,
        causal: bool = False,
        *,
        query_mask: Any = None,
    ) -> Tensor:
        rows = _packing(query, query_mask)
        keys = rows if key is query and key_mask is query_mask else _packing(key, key_mask)
        self._check(query, key, value, rows, keys)
        q, k, v = self._projections(query, key, value, rows, keys)
        return self._attended(q, k, v, mask_of(key_mask), causal, rows)

    def project_keys(self, key_value: Any, key_mask: Any = None) -> tuple[Tensor, Tensor]:
        """k and v (B, heads, S, E / heads) of key_value (B, S, E), or of its rows (M, E).

        For `attend`, which a decoder calls many times with the same keys, or with those it has joined along
        axis 2.
        """
        rows, size = _packing(key_value, key_mask), self.embed_dim
        self._check_text("keys", key_value, rows)
        both = linear(key_value, self.in_proj_weight[size:], self.in_proj_bias[size:])
        k, v = split_heads(both, self.num_heads, 2, rows)
        return k, v

    def attend(
        self,
        query: Any,
        k: Any,
        v: Any,
        key_mask: Any = None,
        causal: bool = False,
        query_mask: Any = None,
    ) -> Tensor:
        """`forward` for keys and values that `project_keys` made, (B, heads, S, E / heads) -> (B, T, E).

        causal counts queries and keys from 0: a decoder that asks for the last word only, and has joined its
        keys so far, asks without.
        """
        rows, size = _packing(query, query_mask), self.embed_dim
        self._check_text("query", query, rows)
        self._check_heads(query if rows is None else rows, k, v)
        projected = linear(query, self.in_proj_weight[:size], self.in_proj_bias[:size])
        (q,) = split_heads(projected, self.num_heads, 1, rows)
        return self._attended(q, k, v, mask_of(key_mask), causal, rows)

    def weights(self, query: Any, key: Any, key_mask: Any = None, causal: bool = False) -> Tensor:
        """The mean over the heads of the weights, without dropout, to look at.

        query (B, T, E), key (B, S, E) -> (B, T, S)
        """
        for name, x in (("query", query), ("keys", key)):
            require_text(f"MultiHeadAttention ({name})", x, self.embed_dim)
        _require_pair("MultiHeadAttention", query, key, self.embed_dim)
        weight, bias = self.in_proj_weight, self.in_proj_bias
        parts = (slice(0, self.embed_dim), slice(self.embed_dim, 2 * self.embed_dim))
        (q,), (k,) = (
            split_heads(linear(x, weight[p], bias[p]), self.num_heads)
            for x, p in zip((query, key), parts, strict=True)
        )
        return attention_weights(q, k, mask_of(key_mask), causal=causal).mean(axis=1)

    def _attended(self, q: Any, k: Any, v: Any, key_mask: Any, causal: bool, rows: Packing | None) -> Tensor:
        dropout = self.dropout if self.training else 0.0
        context = scaled_dot_product_attention(
            q, k, v, key_mask, causal=causal, dropout=dropout, stream=self._stream
        )
        return self.out_proj(join_heads(context, rows))

    def _check(self, query: Any, key: Any, value: Any, rows: Packing | None, keys: Packing | None) -> None:
        self._check_text("query", query, rows)
        self._check_text("key", key, keys)
        self._check_text("value", value, keys)
        if len(key.shape) == 2 or len(query.shape) == 2:
            if len(key.shape) != len(value.shape) or key.shape[0] != value.shape[0]:
                raise ShapeError(f"MultiHeadAttention got keys {key.shape} but values {value.shape}")
            return
        _require_pair("MultiHeadAttention", query, key, self.embed_dim)
        _require_values("MultiHeadAttention", key, value)

    def _check_text(self, name: str, x: Any, rows: Packing | None) -> None:
        if rows is None:
            require_text(f"MultiHeadAttention ({name})", x, self.embed_dim)
        elif tuple(x.shape) != (rows.rows.size, self.embed_dim):
            raise ShapeError(
                f"MultiHeadAttention ({name}) expects rows ({rows.rows.size}, {self.embed_dim}), one a "
                f"real token of its mask, but got {tuple(x.shape)}"
            )

    def _check_heads(self, query: Any, k: Any, v: Any) -> None:
        batch, width, shape = query.shape[0], self.embed_dim // self.num_heads, tuple(k.shape)
        if len(shape) != 4 or (*shape[:2], shape[3]) != (batch, self.num_heads, width) or v.shape != shape:
            raise ShapeError(
                f"MultiHeadAttention.attend expects k and v ({batch}, {self.num_heads}, S, {width}) of "
                f"`project_keys` but got {shape} and {tuple(v.shape)}"
            )

    def _projections(
        self, query: Any, key: Any, value: Any, rows: Packing | None, keys: Packing | None
    ) -> tuple[Tensor, ...]:
        """q, k, v (B, heads, L, E / heads); one product for those of them that share their input."""
        size, weight, bias = self.embed_dim, self.in_proj_weight, self.in_proj_bias
        if query is key and key is value:
            return split_heads(linear(query, weight, bias), self.num_heads, 3, rows)
        q = split_heads(linear(query, weight[:size], bias[:size]), self.num_heads, 1, rows)
        if key is value:
            both = linear(key, weight[size:], bias[size:])
            return q + split_heads(both, self.num_heads, 2, keys)
        parts = (slice(size, 2 * size), slice(2 * size, 3 * size))
        k, v = (
            split_heads(linear(x, weight[p], bias[p]), self.num_heads, 1, keys)
            for x, p in zip((key, value), parts, strict=True)
        )
        return q + k + v

    def extra_repr(self) -> str:
        return f"{self.embed_dim}, {self.num_heads}" + (f", dropout={self.dropout:g}" if self.dropout else "")


def _packing(x: Any, mask: Any) -> Packing | None:
    """How x (N, E) was packed; None for x (B, L, E), or without a mask."""
    return None if mask is None or len(x.shape) != 2 else packing_of(mask, x)


def _require_pair(layer: str, query: Any, key: Any, size: int) -> None:
    require_text(f"{layer} (keys)", key, size)
    if query.shape[0] != key.shape[0]:
        raise ShapeError(f"{layer} got {query.shape[0]} rows of queries but {key.shape[0]} rows of keys")


def _require_values(layer: str, key: Any, value: Any) -> None:
    if len(value.shape) != 3 or tuple(value.shape[:2]) != tuple(key.shape[:2]):
        raise ShapeError(
            f"{layer} expects one value a key, ({key.shape[0]}, {key.shape[1]}, size), "
            f"but got {tuple(value.shape)}"
        )
