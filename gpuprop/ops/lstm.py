"""Long short-term memory over a whole sequence, as one operation."""

from __future__ import annotations

from typing import Any

import numpy as np

from ..backend.arrays import Array, get_xp
from ..backend.buffers import copy, empty
from ..backend.gemm import matmul as product
from ..backend.gemm import rows
from ..backend.threads import over_rows
from ..backprop import Context
from ..op import Op
from ..tensors import Tensor
from . import recurrent
from .cast import as_weight
from .linear import column_sums, weight_gradient
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
        xp = get_xp(x)
        sequence, pad = recurrent.swap_time(x), recurrent.padding(mask)
        length, batch, _ = sequence.shape
        size = weight_hh.shape[1]
        half, rest = _halves(xp, size, weight_ih.dtype)
        gates = product(rows(sequence), weight_ih.T)
        gates += bias_ih + bias_hh
        gates *= half
        gates = gates.reshape(length, batch, 4 * size)
        recurrent_weight = weight_hh.T * half
        if pad is not None:
            xp.copyto(gates[..., :size], -recurrent.SATURATED, where=pad)
            xp.copyto(gates[..., size : 2 * size], recurrent.SATURATED, where=pad)
        h, c = (empty(xp, (length + 1, batch, size), gates.dtype) for _ in range(2))
        h[length if reverse else 0] = 0 if h0 is None else h0
        c[length if reverse else 0] = 0 if c0 is None else c0
        (h_before, h_after), (c_before, c_after) = (recurrent.states(s, reverse) for s in (h, c))
        tanh_c = empty(xp, (length, batch, size), gates.dtype)
        padded = _padded_steps(pad, length)

        def work(start: int, stop: int) -> None:
            part = slice(start, stop)
            products = empty(xp, (stop - start, 4 * size), gates.dtype)
            for t in recurrent.steps(length, reverse):
                at = (t, part)
                step = gates[at]
                step += product(h_before[at], recurrent_weight, out=products)
                _step(xp, step, c_before[at], c_after[at], tanh_c[at], h_after[at], half, rest)
                if padded[t]:
                    xp.copyto(h_after[at], h_before[at], where=pad[at])  # type: ignore[index]

        over_rows(work, batch, recurrent.cost(gates), products=True)
        ctx.save(sequence, weight_ih, weight_hh, gates, tanh_c, h, c, pad, padded, reverse)
        last = 0 if reverse else length
        return recurrent.without_padding(h_after, pad), copy(xp, h[last]), copy(xp, c[last])

    @staticmethod
    def backward(
        ctx: Context, dy: Array | None, dh_n: Array | None, dc_n: Array | None
    ) -> tuple[Array | None, ...]:
        sequence, weight_ih, weight_hh, gates, tanh_c, h, c, pad, padded, reverse = ctx.saved
        need_x, need_wi, need_wh, need_bi, need_bh, need_h0, need_c0 = ctx.needs_grad
        xp = get_xp(gates)
        h_before, c_before = recurrent.states(h, reverse)[0], recurrent.states(c, reverse)[0]
        dh, dc = recurrent.gradient_of_state(dh_n, h[0]), recurrent.gradient_of_state(dc_n, c[0])
        dy = recurrent.gradient_of_output(dy, pad)
        forget = _local_slopes(xp, gates, tanh_c, c_before)
        size = dh.shape[1]

        def work(start: int, stop: int) -> None:
            part = slice(start, stop)
            d, e, to_cell = dh[part], dc[part], empty(xp, dh[part].shape, dh.dtype)
            for t in reversed(recurrent.steps(len(gates), reverse)):
                at = (t, part)
                if dy is not None:
                    d += dy[at]
                passed = d * pad[at] if padded[t] else None
                if passed is not None:
                    d -= passed
                e += xp.multiply(d, tanh_c[at], out=to_cell)
                step = gates[at]
                step[:, 3 * size :] *= d
                by_gate = step[:, : 3 * size].reshape(stop - start, 3, size)
                by_gate *= e[:, None]
                e *= forget[at]
                product(step, weight_hh, out=d)
                if passed is not None:
                    d += passed

        over_rows(work, dh.shape[0], recurrent.cost(gates), products=True)
        inner = rows(gates)
        bias = column_sums(inner)
        return (
            product(inner, weight_ih).reshape(sequence.shape).swapaxes(0, 1) if need_x else None,
            weight_gradient(ctx, 1, rows(sequence), inner) if need_wi else None,
            weight_gradient(ctx, 2, rows(h_before), inner) if need_wh else None,
            bias if need_bi else None,
            bias.copy() if need_bh else None,  # not the same array: clipping may scale each in place
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


def _halves(xp: Any, size: int, dtype: Any) -> tuple[Array, Array]:
    """σ(x) = 1/2 + tanh(x/2)/2 for i, f, o and tanh(x) for g, by one tanh over all four: what its argument
    and its result are multiplied with, and what is added to the result, (4H,)."""
    half = xp.full(4 * size, 0.5, dtype)
    half[2 * size : 3 * size] = 1.0
    return half, 1.0 - half


def _step(
    xp: Any, gates: Array, c_before: Array, c_after: Array, tanh_c: Array, h_after: Array, half: Array,
    rest: Array,
) -> None:  # fmt: skip
    """gates (B, 4H) before their functions, times `half`, become i, f, g, o."""
    size = c_before.shape[-1]
    i, f, g, o = (gates[:, k * size : (k + 1) * size] for k in range(4))
    xp.tanh(gates, out=gates)
    gates *= half
    gates += rest
    xp.multiply(f, c_before, out=c_after)
    xp.multiply(i, g, out=tanh_c)
    c_after += tanh_c
    xp.tanh(c_after, out=tanh_c)
    xp.multiply(o, tanh_c, out=h_after)


def _local_slopes(xp: Any, gates: Array, tanh_c: Array, c_before: Array) -> Array:
    """The factors that need no gradient, for all steps at once; returns a copy of f.

    gates: i, f, g, o become g i (1 - i), c f (1 - f), i (1 - g²), what dc is multiplied with, and
    tanh(c') o (1 - o), what dh' is multiplied with; tanh_c becomes o (1 - tanh² c').
    """
    size = c_before.shape[-1]
    i, f, g, o = (gates[..., k * size : (k + 1) * size] for k in range(4))
    forget, slope = f.copy(), 1.0 - i
    slope *= i
    slope *= g
    g *= g
    xp.subtract(1.0, g, out=g)
    g *= i
    i[...] = slope
    xp.subtract(1.0, f, out=slope)
    f *= slope
    f *= c_before
    xp.subtract(1.0, o, out=slope)
    slope *= o
    slope *= tanh_c
    tanh_c *= tanh_c
    xp.subtract(1.0, tanh_c, out=tanh_c)
    tanh_c *= o
    o[...] = slope
    return forget


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
