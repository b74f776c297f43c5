"""Recurrent layers a time at a time: a product and a kernel each, where one over all times does not pay."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from .layers import column_sums
from .measure import Cost, Pass, Spec, both, gradient_flops, launch


def steps(op: Any, x: Spec, weights: Sequence[Spec], first: Sequence[Spec | None], mask: Spec | None) -> Cost:
    """The products for x, and backward for dx and the weights, are one over all times."""
    (batch, length, _), (weight_ih, weight_hh, bias_ih, bias_hh) = x.shape, weights
    size, gates = weight_hh.shape[1], weight_hh.shape[0] // weight_hh.shape[1]
    y, made = x.like(batch * length, size), x.like(batch * length, gates * size)
    forward = launch(x, x) if length > 1 and batch > 1 else Pass()  # as (L, B, I)
    forward += launch(x, weight_ih, made) + _forward(x, weights, first, gates, mask)
    own = 2 * batch * length * (weight_ih.size + weight_hh.size)
    inputs = (x, *weights, *first)
    if not any(a is not None and a.needs_grad for a in inputs):
        return Cost(both([forward], own))
    passes = [_backward(x, weight_hh, gates, mask)]
    passes += [launch(made, weight_ih, x)] if x.needs_grad else []
    for of, weight, bias in ((x, weight_ih, bias_ih), (y, weight_hh, bias_hh)):
        passes += [launch(of, made, weight)] if weight.needs_grad else []
        passes += [column_sums(made)] if bias.needs_grad else []
    flops = gradient_flops(op, (x, weight_ih, weight_hh), x.like(batch, length, size), *inputs)
    return Cost(both([forward], own), both(passes, flops))


def _forward(
    x: Spec, weights: Sequence[Spec], first: Sequence[Spec | None], gates: int, mask: Spec | None
) -> Pass:
    (batch, length, _), (_, weight_hh, *biases) = x.shape, weights
    size, cells = weight_hh.shape[1], gates == 4
    state, of_time = x.like(batch, size), x.like(batch, gates * size)
    found = Pass()
    for start in first:  # written before the first time; the last are copied
        found += launch(start, state) + launch(state, state)
    kept = [state] * (6 if cells else 4)  # before and after of h and c, what else is kept, y
    kernel = launch(of_time, of_time, of_time, *biases, *kept, _of_a_time(mask))
    return found + (launch(state, weight_hh, of_time) + kernel).times(length)


def _backward(x: Spec, weight_hh: Spec, gates: int, mask: Spec | None) -> Pass:
    """From a gradient of the output alone: dh and dc begin as 0, and at the last time nothing has come
    through the weights."""
    (batch, length, _), size, cells = x.shape, weight_hh.shape[1], gates == 4
    state, of_time = x.like(batch, size), x.like(batch, gates * size)
    moved = [of_time] * (2 if cells else 3) + [state] * (5 + 2 * cells)
    last, others = launch(*moved, _of_a_time(mask)), launch(*moved, state, _of_a_time(mask))
    products = launch(of_time, weight_hh, state).times(length)
    return launch(state).times(2) + last + others.times(length - 1) + products + launch(state, state, state)


def _of_a_time(mask: Spec | None) -> int | None:
    return None if mask is None else mask.shape[0]
