"""Losses of rows of logits, and that of a last layer with its loss."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np

from ..backend.half import is_half
from ..ops import softmax_cross_entropy_kernels as in_kernels
from ..ops.linear_cross_entropy import ROWS_A_COLUMN
from .layers import linear
from .measure import LONG, Cost, Pass, Spec, both, launch


def softmax_cross_entropy(
    logits: Spec, targets: Spec, *, weight: Any = None, reduction: str = "mean", **_: Any
) -> Cost:
    """Two passes in all: logits are read, and their gradient is written by the forward pass already, which a
    launch of the backward pass leaves as it is where dy is 1. Losses row by row take two walks over the
    logits."""
    z, t = logits.rows(), targets.like(targets.size, dtype=LONG)
    classes = None if weight is None else z.sums(z.shape[1])
    found = _of_rows(z, t, classes, reduction)
    return Cost(launch(0) + found.forward, found.backward)  # the number of the first bad row


def _of_rows(z: Spec, t: Spec, classes: Spec | None, reduction: str) -> Cost:
    each, forward = reduction == "none", launch(classes) if classes is not None else Pass()
    if reduction == "mean":
        forward += launch(t, classes, z.sums(in_kernels.total_blocks(len(z))))
    grid = in_kernels.plan(z)[2]
    at_once = z.needs_grad and not each
    again = z.sums(len(z)) if z.needs_grad and (each or z.dtype == np.float16) else None
    kept = z if at_once else None
    forward += launch(z, t, classes, kept, again, z.sums(len(z) if each else grid), flops=z.size)
    backward = launch(0)
    if not at_once:
        backward = launch(z, t, classes, z.sums(len(z)), z.sums(len(z)) if each else None, z)
    return Cost(forward, both([backward], z.size) if z.needs_grad else Pass())


def linear_cross_entropy(
    x: Spec, linear_weight: Spec, targets: Spec, *, linear_bias: Any = None, weight: Any = None,
    reduction: str = "mean", chunk_rows: int | None = None, **_: Any,
) -> Cost:  # fmt: skip
    """Forward, some rows at a time, what layer and loss do both ways; backward multiplies the gradients by
    dy, and for a mean by 1 / the sum of the targets' weights. linear_bias: a shape, too."""
    x2, (classes, width) = x.rows(), linear_weight.shape
    bias = Spec(linear_bias, x.dtype, True) if isinstance(linear_bias, tuple) else linear_bias
    inputs = [a for a in (x2, linear_weight, bias) if a is not None and a.needs_grad]
    of_class, forward = None if weight is None else x.sums(classes), launch(0).times(2)
    step = ROWS_A_COLUMN * width if chunk_rows is None else chunk_rows
    for start in range(0, len(x2), step):
        n = min(step, len(x2) - start)
        part, z = (Spec((n, size), x.dtype, bool(inputs)) for size in (width, classes))
        forward += _chunk(
            replace(part, needs_grad=x.needs_grad), linear_weight, bias, z, of_class, start == 0
        )
    backward, mean = Pass(), reduction == "mean"
    if mean:
        t = targets.like(targets.size, dtype=LONG)
        forward += _weight_of_targets(t, x.sums(len(x2)), of_class) + launch(0)
        backward += launch(0) if inputs else Pass()
    for a in inputs:
        made = a if a is x2 else a.sums(*a.shape)
        backward += launch(made, made) if mean else launch(0)
        backward += launch(made, a) if made.dtype != a.dtype else Pass()
    return Cost(forward, both([backward], sum(a.size for a in inputs)))


def _chunk(
    x: Spec, weight: Spec, bias: Spec | None, z: Spec, classes: Spec | None, first: bool
) -> Pass:  # fmt: skip
    """Of rows x (R, D), logits z (R, C): the gradients of W and b are added to those before."""
    loss = _of_rows(z, z.like(len(z), dtype=LONG), classes, "sum")
    found = linear(x, weight, bias).forward + loss.forward + launch(0)
    if not z.needs_grad:
        return found
    found += launch(0) + loss.backward
    if x.needs_grad:
        found += launch(z, weight, x, flops=2 * z.size * weight.shape[1])
    if weight.needs_grad:
        found += _added_up(x, z, weight.sums(*weight.shape), first, 2 * x.size * z.shape[1])
    if bias is not None and bias.needs_grad:
        ones = z.like(len(z))
        found += launch(ones) + _added_up(ones, z, bias.sums(*bias.shape), first, 2 * z.size)
    return found


def _added_up(a: Spec, b: Spec, total: Spec, first: bool, flops: int) -> Pass:
    """A product, and its addition to what is there."""
    return launch(a, b, total, flops=flops) + (Pass() if first else launch(total, total, total))


def _weight_of_targets(t: Spec, w: Spec, classes: Spec | None) -> Pass:
    """1 / Σ w_t: which targets count, what they weigh, their sum, and five launches of one number."""
    keep, of_target = t.like(len(t), dtype=bool), Pass()
    if classes is None:
        of_target = launch(keep, w)
    else:
        of_target = launch(keep, t, t) + launch(t, classes, w) + launch(w, keep, w)
    return launch(t, keep) + of_target + launch(w) + launch(0).times(5)


def binary_cross_entropy(logits: Spec, targets: Spec, weight: Any = None, pos_weight: Any = None) -> Cost:
    """|z|, -, exp, log1p, + max(z, 0), - y z; backward σ(z) in four launches, - y, times dy. Half types are
    computed in float32."""
    if weight is not None or pos_weight is not None:
        raise ValueError("the cost of binary_cross_entropy is known without weight and pos_weight alone")
    half, z = is_half(logits.dtype), logits.sums(*logits.shape)
    n = z.nbytes
    widened = launch(logits, z).times(2) if half else Pass()
    backward = Pass(6, 14 * n, z.size) + (launch(z, logits) if half else Pass())
    return Cost(Pass(8, 19 * n, z.size) + widened, backward if logits.needs_grad else Pass())


FORMULAS: dict[str, Callable[..., Cost]] = {
    "binary_cross_entropy": binary_cross_entropy,
    "linear_cross_entropy": linear_cross_entropy,
    "softmax_cross_entropy": softmax_cross_entropy,
}
