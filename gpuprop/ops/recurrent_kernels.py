"""GRU and LSTM where kernels run: a product and one kernel a time step, each way (recurrent.cu).

Inside, sequences are (L, B, ...), as in `recurrent`; the kernels write the output and read its gradient as
(B, L, H).
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

from ..backend import kernels
from ..backend.arrays import Array, get_xp
from ..backend.gemm import matmul as product
from ..backend.gemm import rows
from ..backprop import Context
from . import activation_kernels, recurrent
from .linear import column_sums, weight_gradient

THREADS, MOST_BLOCKS = 256, 65536


class Kept(NamedTuple):
    """From forward for backward: gates (L, B, n H), one more array (L, B, H) of each time, the states
    (L + 1, B, H) and those of the cells, mask (B, L)."""

    gates: Array
    more: Array
    h: Array
    c: Array | None
    mask: Array | None
    reverse: bool


def usable(x: Array, *weights: Array) -> bool:
    """Whether the kernels take these arrays."""
    return x.size > 0 and activation_kernels.usable(x, *weights)


def forward(
    ctx: Context, x: Array, weights: tuple[Array, ...], h0: Array | None, c0: Array | None,
    mask: Array | None, reverse: bool, cells: bool,
) -> tuple[Any, ...]:  # fmt: skip
    """(y (B, L, H), the last h, the last c) of an LSTM, or where `cells` is False of a GRU."""
    xp, (weight_ih, weight_hh, *biases) = get_xp(x), weights
    sequence, size = recurrent.swap_time(x), weight_hh.shape[1]
    length, batch, _ = sequence.shape
    gates = product(rows(sequence), weight_ih.T).reshape(length, batch, -1)
    shape = (length + 1, batch, size)
    h, c = xp.empty(shape, x.dtype), xp.empty(shape, x.dtype) if cells else None
    first, last = (length, 0) if reverse else (0, length)
    for state, start in ((h, h0), (c, c0)):
        if state is not None:
            state[first] = 0 if start is None else start
    more, y = xp.empty((length, batch, size), x.dtype), xp.empty((batch, length, size), x.dtype)
    mask = None if mask is None else xp.ascontiguousarray(mask, dtype=bool)
    kept = Kept(gates, more, h, c, mask, reverse)
    constants = [xp.ascontiguousarray(b) for b in biases]
    products = xp.empty((batch, gates.shape[2]), x.dtype)
    (before, after), cell = recurrent.states(h, reverse), _cells(kept)
    run = _kernel("lstm_forward" if cells else "gru_forward", x)
    for t in recurrent.steps(length, reverse):
        product(before[t], weight_hh.T, out=products)
        states = (before[t], cell[0][t], after[t], cell[1][t]) if cells else (before[t], after[t])
        run(
            *_grid(before[t]),
            (gates[t], products, *constants, *states, more[t], y, mask, *_sizes(batch, size, length, t)),
        )
    ctx.save(sequence, weight_ih, weight_hh, kept)
    return y, h[last].copy(), None if c is None else c[last].copy()


def backward(ctx: Context, dy: Array | None, dh_n: Array | None, dc_n: Array | None) -> tuple[Any, ...]:
    """Gradients of x, both weights, both biases and the first states; of those not wanted, None."""
    sequence, weight_ih, weight_hh, kept = ctx.saved
    xp, cells = get_xp(sequence), kept.c is not None
    length, batch, size = kept.more.shape
    before, _ = recurrent.states(kept.h, kept.reverse)
    carry, cell = (recurrent.gradient_of_state(d, before[0]) for d in (dh_n, dc_n))
    dy = None if dy is None else xp.ascontiguousarray(dy, dtype=carry.dtype)
    inner = kept.gates if cells else xp.empty_like(kept.gates)
    run = _kernel("lstm_backward" if cells else "gru_backward", carry)
    through = None
    for t in reversed(recurrent.steps(length, kept.reverse)):
        shared = (dy, kept.mask, carry)
        if cells:
            args = (kept.gates[t], kept.more[t], _cells(kept)[0][t], *shared, cell, through)
        else:
            args = (kept.gates[t], kept.more[t], before[t], *shared, through, inner[t])
        run(*_grid(carry), (*args, *_sizes(batch, size, length, t)))
        through = product(inner[t], weight_hh, out=through)
    if through is not None:
        carry += through
    outer, inner, wants = rows(kept.gates), rows(inner), ctx.needs_grad
    found = (
        product(outer, weight_ih).reshape(sequence.shape).swapaxes(0, 1) if wants[0] else None,
        weight_gradient(ctx, 1, rows(sequence), outer) if wants[1] else None,
        weight_gradient(ctx, 2, rows(xp.ascontiguousarray(before)), inner) if wants[2] else None,
        column_sums(outer, ctx.destination(3)) if wants[3] else None,
        column_sums(inner, ctx.destination(4)) if wants[4] else None,
        carry if wants[5] else None,
    )
    return (*found, cell if wants[6] else None) if cells else found


def _cells(kept: Kept) -> tuple[Any, Any]:
    return (None, None) if kept.c is None else recurrent.states(kept.c, kept.reverse)


def _kernel(name: str, like: Array) -> kernels.Kernel:
    return kernels.project("recurrent", f"{name}<{', '.join(kernels.c_types(like.dtype))}>")


def _grid(state: Array) -> tuple[int, int]:
    return min(math.ceil(state.size / THREADS), MOST_BLOCKS), THREADS


def _sizes(batch: int, size: int, length: int, t: int) -> tuple[int, int, int, int]:
    return batch * size, size, length, t
