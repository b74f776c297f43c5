"""Gated recurrent units over a whole sequence, as one operation."""

from __future__ import annotations

from typing import Any

from ..backend.arrays import Array, get_xp
from ..backend.buffers import copy, empty
from ..backend.gemm import matmul as product
from ..backend.gemm import rows
from ..backend.threads import over_rows
from ..backprop import Context
from ..op import Op
from ..tensors import Tensor
from . import persistent_kernels, recurrent, recurrent_kernels
from .cast import as_weight
from .linear import column_sums, weight_gradient
from .masks import real_tokens


class GRU(Op):
    """One direction of one layer (Cho et al. 2014, section 2.3, with the reset gate after the product and two
    biases, as in cuDNN and PyTorch):

        r = σ(W_ir x + b_ir + W_hr h + b_hr)              reset
        z = σ(W_iz x + b_iz + W_hz h + b_hz)              update
        n = tanh(W_in x + b_in + r (W_hn h + b_hn))       candidate
        h' = (1 - z) n + z h

    x (B, L, I), weight_ih (3H, I), weight_hh (3H, H), biases (3H,) in the order r, z, n, h0 (B, H) or None
    -> every h' (B, L, H), and the last (B, H).

    Kept is q = 1 - z, so that h' = h + q (n - h). At padding q is 0: the state passes unchanged, and so does
    its gradient, without a branch. With u = q dh', the gradients before the gates' functions are
        dn = u (1 - n²)     dz = u (h - n)(1 - q)     dr = dn (W_hn h + b_hn) r (1 - r)     dh = dh' - u + ...
    where ... is what flows through W_hh from (dr, dz, r dn). Those of the weights and of x are one product
    over all steps each.
    """

    @staticmethod
    def forward(
        ctx: Context, x: Array, weight_ih: Array, weight_hh: Array, bias_ih: Array, bias_hh: Array,
        h0: Array | None, *, mask: Array | None, reverse: bool,
    ) -> tuple[Array, Array]:  # fmt: skip
        weights = (weight_ih, weight_hh, bias_ih, bias_hh)
        if persistent_kernels.fits(x, [weights]):
            return persistent_kernels.forward(ctx, x, [weights], [h0], None, mask, reverse)[:2]
        if recurrent_kernels.usable(x, *weights):
            return recurrent_kernels.forward(ctx, x, weights, h0, None, mask, reverse, cells=False)[:2]
        xp = get_xp(x)
        sequence, pad = recurrent.swap_time(x), recurrent.padding(mask)
        length, batch, _ = sequence.shape
        size = weight_hh.shape[1]
        gates = product(rows(sequence), weight_ih.T).reshape(length, batch, 3 * size)
        if pad is not None:
            xp.copyto(gates[..., size : 2 * size], recurrent.SATURATED, where=pad)
        h = empty(xp, (length + 1, batch, size), gates.dtype)
        before, after = recurrent.states(h, reverse)
        h[length if reverse else 0] = 0 if h0 is None else h0
        reset = empty(xp, (length, batch, size), gates.dtype)  # W_hn h + b_hn, what r is multiplied with
        bias = bias_hh.copy()
        bias[: 2 * size] += bias_ih[: 2 * size]
        half = xp.full(2 * size, 0.5, gates.dtype)  # σ(x) = 1/2 + tanh(x/2)/2; the other sign gives 1 - σ
        half[size:] = -0.5

        def work(start: int, stop: int) -> None:
            part = slice(start, stop)
            products = empty(xp, (stop - start, 3 * size), gates.dtype)
            for t in recurrent.steps(length, reverse):
                product(before[t, part], weight_hh.T, out=products)
                products += bias
                at = (t, part)
                _step(xp, gates[at], products, reset[at], before[at], after[at], half, bias_ih[2 * size :])

        over_rows(work, batch, recurrent.cost(gates, batch), products=True)
        ctx.save(sequence, weight_ih, weight_hh, gates, reset, h, pad, reverse)
        return recurrent.without_padding(after, pad), copy(xp, h[0 if reverse else length])

    @staticmethod
    def backward(ctx: Context, dy: Array | None, dh_n: Array | None) -> tuple[Array | None, ...]:
        if isinstance(ctx.saved[-1], persistent_kernels.Kept):
            return persistent_kernels.backward(ctx, dy, dh_n)
        if isinstance(ctx.saved[-1], recurrent_kernels.Kept):
            return recurrent_kernels.backward(ctx, dy, dh_n, None)
        sequence, weight_ih, weight_hh, gates, reset, h, pad, reverse = ctx.saved
        need_x, need_wi, need_wh, need_bi, need_bh, need_h0 = ctx.needs_grad
        xp = get_xp(gates)
        length, batch, size = reset.shape
        before, _ = recurrent.states(h, reverse)
        slope_z = _local_slopes(xp, gates, reset, before)
        # `inner` is for the gradients of W_hh h + b_hh; `gates` becomes those of W_ih x + b_ih
        inner = empty(xp, gates.shape, gates.dtype)
        dh, u = recurrent.gradient_of_state(dh_n, h[0]), empty(xp, h[0].shape, h.dtype)
        dy = recurrent.gradient_of_output(dy, pad)

        def work(start: int, stop: int) -> None:
            part = slice(start, stop)
            d, v = dh[part], u[part]
            for t in reversed(recurrent.steps(length, reverse)):
                if dy is not None:
                    d += dy[t, part]
                at = (t, part)
                xp.multiply(d, gates[t, part, size : 2 * size], out=v)
                _step_back(xp, gates[at], inner[at], reset[at], slope_z[at], v)
                d -= v
                d += product(inner[at], weight_hh, out=v)

        over_rows(work, batch, recurrent.cost(gates, batch), products=True)
        outer, inner = rows(gates), rows(inner)
        return (
            product(outer, weight_ih).reshape(sequence.shape).swapaxes(0, 1) if need_x else None,
            weight_gradient(ctx, 1, rows(sequence), outer) if need_wi else None,
            weight_gradient(ctx, 2, rows(before), inner) if need_wh else None,
            column_sums(outer, ctx.destination(3)) if need_bi else None,
            column_sums(inner, ctx.destination(4)) if need_bh else None,
            dh if need_h0 else None,
        )


def _step(
    xp: Any, gates: Array, products: Array, reset: Array, before: Array, after: Array, half: Array,
    b_in: Array,
) -> None:  # fmt: skip
    """gates (B, 3H): W_ih x becomes r, q, n. products: W_hh h and the biases that are added to it."""
    size = before.shape[-1]
    rq, r, q, n = gates[:, : 2 * size], gates[:, :size], gates[:, size : 2 * size], gates[:, 2 * size :]
    rq += products[:, : 2 * size]
    rq *= 0.5
    xp.tanh(rq, out=rq)
    rq *= half
    rq += 0.5
    reset[...] = products[:, 2 * size :]
    xp.multiply(reset, r, out=after)
    n += after
    n += b_in
    xp.tanh(n, out=n)
    xp.subtract(n, before, out=after)
    after *= q
    after += before


def _local_slopes(xp: Any, gates: Array, reset: Array, before: Array) -> Array:
    """The factors that need no dh', for all steps at once: n becomes 1 - n², `reset` becomes
    (W_hn h + b_hn) r (1 - r); returns (h - n)(1 - q)."""
    size = before.shape[-1]
    r, q, n = gates[..., :size], gates[..., size : 2 * size], gates[..., 2 * size :]
    slope_z, rest = (empty(xp, reset.shape, reset.dtype) for _ in range(2))
    xp.subtract(before, n, out=slope_z)
    xp.subtract(1.0, q, out=rest)
    slope_z *= rest
    n *= n
    xp.subtract(1.0, n, out=n)
    reset *= r
    xp.subtract(1.0, r, out=rest)
    reset *= rest
    return slope_z


def _step_back(xp: Any, gates: Array, inner: Array, slope_r: Array, slope_z: Array, u: Array) -> None:
    """gates (B, 3H): r, q, 1 - n² become dr, dz, dn; inner becomes dr, dz, r dn. u = q dh'."""
    size = u.shape[-1]
    r, dz, dn = gates[:, :size], gates[:, size : 2 * size], gates[:, 2 * size :]
    dn *= u
    xp.multiply(dn, r, out=inner[:, 2 * size :])
    xp.multiply(dn, slope_r, out=r)
    xp.multiply(u, slope_z, out=dz)
    inner[:, : 2 * size] = gates[:, : 2 * size]


def gru(
    x: Any, weight_ih: Any, weight_hh: Any, bias_ih: Any, bias_hh: Any, h0: Any = None, *,
    mask: Any = None, reverse: bool = False,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """A GRU over x (B, L, I) -> (output (B, L, H), last state (B, H)).

    mask (B, L), True = real token: elsewhere the output is 0 and the state passes unchanged.
    reverse runs from the last token to the first. One token (L = 1) is a decoder's step.
    """
    x, mask = as_weight(x, weight_ih), real_tokens(mask, x)
    return GRU.apply(x, weight_ih, weight_hh, bias_ih, bias_hh, h0, mask=mask, reverse=reverse)
