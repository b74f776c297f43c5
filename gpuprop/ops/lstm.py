"""Long short-term memory over a whole sequence, as one operation."""

from __future__ import annotations

from typing import Any

import numpy as np

from ..backend.arrays import Array, get_xp
from ..backend.gemm import matmul as product
from ..backend.gemm import rows
from ..backprop import Context, Op, Tensor
from . import recurrent
from .linear import column_sums
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
        gates = product(rows(sequence), weight_ih.T).reshape(length, batch, 4 * size)
        if pad is not None:
            xp.copyto(gates[..., :size], -recurrent.SATURATED, where=pad)
            xp.copyto(gates[..., size : 2 * size], recurrent.SATURATED, where=pad)
        h, c = (xp.empty((length + 1, batch, size), gates.dtype) for _ in range(2))
        h[length if reverse else 0] = 0 if h0 is None else h0
        c[length if reverse else 0] = 0 if c0 is None else c0
        (h_before, h_after), (c_before, c_after) = (recurrent.states(s, reverse) for s in (h, c))
        tanh_c = xp.empty((length, batch, size), gates.dtype)
        bias = bias_ih + bias_hh
        padded = _padded_steps(pad, length)
        for t in recurrent.steps(length, reverse):
            gates[t] += product(h_before[t], weight_hh.T)
            gates[t] += bias
            _step(xp, gates[t], c_before[t], c_after[t], tanh_c[t], h_after[t])
            if padded[t]:
                xp.copyto(h_after[t], h_before[t], where=pad[t])  # type: ignore[index]
        ctx.save(sequence, weight_ih, weight_hh, gates, tanh_c, h, c, pad, padded, reverse)
        last = 0 if reverse else length
        return recurrent.without_padding(h_after, pad), h[last].copy(), c[last].copy()

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
        for t in reversed(recurrent.steps(len(gates), reverse)):
            if dy is not None:
                dh += dy[t]
            passed = dh * pad[t] if padded[t] else None
            if passed is not None:
                dh -= passed
            _step_back(xp, gates[t], c_before[t], tanh_c[t], dh, dc)
            dh = product(gates[t], weight_hh)
            if passed is not None:
                dh += passed
        inner = rows(gates)
        bias = column_sums(inner)
        return (
            product(inner, weight_ih).reshape(sequence.shape).swapaxes(0, 1) if need_x else None,
            product(rows(sequence).T, inner).T if need_wi else None,
            product(rows(h_before).T, inner).T if need_wh else None,
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


def _step(xp: Any, gates: Array, c_before: Array, c_after: Array, tanh_c: Array, h_after: Array) -> None:
    """gates (B, 4H) before their functions become i, f, g, o."""
    size = c_before.shape[-1]
    i, f, g, o = (gates[:, k * size : (k + 1) * size] for k in range(4))
    for s in (gates[:, : 2 * size], o):  # σ(x) = 1/2 + tanh(x/2)/2
        s *= 0.5
    xp.tanh(gates, out=gates)
    for s in (gates[:, : 2 * size], o):
        s *= 0.5
        s += 0.5
    xp.multiply(f, c_before, out=c_after)
    xp.multiply(i, g, out=tanh_c)
    c_after += tanh_c
    xp.tanh(c_after, out=tanh_c)
    xp.multiply(o, tanh_c, out=h_after)


def _step_back(xp: Any, gates: Array, c_before: Array, tanh_c: Array, dh: Array, dc: Array) -> None:
    """gates (B, 4H) i, f, g, o become di, df, dg, do; dc' becomes dc, in place; tanh_c and dh are used up."""
    size = dc.shape[-1]
    i, f, g, o = (gates[:, k * size : (k + 1) * size] for k in range(4))
    slope = tanh_c * tanh_c
    xp.subtract(1.0, slope, out=slope)
    slope *= o
    slope *= dh
    dc += slope
    dh *= tanh_c  # do = dh' tanh(c') o (1 - o)
    dh *= o
    xp.subtract(1.0, o, out=slope)
    xp.multiply(dh, slope, out=o)
    xp.multiply(dc, g, out=dh)  # di = dc g i (1 - i), before g and i change
    dh *= i
    xp.subtract(1.0, i, out=slope)
    dh *= slope
    g *= g  # dg = dc i (1 - g²)
    xp.subtract(1.0, g, out=g)
    g *= i
    g *= dc
    i[...] = dh
    xp.subtract(1.0, f, out=slope)  # df = dc c f (1 - f), and dc becomes dc f
    dc *= f
    slope *= c_before
    xp.multiply(dc, slope, out=f)


def lstm(
    x: Any, weight_ih: Any, weight_hh: Any, bias_ih: Any, bias_hh: Any, h0: Any = None, c0: Any = None, *,
    mask: Any = None, reverse: bool = False,
) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
    """An LSTM over x (B, L, I) -> (output (B, L, H), last h (B, H), last c (B, H)).

    mask (B, L), True = real token: elsewhere the output is 0 and the state passes unchanged.
    reverse runs from the last token to the first. One token (L = 1) is a decoder's step.
    """
    mask = real_tokens(mask, x)
    return LSTM.apply(x, weight_ih, weight_hh, bias_ih, bias_hh, h0, c0, mask=mask, reverse=reverse)
