"""Attention with its weights: how much each query looks at each key, and the mean of the values under them.

Where nobody looks at the weights, `scaled_dot_product_attention` computes the mean alone, in one operation.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from ..backend.arrays import Array, get_xp
from ..backend.buffers import empty, times, zeros
from ..backend.gemm import matmul as product
from ..backend.half import kept, total
from ..backprop import Context
from ..op import Op
from ..tensors import Tensor
from .dropout import dropout as drop
from .linear import matmul
from .masked_softmax import hide, softmax_gradient, softmax_over_keys
from .masks import key_mask
from .scaled_dot_product_attention import default_scale

HOST_BLOCK = 1 << 18  # elements of (B, T, S, H) at a time: what stays in a core's cache
GPU_BLOCK = 1 << 24


class DotProductWeights(Op):
    """A = softmax(s Q Kᵀ) over the keys     Q (..., T, D)   K (..., S, D) -> A (..., T, S)

    (Vaswani et al. 2017, equation 1; s = 1/√D there.) Masked keys get 0; a query without any key gets 0
    everywhere.        dE = A (dA - Σ_S A dA)        dQ = s dE K        dK = s dEᵀ Q
    """

    @staticmethod
    def forward(ctx: Context, query: Array, key: Array, *, mask: Array | None, scale: float) -> Array:
        weights = product(_scaled(query, scale), key.swapaxes(-1, -2))
        softmax_over_keys(weights, hide(mask, weights.dtype))
        ctx.save(query, key, weights, scale)
        return weights

    @staticmethod
    def backward(ctx: Context, dweights: Array) -> tuple[Array | None, ...]:
        query, key, weights, scale = ctx.saved
        need_query, need_key = ctx.needs_grad
        denergy = softmax_gradient(weights, dweights)
        return (
            _scaled(product(denergy, key), scale) if need_query else None,
            product(denergy.swapaxes(-1, -2), _scaled(query, scale)) if need_key else None,
        )


def _scaled(x: Array, scale: float) -> Array:
    return x if scale == 1.0 else kept(times(x, scale), x)


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
        weights = empty(xp, (*query.shape[:2], key.shape[1]), query.dtype)
        for part in _blocks(query, key):
            weights[:, part] = product(_tanh_of_sum(xp, query[:, part], key), v[:, None])[..., 0]
        softmax_over_keys(weights, hide(mask, weights.dtype))
        ctx.save(query, key, v, weights)
        return weights

    @staticmethod
    def backward(ctx: Context, dweights: Array) -> tuple[Array | None, ...]:
        query, key, v, weights = ctx.saved
        xp = get_xp(query)
        denergy = softmax_gradient(weights, dweights)
        dquery, dkey = empty(xp, query.shape, query.dtype), zeros(xp, key.shape, key.dtype)
        dv = xp.zeros_like(v)
        for part in _blocks(query, key):
            u = _tanh_of_sum(xp, query[:, part], key)
            de = denergy[:, part]
            dv += product(de.reshape(1, -1), u.reshape(-1, u.shape[-1]))[0]
            u *= u
            xp.subtract(1.0, u, out=u)
            u *= de[..., None]
            dquery[:, part] = total(u, axis=2)
            dkey += u[:, 0] if u.shape[1] == 1 else total(u, axis=1)
        dquery *= v
        dkey *= v
        return dquery, dkey, dv


def _tanh_of_sum(xp: Any, query: Array, key: Array) -> Array:
    """query (B, T, H), key (B, S, H) -> tanh(q + k) (B, T, S, H)."""
    u = empty(xp, (*query.shape[:2], *key.shape[1:]), query.dtype)
    xp.add(query[:, :, None], key[:, None], out=u)
    xp.tanh(u, out=u)
    return u


def _blocks(query: Array, key: Array) -> list[slice]:
    """Slices of T so that (B, part of T, S, H) has at most a block's elements (or one time)."""
    limit = HOST_BLOCK if isinstance(query, np.ndarray) else GPU_BLOCK
    size = max(1, limit // max(1, query.shape[0] * key.shape[1] * query.shape[2]))
    return [slice(t, t + size) for t in range(0, query.shape[1], size)]


def attention_weights(
    query: Any, key: Any, mask: Any = None, *, causal: bool = False, scale: float | None = None
) -> Tensor:
    """Weights (..., T, S) of scaled dot-product attention for query (..., T, D) and key (..., S, D).

    mask, causal: see `key_mask`. scale: 1/√D if None.
    """
    mask = key_mask(mask, query, key, causal)
    return DotProductWeights.apply(query, key, mask=mask, scale=default_scale(query, scale))


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
