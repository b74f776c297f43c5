"""Long short-term memory over a whole sequence, as one operation."""

from __future__ import annotations

from typing import Any

import numpy as np

from ..backend.arrays import Array, get_xp
from ..backend.buffers import copy, empty
from ..backend.gemm import repeated
from ..backend.threads import over_rows
from ..backprop import Context
from ..op import Op
from ..tensors import Tensor
from . import persistent_kernels, recurrent, recurrent_kernels
from .cast import as_weight
from .masks import real_tokens


class LSTM(Op):
    """One direction of one layer (Hochreiter and Schmidhuber 1997; forget gate of Gers et al. 2000; two
    biases, as in cuDNN and PyTorch):

        i = σ(W_ii x + b_ii + W_hi h + b_hi)          input gate
        f = σ(W_if x + b_if + W_hf h + b_hf)          forget gate
        g = tanh(W_ig x + b_ig + W_hg h + b_hg)       candidate
        o = σ(W_io x + b_io + W_ho h + b_ho)          output gate
        c' = f c + i g        h' = o tanh c'

    x (B, L, I), weight_ih (4H, I), weight_hh (4H, H), biases (4H,) in the order i, f, g, o, h0 and c0 (B, H)
    or None -> every h' (B, L, H), and the last h and c (B, H).

    With dc = dc' + dh' o (1 - tanh² c'), the gradients before the gates' functions are
        di = dc g i (1 - i)     df = dc c f (1 - f)     dg = dc i (1 - g²)     do = dh' tanh(c') o (1 - o)
    and dc f goes on to c, W_hhᵀ (di, df, dg, do) to h. At padding i = 0 and f = 1, so that c and dc pass
    unchanged; h and dh are handed past the step.
    """

    @staticmethod
    def forward(
        ctx: Context, x: Array, weight_ih: Array, weight_hh: Array, bias_ih: Array, bias_hh: Array,
        h0: Array | None, c0: Array | None, *, mask: Array | None, reverse: bool,
    ) -> tuple[Array, Array, Array]:  # fmt: skip
        arrays = (weight_ih, weight_hh, bias_ih, bias_hh)
        if persistent_kernels.fits(x, [arrays]):
            return persistent_kernels.forward(ctx, x, [arrays], [h0], [c0], mask, reverse)
        if recurrent_kernels.usable(x, *arrays):
            return recurrent_kernels.forward(ctx, x, arrays, h0, c0, mask, reverse, cells=True)
        xp = get_xp(x)
        sequence, pad = recurrent.swap_time(x), recurrent.padding(mask)
        length, batch, _ = sequence.shape
        size = weight_hh.shape[1]
        space = recurrent.gate_space(5, length + 1, batch, size, weight_hh)  # i, f, g, o, and c
        h, tanh_c = (empty(xp, (n, batch, size), space.dtype) for n in (length + 1, length))
        first, last = (length, 0) if reverse else (0, length)
        h[first] = 0 if h0 is None else h0
        space[4, first] = 0 if c0 is None else c0
        parts = space[:, 1:] if reverse else space[:, :-1]  # the c before each time beside its gates
        states = (*recurrent.states(h, reverse), recurrent.states(space[4], reverse)[1], tanh_c)
        padded = _padded_steps(pad, length)
        copied = recurrent.copy_pays(weight_hh, length * batch)
        weights = _weights(xp, weight_ih, weight_hh, bias_ih + bias_hh, copied)

        def work(start: int, stop: int) -> None:
            for part in recurrent.row_blocks(parts, start, stop):
                _walk(xp, sequence, weights, parts, states, pad, padded, part, reverse)

        over_rows(work, batch, recurrent.cost(parts, batch), products=True)
        ctx.save(sequence, weight_ih, weight_hh, parts, tanh_c, h, pad, padded, reverse)
        return recurrent.without_padding(states[1], pad), copy(xp, h[last]), copy(xp, space[4, last])

    @staticmethod
    def backward(
        ctx: Context, dy: Array | None, dh_n: Array | None, dc_n: Array | None
    ) -> tuple[Array | None, ...]:
        if isinstance(ctx.saved[-1], persistent_kernels.Kept):
            return persistent_kernels.backward(ctx, dy, dh_n, dc_n)
        if isinstance(ctx.saved[-1], recurrent_kernels.Kept):
            return recurrent_kernels.backward(ctx, dy, dh_n, dc_n)
        sequence, weight_ih, weight_hh, parts, tanh_c, h, pad, padded, reverse = ctx.saved
        need_x, need_wi, need_wh, need_bi, need_bh, need_h0, need_c0 = ctx.needs_grad
        xp = get_xp(h)
        dh, dc = recurrent.gradient_of_state(dh_n, h[0]), recurrent.gradient_of_state(dc_n, h[0])
        dy = recurrent.gradient_of_output(dy, pad)
        dx = empty(xp, sequence.shape, h.dtype) if need_x else None
        length, batch, size = tanh_c.shape
        w_x = recurrent.by_input(weight_ih, size, recurrent.copy_pays(h, length * batch // 8))
        w_h = recurrent.by_input(weight_hh, size, recurrent.copy_pays(h, length * batch))

        def work(start: int, stop: int) -> None:
            for part in recurrent.row_blocks(parts, start, stop):
                for span, _ in recurrent.spans(parts, part, not reverse):
                    gates, slopes = parts[:, span, part], tanh_c[span, part]
                    _local_slopes(xp, gates, slopes)
                    from_y = None if dy is None else dy[span, part]
                    masked = pad[span, part] if pad is not None and any(padded[span]) else None
                    _walk_back(xp, from_y, gates, slopes, dh[part], dc[part], w_h, masked, not reverse)
                    if dx is not None:
                        recurrent.sum_of_gates(recurrent.times_weights(gates[:4], w_x), dx[span, part])

        over_rows(work, batch, recurrent.cost(parts, batch), products=True)
        gates, before = recurrent.rows_of_gates(parts[:4]), recurrent.states(h, reverse)[0]
        return (
            None if dx is None else dx.swapaxes(0, 1),
            recurrent.weight_gradient(ctx, 1, sequence, gates) if need_wi else None,
            recurrent.weight_gradient(ctx, 2, before, gates) if need_wh else None,
            recurrent.bias_gradient(ctx, 3, gates) if need_bi else None,
            recurrent.bias_gradient(ctx, 4, gates) if need_bh else None,
            dh if need_h0 else None,
            dc if need_c0 else None,
        )


def _padded_steps(pad: Array | None, length: int) -> list[bool]:
    """Which steps have padding, as far as the host knows: for CuPy, all of them, since a look would wait."""
    if pad is None:
        return [False] * length
    if isinstance(pad, np.ndarray):
        return [bool(step.any()) for step in pad]
    return [True] * length


def _weights(xp: Any, weight_ih: Array, weight_hh: Array, bias: Array, copied: bool) -> tuple[Any, ...]:
    """(W_i, W_h, bias, first, half, rest): weights one gate at a time, and what makes one tanh over all four
    of σ(x) = 1/2 + tanh(x/2)/2 for i, f, o and tanh(x) for g: what its argument and its result are multiplied
    with, and what is added to the result. Weights that are copied are multiplied with the first: None."""
    size = weight_hh.shape[1]
    half = xp.full((4, 1, 1), 0.5, weight_hh.dtype)
    half[2] = 1.0
    used = (*(recurrent.by_gate(w, size) for w in (weight_ih, weight_hh)), bias.reshape(4, 1, size))
    if not copied:
        return *used, half, half, 1.0 - half
    used = tuple(xp.multiply(w, half, out=empty(xp, w.shape, half.dtype)) for w in used)
    return *used, None, half, 1.0 - half


def _walk(
    xp: Any, sequence: Array, weights: Any, parts: Array, states: Any, pad: Array | None, padded: list[bool],
    part: slice, reverse: bool,
) -> None:  # fmt: skip
    """All times, for some rows of the batch."""
    w_x, w_h, bias, first, half, rest = weights
    h_before, h_after, c_after, tanh_c = states
    products = empty(xp, (4, part.stop - part.start, w_h.shape[2]), parts.dtype)
    all_before = recurrent.for_each_gate(h_before, 4)
    multiply = repeated(all_before[:, 0, part], w_h)
    bias = bias + xp.zeros_like(products)
    if products[0].size <= recurrent.SMALL_STEP:  # arrays of one shape cost the least a call
        half, rest = (x + xp.zeros_like(products) for x in (half, rest))
    for span, times in recurrent.spans(parts, part, reverse):
        some = parts[:, span, part]
        gates = recurrent.times_weights(sequence[None, span, part], w_x, some[:4])
        gates += bias[:, None]
        if pad is not None:
            xp.copyto(gates[0], -recurrent.SATURATED, where=pad[span, part])
            xp.copyto(gates[1], recurrent.SATURATED, where=pad[span, part])
        before, *after = (a[..., span, part, :] for a in (all_before, h_after, c_after, tanh_c))
        views = recurrent.in_turn(reverse, before, gates, *some, *after)
        for t, (h, step, i, f, g, o, c, h_next, c_next, tanh) in zip(times, views, strict=True):
            step += multiply(h, w_h, out=products)
            if first is not None:
                step *= first
            xp.tanh(step, out=step)
            step *= half
            step += rest
            xp.multiply(f, c, out=c_next)
            xp.multiply(i, g, out=tanh)
            c_next += tanh
            xp.tanh(c_next, out=tanh)
            xp.multiply(o, tanh, out=h_next)
            if padded[t]:
                xp.copyto(h_next, h[0], where=pad[t, part])  # type: ignore[index]


def _local_slopes(xp: Any, parts: Array, tanh_c: Array) -> None:
    """The factors that need no gradient, for several steps: i, f, g, o, c become g i (1 - i), c f (1 - f),
    i (1 - g²), which dc is multiplied with, tanh(c') o (1 - o), which dh' is multiplied with, and f; tanh_c
    becomes o (1 - tanh² c')."""
    g, o, c = parts[2], parts[3], parts[4]
    slopes = xp.subtract(1.0, parts[:2], out=empty(xp, parts[:2].shape, parts.dtype))
    slopes *= parts[:2]
    slopes *= parts[2::2]
    g *= g
    xp.subtract(1.0, g, out=g)
    g *= parts[0]
    c[...] = parts[1]
    parts[:2] = slopes
    slope = xp.subtract(1.0, o, out=slopes[0])
    slope *= o
    slope *= tanh_c
    tanh_c *= tanh_c
    xp.subtract(1.0, tanh_c, out=tanh_c)
    tanh_c *= o
    o[...] = slope


def _walk_back(
    xp: Any, dy: Array | None, gates: Array, tanh_c: Array, dh: Array, dc: Array, w_h: Array,
    pad: Array | None, reverse: bool,
) -> None:  # fmt: skip
    """Some times, for some rows of the batch: gates (5, N, B, H), dy, tanh_c (N, B, H), pad (N, B, 1) or None
    where nothing is padded; dh and dc (B, H) are handed on in place."""
    to_cell, products = empty(xp, dh.shape, dh.dtype), empty(xp, (4, *dh.shape), dh.dtype)
    ones, flat, all_flat = xp.ones((1, 4), dh.dtype), dh.reshape(1, -1), products.reshape(4, -1)
    multiply, add_up = repeated(gates[:4, 0], w_h), repeated(ones, all_flat)
    views = recurrent.in_turn(reverse, gates[:4], gates[:3], gates[3], gates[4], tanh_c, dy, pad)
    for all_gates, of_cell, o, f, slope, from_y, padding in views:
        if from_y is not None:
            dh += from_y
        passed = None if padding is None else dh * padding
        if passed is not None:
            dh -= passed
        xp.multiply(dh, slope, out=to_cell)
        dc += to_cell
        of_cell *= dc
        o *= dh
        dc *= f
        multiply(all_gates, w_h, out=products)
        add_up(ones, all_flat, out=flat)
        if passed is not None:
            dh += passed


def lstm(
    x: Any, weight_ih: Any, weight_hh: Any, bias_ih: Any, bias_hh: Any, h0: Any = None, c0: Any = None, *,
    mask: Any = None, reverse: bool = False,
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    """An LSTM over x (B, L, I) -> (output (B, L, H), last h (B, H), last c (B, H)).

    mask (B, L), True = real token: elsewhere the output is 0 and the state passes unchanged.
    reverse runs from the last token to the first. One token (L = 1) is a decoder's step.
    """
    x, mask = as_weight(x, weight_ih), real_tokens(mask, x)
    return LSTM.apply(x, weight_ih, weight_hh, bias_ih, bias_hh, h0, c0, mask=mask, reverse=reverse)
