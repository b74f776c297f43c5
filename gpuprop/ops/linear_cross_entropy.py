"""A linear layer and its softmax cross-entropy, so many rows at a time: never are the logits of all there."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from ..backend import kernels
from ..backend.arrays import Array, get_xp, to_host
from ..backend.buffers import empty
from ..backend.gemm import matmul as product
from ..backend.gemm import rows
from ..backend.recording import ones
from ..backend.start import starting_from
from ..backprop import Context
from ..errors import DataError, ShapeError
from ..op import Op
from ..tensors import Tensor
from . import softmax_cross_entropy_kernels as in_kernels
from .cast import as_weight
from .linear import Linear
from .operands import data_of
from .softmax_cross_entropy import (
    NO_BAD_ROW,
    SoftmaxCrossEntropy,
    first_bad_row,
    prepared,
    refuse,
)
from .softmax_cross_entropy_kernels import Options, sum_type

ROWS_A_COLUMN = 4  # chunk_rows / D: then to add up dW costs an eighth of the passes over the logits


class Gradients(NamedTuple):
    """Of the sum of the losses: dx (N, D), and Wᵀ's (D, C) and b's (C,) in the type of the sums; None where
    they are not wanted."""

    x: Array | None
    weight: Array | None
    bias: Array | None


class LinearCrossEntropy(Op):
    """loss = CE(x Wᵀ + b, t)        x (..., D), W (C, D), b (C,) or None, t (...); CE: `SoftmaxCrossEntropy`

    For a chunk of rows, with dz the gradient of the sum of its losses:
        dx = dz W        dW += dzᵀ x        db += Σ dz
    made at once in forward, in the order of the chunks, so that neither logits nor dz are kept: R C numbers
    at a time instead of N C. Backward multiplies by dy, and for the mean by 1 / Σ w_t.
    """

    @staticmethod
    def forward(
        ctx: Context, x: Array, weight: Array, bias: Array | None, *, targets: Array, options: Options,
        chunk_rows: int, first_bad: Array | None,
    ) -> Array:  # fmt: skip
        xp, flat, t, dtype = get_xp(x), rows(x), targets.reshape(-1), sum_type(weight)
        gradients, summed = _gradients(ctx.needs_grad, x, weight), options._replace(reduction="sum")
        loss = xp.zeros((), dtype)
        for i, start in enumerate(range(0, len(flat), chunk_rows)):
            part = slice(start, min(start + chunk_rows, len(flat)))
            bad = None if first_bad is None else first_bad[i : i + 1]
            into = gradients._replace(x=None if gradients.x is None else gradients.x[part])
            loss += _chunk(flat[part], weight, bias, t[part], summed, bad, into, first=i == 0)
        scale = _scale(t, options, dtype) if options.reduction == "mean" else None
        ctx.save(gradients, scale, x.shape)
        return loss if scale is None else xp.asarray(loss * scale)

    @staticmethod
    def backward(ctx: Context, dy: Array) -> tuple[Array | None, ...]:
        gradients, scale, shape = ctx.saved
        factor = dy if scale is None else dy * scale
        into = ctx.destination(1) if gradients.weight is not None else None
        dx = None if gradients.x is None else _times(gradients.x, factor).reshape(shape)
        db = None if gradients.bias is None else _times(gradients.bias, factor)
        if into is not None and into.dtype == gradients.weight.dtype:
            get_xp(dy).multiply(gradients.weight, factor, out=into.T)
            return dx, into, db
        dw = None if gradients.weight is None else _times(gradients.weight, factor).T
        return dx, dw, db


def _gradients(needs: tuple[bool, ...], x: Array, weight: Array) -> Gradients:
    """Memory for what is wanted; zeros where there is no row."""
    xp, (classes, width), dtype = get_xp(x), weight.shape, sum_type(weight)
    shapes = ((x.size // max(1, width), width), (width, classes), (classes,))
    types = (x.dtype, dtype, dtype)
    made = [empty(xp, s, d) if n else None for n, s, d in zip(needs, shapes, types, strict=True)]
    for gradient in made if not x.size else []:
        if gradient is not None:
            gradient[...] = 0
    return Gradients(*made)


def _chunk(
    x: Array, weight: Array, bias: Array | None, t: Array, options: Options, bad: Array | None,
    into: Gradients, first: bool,
) -> Array:  # fmt: skip
    """The sum of the losses of some rows (R, D). into: its rows of dx, and where the others are added up, or
    written by the first."""
    xp, wanted = get_xp(x), any(gradient is not None for gradient in into)
    z, ctx = Linear.forward(Context((False,) * 3), x, weight, bias), Context((wanted,))
    with starting_from(None):
        loss = SoftmaxCrossEntropy.forward(ctx, z, targets=t, options=options, first_bad=bad)
    if not wanted:
        return loss
    dz = SoftmaxCrossEntropy.backward(ctx, ones(xp, loss))
    if into.x is not None:
        product(dz, weight, out=into.x)
    if into.weight is not None:
        _add_product(x.T, dz, into.weight, first)
    if into.bias is not None:
        _add_product(xp.ones((1, len(dz)), dz.dtype), dz, into.bias[None], first)
    return loss


def _add_product(a: Array, b: Array, total: Array, first: bool) -> None:
    """total += a b, or total = a b."""
    if first:
        product(a, b, out=total)
        return
    part = product(a, b, out=empty(get_xp(a), total.shape, total.dtype))
    total += part


def _scale(t: Array, options: Options, dtype: Any) -> Array:
    """1 / Σ w_t over the rows whose target counts, (); 0 where there are none."""
    xp, w = get_xp(t), options.weight
    keep = t != options.ignore_index
    of_target = keep.astype(dtype) if w is None else w[xp.where(keep, t, 0)] * keep
    total = of_target.sum()
    none = total == 0
    return (~none).astype(dtype) / (total + none)


def _times(x: Array, factor: Array) -> Array:
    """x *= factor, a number in the type of the sums; half types in float32."""
    if not kernels.usable(x):
        np.multiply(x, factor, out=x, casting="unsafe")
    elif x.size:
        in_kernels.scale(x, get_xp(x).ascontiguousarray(factor, dtype=sum_type(x)).reshape(-1))
    return x


def linear_cross_entropy(
    x: Any,
    linear_weight: Any,
    targets: Any,
    *,
    linear_bias: Any = None,
    weight: Any = None,
    ignore_index: int = -100,
    label_smoothing: float = 0.0,
    reduction: str = "mean",
    z_loss: float = 0.0,
    soft_cap: float | None = None,
    chunk_rows: int | None = None,
) -> Tensor:
    """softmax_cross_entropy(linear(x, linear_weight, linear_bias), targets), `chunk_rows` rows of logits at a
    time, whose gradients are made at once and whose logits are then forgotten.

    x (..., D), linear_weight (C, D), linear_bias (C,), targets (...) of integers; weight (C,), one a class.
    chunk_rows: 4 D where it is None; below that, adding up dW costs more than an eighth of the time. It pays
    where logits (N, C) are what fills the memory: N of several chunk_rows, C of tens of thousands; beside
    chunk_rows · C logits and as many gradients it needs 2 C D numbers. Else the two operations are as fast,
    and simpler. The other options, and errors, are those of `softmax_cross_entropy`; reduction is "mean" or
    "sum", since the rows are gone when the gradient of each loss comes.
    """
    x = as_weight(x, linear_weight)
    w, bias = data_of(linear_weight), data_of(linear_bias)
    if (
        len(w.shape) != 2
        or not x.shape
        or x.shape[-1] != w.shape[1]
        or _size(bias) not in (None, w.shape[:1])
    ):
        raise ShapeError(
            f"linear_cross_entropy expects x (..., D), linear_weight (C, D) and linear_bias (C,) but got "
            f"{tuple(x.shape)}, {tuple(w.shape)} and {_size(bias)}"
        )
    if reduction == "none":
        raise DataError('linear_cross_entropy: reduction is one of mean, sum, not "none"')
    rows_at_a_time = ROWS_A_COLUMN * w.shape[1] if chunk_rows is None else chunk_rows
    if rows_at_a_time < 1:
        raise DataError(f"linear_cross_entropy: chunk_rows is at least 1, not {chunk_rows!r}")
    shape = (*x.shape[:-1], w.shape[0])
    t, options, known = prepared(
        w, shape, targets, weight, ignore_index, label_smoothing, reduction, z_loss, soft_cap
    )
    first_bad = None
    if kernels.usable(w) and t.size:
        t = get_xp(w).ascontiguousarray(t, dtype=np.int64)
        first_bad = get_xp(w).full(-(-t.size // rows_at_a_time), NO_BAD_ROW, np.uint64)
    elif not known:
        refuse(t, first_bad_row(t, shape[-1], ignore_index), shape[-1], ignore_index)
    loss = LinearCrossEntropy.apply(
        x,
        linear_weight,
        linear_bias,
        targets=t,
        options=options,
        chunk_rows=rows_at_a_time,
        first_bad=first_bad,
    )
    if first_bad is not None:
        loss.add_check(lambda: refuse(t, _row(first_bad, rows_at_a_time), shape[-1], ignore_index))
    result: Tensor = loss
    return result


def _size(bias: Array | None) -> tuple[int, ...] | None:
    return None if bias is None else tuple(bias.shape)


def _row(first_bad: Array, chunk_rows: int) -> int:
    """The first bad row of all, from the first of each chunk."""
    for i, row in enumerate(to_host(first_bad).tolist()):
        if row != NO_BAD_ROW:
            return i * chunk_rows + int(row)
    return NO_BAD_ROW
