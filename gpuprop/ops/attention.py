"""Attention: how much each query looks at each key, and the mean of the values under these weights."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from ..backend.arrays import Array, get_xp
from ..backend.gemm import matmul as product
from ..backend.half import kept, lowest, total
from ..backprop import Context
from ..errors import ShapeError
from ..op import Op
from ..tensors import Tensor
from .dropout import dropout as drop
from .layer_norm import row_dots
from .linear import matmul
from .masks import real_tokens
from .operands import data_of

HOST_BLOCK = 1 << 18  # elements of (B, T, S, H) at a time: what stays in a core's cache
GPU_BLOCK = 1 << 24


class DotProductWeights(Op):
    """A = softmax(s Q Kᵀ) over the keys     Q (..., T, D)   K (..., S, D) -> A (..., T, S)

    (Vaswani et al. 2017, equation 1; s = 1/√D there.) Masked keys get 0; a query without any key gets 0
    everywhere.        dE = A (dA - Σ_S A dA)        dQ = s dE K        dK = s dEᵀ Q
    """

    @staticmethod
    def forward(ctx: Context, query: Array, key: Array, *, mask: Array | None, scale: float) -> Array:
        weights = product(kept(query * scale, query), key.swapaxes(-1, -2))
        softmax_over_keys(weights, mask)
        ctx.save(query, key, weights, scale)
        return weights

    @staticmethod
    def backward(ctx: Context, dweights: Array) -> tuple[Array | None, ...]:
        query, key, weights, scale = ctx.saved
        need_query, need_key = ctx.needs_grad
        denergy = softmax_gradient(weights, dweights)
        return (
            product(denergy, key) * scale if need_query else None,
            product(denergy.swapaxes(-1, -2), kept(query * scale, query)) if need_key else None,
        )


class AdditiveWeights(Op):
    """A = softmax(vᵀ tanh(q + k)) over the keys     q (B, T, H)   k (B, S, H)   v (H,) -> A (B, T, S)

    (Bahdanau et al. 2015, appendix A.1.2; q = W_a s and k = U_a h are computed before, by `linear`.)
    With u = tanh(q + k), (B, T, S, H), and dE as for the dot product:
        dv = Σ_BTS dE u        dq = v Σ_S dE (1 - u²)        dk = v Σ_T dE (1 - u²)
    u is computed in blocks of T, in both directions, and never held as a whole.
    """

    @staticmethod
    def forward(ctx: Context, query: Array, key: Array, v: Array, *, mask: Array | None) -> Array:
        xp = get_xp(query)
        weights = xp.empty((*query.shape[:2], key.shape[1]), query.dtype)
        for part in _blocks(query, key):
            weights[:, part] = product(_tanh_of_sum(xp, query[:, part], key), v[:, None])[..., 0]
        softmax_over_keys(weights, mask)
        ctx.save(query, key, v, weights)
        return weights

    @staticmethod
    def backward(ctx: Context, dweights: Array) -> tuple[Array | None, ...]:
        query, key, v, weights = ctx.saved
        xp = get_xp(query)
        denergy = softmax_gradient(weights, dweights)
        dquery, dkey, dv = xp.empty_like(query), xp.zeros_like(key), xp.zeros_like(v)
        for part in _blocks(query, key):
            u = _tanh_of_sum(xp, query[:, part], key)
            de = denergy[:, part]
            dv += product(de.reshape(1, -1), u.reshape(-1, u.shape[-1]))[0]
            u *= u
            xp.subtract(1.0, u, out=u)
            u *= de[..., None]
            dquery[:, part] = total(u, axis=2)
            dkey += total(u, axis=1)
        dquery *= v
        dkey *= v
        return dquery, dkey, dv


def _tanh_of_sum(xp: Any, query: Array, key: Array) -> Array:
    """query (B, T, H), key (B, S, H) -> tanh(q + k) (B, T, S, H)."""
    u = query[:, :, None] + key[:, None]
    xp.tanh(u, out=u)
    return u


def _blocks(query: Array, key: Array) -> list[slice]:
    """Slices of T so that (B, part of T, S, H) has at most a block's elements (or one time)."""
    limit = HOST_BLOCK if isinstance(query, np.ndarray) else GPU_BLOCK
    size = max(1, limit // max(1, query.shape[0] * key.shape[1] * query.shape[2]))
    return [slice(t, t + size) for t in range(0, query.shape[1], size)]


def softmax_over_keys(energy: Array, mask: Array | None) -> None:
    """Softmax over the last axis, in place, over the keys where `mask` is True only (0 if there is none)."""
    xp = get_xp(energy)
    if energy.shape[-1] == 0:
        return
    if mask is not None:
        xp.copyto(energy, lowest(energy.dtype) / 2, where=~mask)
    energy -= energy.max(axis=-1, keepdims=True)
    xp.exp(energy, out=energy)
    if mask is not None:
        energy *= mask
    sums = total(energy, axis=-1, keepdims=True)
    xp.maximum(sums, 1.0, out=sums)  # the largest real key adds e^0 = 1: below it stands a row without keys
    energy /= sums


def softmax_gradient(weights: Array, dweights: Array) -> Array:
    """A (dA - Σ A dA), in a new array."""
    denergy = dweights - row_dots(weights, dweights)
    denergy *= weights
    return denergy


def key_mask(mask: Any, query: Any, key: Any, causal: bool = False) -> Array | None:
    """One mask of real keys, which broadcasts to (..., T, S), on the query's device; None if all are real.

    mask: (B, S), one for all queries, or (B, T, S), or with all axes of the weights. causal: query t sees the
    keys 0..t only. With heads, (B, heads, T, D), a mask of two or three axes holds for every head.
    """
    shape = (*query.shape[:-1], key.shape[-2])
    if mask is not None:
        given = tuple(mask.shape)
        wide = _with_axes(given, len(shape))
        if len(wide) != len(shape) or any(m not in (1, n) for m, n in zip(wide, shape, strict=True)):
            raise ShapeError(
                f"attention with weights {shape}, (..., queries, keys), got a mask {given}; "
                f"give (batch, keys) or (batch, queries, keys)"
            )
        mask = real_tokens(mask, query)
        mask = mask if mask is None else mask.reshape(wide)
    if causal:
        seen = get_xp(data_of(query)).tri(shape[-2], shape[-1], dtype=bool)
        mask = seen if mask is None else mask & seen
    return mask


def _with_axes(mask: tuple[int, ...], ndim: int) -> tuple[int, ...]:
    """A mask's shape with axes of 1 for the queries (if it has none) and for the heads."""
    if len(mask) == 2 and ndim > 2:
        mask = (mask[0], 1, mask[1])
    return mask[:1] + (1,) * (ndim - len(mask)) + mask[1:]


def attention_weights(
    query: Any, key: Any, mask: Any = None, *, causal: bool = False, scale: float | None = None
) -> Tensor:
    """Weights (..., T, S) of scaled dot-product attention for query (..., T, D) and key (..., S, D).

    mask, causal: see `key_mask`. scale: 1/√D if None.
    """
    scale = 1.0 / math.sqrt(max(1, query.shape[-1])) if scale is None else float(scale)
    return DotProductWeights.apply(query, key, mask=key_mask(mask, query, key, causal), scale=scale)


def attention(
    query: Any, key: Any, value: Any, mask: Any = None, *, causal: bool = False, scale: float | None = None,
    dropout: float = 0.0, stream: int | None = None,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """Scaled dot-product attention -> (context (..., T, Dv), weights (..., T, S)), both with gradients.

    query (..., T, D), key (..., S, D), value (..., S, Dv), with the same leading axes: (B,), or (B, heads).
    A query without any real key gets the context 0. dropout: of the weights, from random stream `stream`; the
    weights that are returned are those before it.
    """
    weights = attention_weights(query, key, mask, causal=causal, scale=scale)
    used = weights
    if dropout:
        if stream is None:
            raise ValueError("dropout of attention weights needs a stream: backend.random.new_stream()")
        used = drop(weights, dropout, stream=stream)
    return matmul(used, value), weights


def additive_attention_weights(query: Any, key: Any, v: Any, mask: Any = None) -> Tensor:
    """Weights (B, T, S) of additive attention for projected query (B, T, H) and key (B, S, H), v (H,).

    mask: (B, S) or (B, T, S), True = real key. The context is matmul(weights, values).
    """
    return AdditiveWeights.apply(query, key, v, mask=key_mask(mask, query, key))
