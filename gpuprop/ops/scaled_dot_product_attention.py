"""Scaled dot-product attention as one operation: the mean of the values under the weights of their keys."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from ..backend import random
from ..backend.arrays import Array, get_xp
from ..backend.buffers import empty, times
from ..backend.gemm import matmul as product
from ..backend.half import wide
from ..backend.threads import over_rows
from ..backprop import Context
from ..errors import ShapeError
from ..op import Op
from ..tensors import Tensor
from .attention_kernels import Launch, Place, rate, usable
from .blockwise import BLOCK
from .dropout import draw_mask
from .masked_softmax import hide, softmax_gradient, softmax_over_keys
from .masks import hide_later_keys, key_mask


class Attention(Op):
    """C = (M A) V / (1 - p),  A = softmax(s Q Kᵀ) over the keys
    Q (..., T, D)   K (..., S, D)   V (..., S, Dv) -> C (..., T, Dv)

    (Vaswani et al. 2017, equation 1; s = 1/√D there.) Masked keys get the weight 0; a query without any key
    gets 0 everywhere. M, element by element, is 1 with probability 1 - p, else 0: the bits of `dropout` on A.
        dV = (M A)ᵀ dC / (1 - p)        dA = M (dC Vᵀ) / (1 - p)        dE = A (dA - Σ_S A dA)
        dQ = s dE K        dK = s dEᵀ Q
    The formula keeps A and M, and makes all else in blocks that stay in cache. The kernels keep one number a
    query and make A and M again.
    """

    @staticmethod
    def forward(
        ctx: Context, query: Array, key: Array, value: Array, *, mask: Array | None, causal: bool,
        scale: float, place: Place | None,
    ) -> Array:  # fmt: skip
        if usable(query, key, value):
            launch = Launch(query, key, value, mask, causal, scale, place)
            ctx.save(launch, *launch.forward())
            return ctx.saved[1]
        xp, dtypes = get_xp(query), (query.dtype, key.dtype, value.dtype)
        query, key, value = wide(query), wide(key), wide(value)
        shape = (*query.shape[:-1], key.shape[-2])
        weights = empty(xp, shape, query.dtype) if any(ctx.needs_grad) else None
        kept = None if place is None else empty(xp, shape, bool)
        context = empty(xp, (*query.shape[:-1], value.shape[-1]), query.dtype)
        hidden = hide(hide_later_keys(mask, query, key) if causal else mask, query.dtype)

        def work(part: tuple[slice, ...], first: int) -> None:
            into = None if weights is None else weights[part]
            a = product(times(query[part], scale), key[part].swapaxes(-1, -2), out=into)
            softmax_over_keys(a, None if hidden is None else hidden[_within(part, hidden.shape)])
            if kept is None or place is None:
                product(a, value[part], out=context[part])
                return
            draw_mask(kept[part].reshape(-1), place[1] + first, place)
            c = product(times(a, kept[part]), value[part], out=context[part])
            c *= rate(place)

        _over_blocks(work, shape, xp is np)
        ctx.save(query, key, value, weights, kept, scale, rate(place), dtypes)
        return context.astype(dtypes[0], copy=False)

    @staticmethod
    def backward(ctx: Context, dcontext: Array) -> tuple[Array | None, ...]:
        if isinstance(ctx.saved[0], Launch):
            launch, context, log_sum_exp = ctx.saved
            return launch.backward(context, log_sum_exp, dcontext)
        query, key, value, weights, kept, scale, grown, dtypes = ctx.saved
        xp, dcontext = get_xp(dcontext), wide(dcontext)
        grads = dquery, dkey, dvalue = [
            empty(xp, x.shape, x.dtype) if needed else None
            for x, needed in zip((query, key, value), ctx.needs_grad, strict=True)
        ]

        def work(part: tuple[slice, ...], _: int) -> None:
            a, dc = weights[part], dcontext[part]
            if dvalue is not None:
                used = a if kept is None else times(a, kept[part])
                _times(product(used.swapaxes(-1, -2), dc, out=dvalue[part]), grown)
            if dquery is None and dkey is None:
                return
            de = product(dc, value[part].swapaxes(-1, -2))
            if kept is not None:
                de *= kept[part]
            softmax_gradient(a, de, out=de)  # linear in dA: the rate may come later, where there is less
            if dquery is not None:
                _times(product(de, key[part], out=dquery[part]), scale * grown)
            if dkey is not None:
                _times(product(de.swapaxes(-1, -2), query[part], out=dkey[part]), scale * grown)

        _over_blocks(work, weights.shape, xp is np)
        return tuple(
            None if g is None else g.astype(dtype, copy=False) for g, dtype in zip(grads, dtypes, strict=True)
        )


def _times(x: Array, factor: float) -> None:
    if factor != 1.0:
        x *= factor


def _over_blocks(work: Callable[[Any, int], None], shape: tuple[int, ...], host: bool) -> None:
    """Call work(part, first) for each block of weights of this shape, over the threads there are."""

    def piece(start: int, stop: int) -> None:
        for part, first in _blocks(shape, host, start, stop):
            work(part, first)

    over_rows(piece, shape[0], 4 * math.prod(shape) * host, products=True)


def _blocks(
    shape: tuple[int, ...], host: bool, start: int, stop: int
) -> Iterator[tuple[tuple[slice, ...], int]]:
    """Blocks of the rows start..stop of weights (B, ..., T, S), each with its first element's number.

    Rows that stay in a core's cache together, or parts of the second axis (heads) where one row is too large.
    """
    row, head = math.prod(shape[1:]), math.prod(shape[2:])
    limit = BLOCK if host else max(1, math.prod(shape))
    if row <= limit or len(shape) < 4:
        size = max(1, limit // max(1, row))
        for b in range(start, stop, size):
            yield (slice(b, min(b + size, stop)),), b * row
        return
    size = max(1, limit // head)
    for b in range(start, stop):
        for h in range(0, shape[1], size):
            yield (slice(b, b + 1), slice(h, h + size)), b * row + h * head


def _within(part: tuple[slice, ...], shape: tuple[int, ...]) -> tuple[slice, ...]:
    """The same part of an array of this shape, which may broadcast: all of an axis of 1."""
    return tuple(slice(None) if n == 1 else p for p, n in zip(part, shape, strict=False))


def default_scale(query: Any, scale: float | None) -> float:
    """1/√D for query (..., T, D), where no scale is given."""
    return 1.0 / math.sqrt(max(1, query.shape[-1])) if scale is None else float(scale)


def scaled_dot_product_attention(
    query: Any, key: Any, value: Any, mask: Any = None, *, causal: bool = False, scale: float | None = None,
    dropout: float = 0.0, stream: int | None = None,
) -> Tensor:  # fmt: skip
    """The context (..., T, Dv) of scaled dot-product attention, for those who do not look at the weights
    (`attention` returns both).

    query (..., T, D), key (..., S, D), value (..., S, Dv), with the same leading axes: (B,), or (B, heads).
    mask, causal: see `key_mask`. scale: 1/√D if None. A query without any real key gets the context 0.
    dropout: of the weights, from random stream `stream`.
    """
    q, k, v = (tuple(x.shape) for x in (query, key, value))
    if len(q) < 3 or q[:-2] != k[:-2] or q[-1] != k[-1] or k[:-1] != v[:-1]:
        raise ShapeError(
            f"attention expects query (..., T, D), key (..., S, D), value (..., S, Dv) but got {q}, {k}, {v}"
        )
    if not 0.0 <= dropout < 1.0:
        raise ValueError(f"dropout probability must be at least 0 and below 1, not {dropout}")
    place: Place | None = None
    each = math.prod(q[1:-1]) * k[-2]  # weights of one row of the batch
    if dropout and each * q[0]:
        if stream is None:
            raise ValueError("dropout of attention weights needs a stream: backend.random.new_stream()")
        state, call = random.state, random.next_call(stream)
        place = (float(dropout), state.row_offset * each, stream, call, state.step, state.seed)
    mask = key_mask(mask, query, key)
    options = {"mask": mask, "causal": causal, "scale": default_scale(query, scale), "place": place}
    return Attention.apply(query, key, value, **options)
