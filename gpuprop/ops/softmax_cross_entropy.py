"""Softmax cross-entropy. kernels/README.md derives its gradient, softmax_cross_entropy.cu computes it."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from ..backend import kernels
from ..backend.arrays import Array, get_xp, to_host
from ..backend.buffers import empty
from ..backend.gemm import matmul as product
from ..backend.gemm import rows
from ..backend.instantiations import LABEL_TYPES
from ..backend.threads import host_size, over_rows
from ..backprop import Context
from ..errors import DataError, ShapeError
from ..op import Op
from ..tensors import Tensor
from . import softmax_cross_entropy_kernels as in_kernels
from .operands import beside, data_of
from .rowwise import cross_entropy_rows, over_row_blocks
from .softmax_cross_entropy_kernels import Options, sum_type

BLOCK = 65536  # elements the formula works on at a time: they stay in a core's cache
NO_BAD_ROW = 2**64 - 1
_UNSIGNED = {np.dtype(name): np.dtype(f"u{np.dtype(name).itemsize}") for name in LABEL_TYPES}
REDUCTIONS = ("mean", "sum", "none")


class SoftmaxCrossEntropy(Op):
    """loss_i = (1 - ε) w_t (lse_i - z_it) + ε/C Σ_c w_c (lse_i - z_ic) + ζ lse_i²    lse_i = ln Σ_c e^z_ic

    z = logits (..., C)   t = target of row i, of targets (...)   w = class weights, 1 without any
    ε = label smoothing (Szegedy et al. 2016, section 7)   ζ = z-loss (Chowdhery et al. 2022, section 5)
    With a soft cap s, z is s tanh(logits / s) (Gemma 2, section 2), whose slope is 1 - (z / s)².
    mean: Σ loss_i / Σ w_t over the rows whose target is not ignore_index, 0 where there are none.

    dz_ic = g_i ((1 - ε) w_t (p_ic - [c = t]) + ε/C (p_ic Σ w - w_c) + 2 ζ lse_i p_ic)        p = softmax(z)
    g_i = gradient of loss_i: dy / Σ w_t for the mean
    """

    @staticmethod
    def forward(
        ctx: Context, logits: Array, *, targets: Array, options: Options, first_bad: Array | None
    ) -> Array:
        z, t = get_xp(logits).ascontiguousarray(rows(logits)), targets.reshape(-1)
        if first_bad is not None:
            loss, saved = in_kernels.forward(z, t, options, first_bad, ctx.needs_grad[0])
            ctx.save(logits.shape, t, options, z, saved)
        else:
            plain = not (options.smoothing or options.z_loss or options.soft_cap) and get_xp(z) is np
            compute = _in_rows if plain else _formula
            loss, gradient = compute(z, t, options, ctx.needs_grad[0])
            ctx.save(logits.shape, t, options, gradient, None)
        return loss.reshape(targets.shape) if options.reduction == "none" else loss

    @staticmethod
    def backward(ctx: Context, dy: Array) -> Array:
        shape, t, options, array, saved = ctx.saved
        if saved is not None:
            return in_kernels.backward(dy, array, t, options, saved).reshape(shape)
        gradient, dtype = array
        if options.reduction == "none":
            gradient = gradient * dy.reshape(-1, 1)
        elif dy != 1:
            gradient = gradient * dy
        return gradient.astype(dtype, copy=False).reshape(shape)


def _in_rows(
    z: Array, t: Array, options: Options, wants_gradient: bool
) -> tuple[Array, tuple[Array, Any] | None]:
    """What `_formula` gives, without smoothing, z-loss and cap, for NumPy arrays."""
    n = len(z)
    w, dtype, mean = options.weight, sum_type(z), options.reduction == "mean"
    labels, of_target, counted = t, None, float(n)
    if options.ignores:
        keep = t != options.ignore_index
        labels = np.where(keep, t, 0)
        of_target = keep.astype(dtype) if w is None else w[labels] * keep
    elif w is not None:
        of_target = w[t]
    if of_target is not None:
        counted = float(of_target.sum())
    scale = (1.0 / counted if counted else 0.0) if mean else 1.0
    factor: Any = scale if of_target is None else of_target * scale
    losses, gradient = np.empty(n, dtype), empty(np, z.shape, dtype) if wants_gradient else None

    def work(part: slice) -> None:
        out = empty(np, z[part].shape, dtype) if gradient is None else gradient[part]
        f = factor if of_target is None else factor[part]
        losses[part] = cross_entropy_rows(z[part], labels[part], f, out, wants_gradient)

    over_row_blocks(work, z)
    if of_target is not None:
        losses *= of_target
    if options.reduction != "none":
        losses = np.asarray(losses.sum() * scale)
    return losses, None if gradient is None else (gradient, z.dtype)


def _formula(
    z: Array, t: Array, options: Options, wants_gradient: bool
) -> tuple[Array, tuple[Array, Any] | None]:
    """The losses, reduced, and their gradient for dy = 1: made together, while a block of rows is in cache.

    z (N, C)   t (N,) -> (loss, (gradient (N, C), type of z))
    """
    n, classes = z.shape
    xp, w, dtype = get_xp(z), options.weight, sum_type(z)
    keep = t != options.ignore_index
    labels = xp.where(keep, t, 0)
    of_target = (xp.ones(n, dtype) if w is None else w[labels]) * keep
    total = of_target.sum()
    scale = 1 / total if total else dtype(0)
    per_row = keep * (scale if options.reduction == "mean" else dtype(1))
    losses, gradient = xp.empty(n, dtype), empty(xp, z.shape, dtype) if wants_gradient else None
    step = max(1, BLOCK // classes) if xp is np else max(1, n)

    def work(start: int, stop: int) -> None:
        for first in range(start, stop, step):
            block = slice(first, min(first + step, stop))
            out = xp.empty(z[block].shape, dtype) if gradient is None else gradient[block]
            losses[block] = _rows(z[block], labels[block], of_target[block], per_row[block], options, out)

    over_rows(work, n, host_size(z), products=True)
    losses *= keep
    loss = losses
    if options.reduction != "none":
        loss = xp.asarray(losses.sum() * (scale if options.reduction == "mean" else dtype(1)))
    return loss, None if gradient is None else (gradient, z.dtype)


def _rows(z: Array, labels: Array, of_target: Array, per_row: Array, options: Options, out: Array) -> Array:
    """The losses of a block of rows (M, C); their gradient goes to `out`."""
    xp, w, eps, classes = get_xp(z), options.weight, options.smoothing, z.shape[1]
    zeta, cap, slope = options.z_loss, options.soft_cap, None
    places = (xp.arange(z.shape[0]), labels)
    weights = classes if w is None else w.sum()
    if cap:
        shares = xp.tanh(z.astype(out.dtype, copy=False) / cap)
        z, slope = cap * shares, 1 - shares * shares
    top = z.max(axis=1, keepdims=True)
    xp.subtract(z, top, out=out, dtype=out.dtype)  # no exponential overflows
    of_label = out[places]
    below = product(out, xp.ones(classes, out.dtype) if w is None else w) if eps else 0.0
    xp.exp(out, out=out)
    exponentials = product(out, xp.ones(classes, out.dtype))  # faster than a sum
    log_sum = xp.log(exponentials)
    log_sum_exp = top[:, 0].astype(out.dtype) + log_sum if zeta else 0.0
    of_all = (1 - eps) * of_target + eps / classes * weights + 2 * zeta * log_sum_exp
    out *= (per_row * of_all / exponentials)[:, None]
    if eps:
        out -= (per_row * (eps / classes))[:, None] * (1.0 if w is None else w)
    out[places] -= per_row * (1 - eps) * of_target
    if slope is not None:
        out *= slope
    loss = (1 - eps) * of_target * (log_sum - of_label) + eps / classes * (weights * log_sum - below)
    return loss + zeta * log_sum_exp * log_sum_exp


def softmax_cross_entropy(
    logits: Any,
    targets: Any,
    *,
    weight: Any = None,
    ignore_index: int = -100,
    label_smoothing: float = 0.0,
    reduction: str = "mean",
    z_loss: float = 0.0,
    soft_cap: float | None = None,
) -> Tensor:
    """Cross-entropy between softmax(logits) and the target classes.

    logits (..., C)   targets (...) of integers   weight (C,), one a class
    z_loss ζ adds ζ lse² to each row's loss, lse = ln Σ e^z, which keeps lse near 0. soft_cap s > 0 puts
    s tanh(z / s) in place of z.
    Returns one number, or the losses (...) for reduction "none"; float16 and bfloat16 logits give a float32
    loss. Raises ShapeError when shapes do not fit, DataError with value and row for a target outside 0..C-1
    that is not ignore_index: at once on the CPU, else when the loss is read, so that no step has to wait.
    """
    z = data_of(logits)
    t, options, known = prepared(
        z, tuple(z.shape), targets, weight, ignore_index, label_smoothing, reduction, z_loss, soft_cap
    )
    first_bad = None
    if kernels.usable(z) and z.size:
        t = get_xp(z).ascontiguousarray(t, dtype=np.int64)  # as the kernels take them
        first_bad = get_xp(z).full(1, NO_BAD_ROW, np.uint64)
    elif not known:
        refuse(t, first_bad_row(t, z.shape[-1], ignore_index), z.shape[-1], ignore_index)
    loss = SoftmaxCrossEntropy.apply(logits, targets=t, options=options, first_bad=first_bad)
    if first_bad is not None:
        loss.add_check(lambda: refuse(t, int(to_host(first_bad)[0]), z.shape[-1], ignore_index))
    return loss


def prepared(
    like: Array, shape: tuple[int, ...], targets: Any, weight: Any, ignore_index: int, label_smoothing: float,
    reduction: str, z_loss: float, soft_cap: float | None,
) -> tuple[Array, Options, bool]:  # fmt: skip
    """Targets and options for logits of this shape, of the type and on the device of `like`, checked; and
    whether all targets are known to be classes."""
    t = beside(targets, like)
    _check(shape, t, label_smoothing, reduction)
    _check_numbers(z_loss, soft_cap)
    if t.dtype not in _UNSIGNED:
        t = t.astype(np.int64)
    w = None if weight is None else get_xp(like).ascontiguousarray(beside(weight, like), dtype=sum_type(like))
    classes = shape[-1]
    if w is not None and w.shape != (classes,):
        raise ShapeError(f"softmax_cross_entropy expects weight ({classes},) but got {tuple(w.shape)}")
    known = isinstance(t, np.ndarray) and _all_are_classes(t, classes)
    ignores = not known or 0 <= ignore_index < classes
    numbers = float(label_smoothing), float(z_loss), float(soft_cap or 0.0)
    return t, Options(w, int(ignore_index), reduction, ignores, *numbers), known


def _check_numbers(z_loss: float, soft_cap: float | None) -> None:
    if not 0.0 <= z_loss < math.inf:
        raise DataError(f"z_loss is a finite number of at least 0, not {z_loss!r}")
    if soft_cap is not None and not 0.0 < soft_cap < math.inf:
        raise DataError(f"soft_cap is a finite number above 0, or None for no cap, not {soft_cap!r}")


def _check(shape: tuple[int, ...], t: Array, smoothing: float, reduction: str) -> None:
    if reduction not in REDUCTIONS:
        raise DataError(f"reduction is one of {', '.join(REDUCTIONS)}, not {reduction!r}")
    if not 0.0 <= smoothing <= 1.0:
        raise DataError(f"label_smoothing is between 0 and 1, not {smoothing!r}")
    if not shape or shape[-1] < 1:
        raise ShapeError(f"softmax_cross_entropy expects logits (..., classes) but got {shape}")
    if tuple(t.shape) != shape[:-1]:
        hint = ": the class axis is the last" if len(shape) > 2 and t.shape == (shape[0], *shape[2:]) else ""
        raise ShapeError(
            f"softmax_cross_entropy expects targets {shape[:-1]} for logits {shape} "
            f"but got {tuple(t.shape)}{hint}"
        )
    if t.dtype.kind not in "iu":
        raise DataError(f"softmax_cross_entropy expects integer targets, not {t.dtype}")


def _all_are_classes(t: Array, classes: int) -> bool:
    """Whether NumPy targets are all in 0..classes - 1: a negative one is a large number without its sign."""
    return bool(t.size and np.maximum.reduce(t.view(_UNSIGNED[t.dtype]), axis=None) < classes)


def first_bad_row(t: Array, classes: int, ignore_index: int) -> int:
    bad = (t != ignore_index) & ((t < 0) | (t >= classes))
    return int(bad.argmax()) if bad.any() else NO_BAD_ROW


def refuse(t: Array, row: int, classes: int, ignore_index: int) -> None:
    """Raise DataError for the target in `row` (counted over all axes); nothing for NO_BAD_ROW."""
    if row == NO_BAD_ROW:
        return
    place = tuple(int(i) for i in np.unravel_index(row, t.shape)) if t.ndim != 1 else row
    value = int(to_host(t.reshape(-1)[row : row + 1])[0])
    raise DataError(
        f"target {value} at row {place} is outside 0..{classes - 1} and is not ignore_index={ignore_index}"
    )
