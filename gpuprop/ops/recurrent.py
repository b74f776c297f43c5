"""What the recurrent operations share: the time axis in front while they run, and steps that padding skips.

Inside, sequences are (L, B, ...), so that a step is one contiguous block; outside they are (B, L, ...).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from ..backend.arrays import Array, get_xp
from ..backend.buffers import contiguous, copy, empty, zeros
from ..backend.gemm import matmul as product
from ..backend.threads import host_size
from ..backprop import Context

MOST_ROWS_AT_ONCE = 16  # a product with fewer rows wastes more than a second thread brings
CACHED = 1 << 14  # numbers of one gate at a time: what stays in a core's cache with the other gates
LEAST_BLOCK = 64  # rows of the batch at a time, at least: products with fewer are slow
LEAST_ROWS = 256  # of a product over several steps: with fewer, reading the weights costs most
SMALL_STEP = 1 << 11  # numbers of one gate at one time, up to which a call costs more than its work
COPY_PAYS = 128  # rows at all times together, from which a copy of the weights in the products' order does
LINE = 16  # numbers of a transposed copy at a time, along the axis it is slow at: a line of the cache
SATURATED = 1e4  # added to a gate, its sigmoid is exactly 0 or 1 in every type


def swap_time(x: Array) -> Array:
    """(B, L, ...) to (L, B, ...) or back, contiguous."""
    return contiguous(get_xp(x), x.swapaxes(0, 1))


def padding(mask: Array | None) -> Array | None:
    """mask (B, L), True at real tokens -> (L, B, 1), True at padding."""
    return None if mask is None else ~swap_time(mask)[..., None]


def steps(length: int, reverse: bool) -> list[int]:
    """The times in the order in which they are visited."""
    return list(range(length - 1, -1, -1) if reverse else range(length))


def states(h: Array, reverse: bool) -> tuple[Array, Array]:
    """Views of h (L + 1, B, H): the states before and after each time, both (L, B, H). Forward, h[0] is the
    initial state and h[t + 1] follows time t; in reverse h[L] is the initial one and h[t] follows time t."""
    return (h[1:], h[:-1]) if reverse else (h[:-1], h[1:])


def without_padding(x: Array, pad: Array | None) -> Array:
    """x (L, B, H) with zeros at padding, as (B, L, H)."""
    return swap_time(x) if pad is None else _at_real(x.swapaxes(0, 1), pad.swapaxes(0, 1))


def _at_real(x: Array, pad: Array) -> Array:
    """x with zeros at padding, in C order."""
    xp = get_xp(x)
    return xp.multiply(x, ~pad, out=empty(xp, x.shape, x.dtype))


def gradient_of_output(dy: Array | None, pad: Array | None) -> Array | None:
    """dy (B, L, H) as (L, B, H), zero at padding, whose output is 0 whatever the state."""
    if dy is None:
        return None
    dy = dy.swapaxes(0, 1)
    return dy if pad is None else _at_real(dy, pad)


def gradient_of_state(dh: Array | None, like: Array) -> Array:
    """A buffer of our own that starts with the gradient of the last state, 0 where nobody used it."""
    xp = get_xp(like)
    return zeros(xp, like.shape, like.dtype) if dh is None else copy(xp, dh)


def cost(gates: Array, batch: int) -> int:
    """How much a walk over the gates of all times is worth to the threads: its products count most. Each of a
    few threads then walks over all times with its part of the rows."""
    return host_size(gates) * min(4, batch // MOST_ROWS_AT_ONCE)


def by_gate(weight: Array, size: int) -> Array:
    """weight (n H, I) as a view (n, I, H): what rows (N, I) are multiplied with to get each gate (N, H).

    Products of this size are fastest one gate at a time, and a gate is then one contiguous block.
    """
    return weight.T.reshape(weight.shape[1], -1, size).swapaxes(0, 1)


def copy_pays(weight: Array, rows: int) -> bool:
    """Whether products with that many rows, at all times together, are worth a copy of the weight."""
    return rows >= COPY_PAYS or not isinstance(weight, np.ndarray)


def by_input(weight: Array, size: int, copied: bool) -> Array:
    """weight (n H, I) as (n, H, I): what the gradients (N, H) of each gate are multiplied with, as a view or
    as a copy in the order that products are fastest with."""
    weights = weight.reshape(-1, size, weight.shape[1])
    if not copied or not isinstance(weight, np.ndarray):
        return contiguous(get_xp(weight), weights) if copied else weights
    y = empty(np, weights.shape, weight.dtype)
    for i in range(0, y.shape[2], LINE):
        y[..., i : i + LINE] = weights[..., i : i + LINE]
    return y


def for_each_gate(x: Array, gates: int) -> Array:
    """x once for each gate, without a copy: (...) -> (gates, ...)."""
    return get_xp(x).broadcast_to(x, (gates, *x.shape))


def gate_space(gates: int, length: int, batch: int, size: int, like: Array) -> Array:
    """Memory (gates, L, B, H). The steps of a gate follow each other, so that all of them are rows of one
    matrix; but the gates of a small step do, since NumPy is faster on what is contiguous."""
    xp = get_xp(like)
    if batch * size <= SMALL_STEP:
        return empty(xp, (length, gates, batch, size), like.dtype).swapaxes(0, 1)
    return empty(xp, (gates, length, batch, size), like.dtype)


def row_blocks(gates: Array, start: int, stop: int) -> Iterator[slice]:
    """The rows start..stop of gates (n, L, B, H) in blocks that stay in cache; on a GPU all at once."""
    size = (
        max(LEAST_BLOCK, CACHED // gates.shape[3]) if isinstance(gates, np.ndarray) else max(1, stop - start)
    )
    for i in range(start, stop, size):
        yield slice(i, min(i + size, stop))


def spans(gates: Array, part: slice, backwards: bool) -> Iterator[tuple[slice, list[int]]]:
    """The times of gates (n, L, B, H) in the order in which they are visited, in groups that stay in cache
    with the rows of a part: (as a slice, each)."""
    length, rows = gates.shape[1], max(1, part.stop - part.start)
    count = max(1, LEAST_ROWS // rows, CACHED // (rows * gates.shape[3]))
    count = count if isinstance(gates, np.ndarray) else max(1, length)
    starts = range(0, length, count)
    for start in reversed(starts) if backwards else starts:
        stop = min(start + count, length)
        yield slice(start, stop), [start + t for t in steps(stop - start, backwards)]


def in_turn(backwards: bool, *arrays: Array | None) -> Iterator[tuple[Any, ...]]:
    """The views of arrays (..., N, B, H) at each of their N times, in the order in which these are visited;
    None for an array that is None. Views made this way cost half of those that indices make."""
    count = next(x.shape[-3] for x in arrays if x is not None)
    views = [[None] * count if x is None else list(x.swapaxes(0, x.ndim - 3)) for x in arrays]
    return zip(*(map(reversed, views) if backwards else views), strict=True)


def times_weights(x: Array, weights: Array, out: Array | None = None) -> Array:
    """x (n, N, B, K), or with n = 1, times weights (n, K, M) -> (n, N, B, M), into `out` if given."""
    gates, (_, count, batch, inner) = weights.shape[0], x.shape
    rows = x.reshape(x.shape[0], count * batch, inner)
    rows = get_xp(x).broadcast_to(rows, (gates, *rows.shape[1:]))
    if out is None:
        return product(rows, weights).reshape(gates, count, batch, -1)
    if count == 1 or out.strides[1] == batch * out.strides[2]:
        product(rows, weights, out=out.reshape(gates, count * batch, -1))
    else:
        out[...] = product(rows, weights).reshape(out.shape)
    return out


def sum_of_gates(x: Array, out: Array) -> None:
    """Σ over the first axis of x (n, ...) into `out`, as a product with ones, which is faster than a sum."""
    ones = get_xp(x).ones((1, x.shape[0]), x.dtype)
    out[...] = product(ones, x.reshape(x.shape[0], -1)).reshape(out.shape)


def rows_of_gates(gates: Array) -> Array:
    """(n, L, B, H) -> (n, L · B, H)"""
    return contiguous(get_xp(gates), gates).reshape(gates.shape[0], -1, gates.shape[3])


def weight_gradient(ctx: Context, i: int, x: Array, gates: Array) -> Array:
    """Σ over steps and rows of gatesᵀ x: x (L, B, I) and gradients of gates (n, L · B, H) -> (n H, I), into
    the memory of input i's gradient where there is some."""
    into, (count, _, size), width = ctx.destination(i), gates.shape, x.shape[2]
    if into is None:
        into = empty(get_xp(x), (width, count * size), gates.dtype).T
    product(for_each_gate(x.reshape(-1, width).T, count), gates, out=by_gate(into, size))
    return into


def bias_gradient(ctx: Context, i: int, gates: Array) -> Array:
    """Σ over steps and rows of gradients of gates (n, L · B, H) -> (n H,), as `weight_gradient`."""
    total = product(get_xp(gates).ones((gates.shape[0], 1, gates.shape[1]), gates.dtype), gates).reshape(-1)
    into = ctx.destination(i)
    if into is None:
        return total
    into[...] = total
    return into
