"""Recurrent layers, most of them in one kernel each way that walks over all times."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from ..backend.kernel_memory import SHARED_OF_EMULATOR
from ..ops import cluster_sizes, persistent_sizes
from ..ops.bidirectional import Bidirectional
from ..ops.gru import GRU
from ..ops.lstm import LSTM
from .layers import column_sums
from .measure import Cost, Pass, Spec, both, gradient_flops, launch
from .recurrent_steps import steps


def gru(
    x: Spec, weight_ih: Spec, weight_hh: Spec, bias_ih: Spec, bias_hh: Spec, h0: Spec | None = None, *,
    mask: Spec | None = None, reverse: bool = False,
) -> Cost:  # fmt: skip
    """A product for x and a kernel; backward a kernel and a product each for dx and the two weights. Or where
    that is faster, a time at a time."""
    return _layer(GRU, x, [(weight_ih, weight_hh, bias_ih, bias_hh)], [h0], mask)


def lstm(
    x: Spec, weight_ih: Spec, weight_hh: Spec, bias_ih: Spec, bias_hh: Spec, h0: Spec | None = None,
    c0: Spec | None = None, *, mask: Spec | None = None, reverse: bool = False,
) -> Cost:  # fmt: skip
    """As `gru`."""
    return _layer(LSTM, x, [(weight_ih, weight_hh, bias_ih, bias_hh)], [h0, c0], mask)


def bidirectional(
    cell: Any, x: Spec, weights: Sequence[Sequence[Spec]], first: Sequence[Sequence[Spec | None]], *,
    mask: Spec | None = None,
) -> Cost:  # fmt: skip
    """As `gru`, with the weights for x of both directions joined, which takes a launch."""
    states = [state for pair in zip(*first, strict=True) for state in pair]
    return _layer(Bidirectional, x, weights, states, mask)


def _layer(
    op: Any, x: Spec, weights: Sequence[Sequence[Spec]], first: Sequence[Spec | None], mask: Spec | None
) -> Cost:
    (batch, length, _), (columns, size), count = x.shape, weights[0][1].shape, len(weights)
    gates, sequences = columns // size, count * batch
    bits = None if mask is None else mask.like(*mask.shape, dtype=bool)
    sizes = length, sequences, gates, size, x.dtype.itemsize
    if not cluster_sizes.one_launch(*sizes, SHARED_OF_EMULATOR):
        _must_be_one(count)
        return steps(op, x, weights[0], first, bits)
    joined = x.like(count * gates * size, x.shape[2])
    made, state, last = (x.like(*shape) for shape in (
        (batch, length, count, gates * size), (batch, length, count, size), (count, batch, size)
    ))  # fmt: skip
    hidden, biases = [w[1] for w in weights], [b for w in weights for b in w[2:]]
    forward = launch(*(w[0] for w in weights), joined) if count > 1 else Pass()
    forward += launch(x, joined, made)
    for w in hidden:
        forward += launch(w, w)  # into the products' order, which a layer's weights have from the first
    kept = [state, state, state] if gates == 4 else [state, state]
    lasts = [last] * (gates - 2)
    forward += launch(made, made, *hidden, *biases, *first, *kept, state, *lasts, bits)
    own = made.size * (2 * x.shape[2] + 2 * size)
    inputs = (x, *(a for w in weights for a in w), *first)
    if not any(a is not None and a.needs_grad for a in inputs):
        return Cost(both([forward], own))
    by_clusters = cluster_sizes.suits(*sizes, SHARED_OF_EMULATOR)
    passes = [_kernel_back(x, made, state, hidden, first, bits, gates, sequences, by_clusters)]
    if x.needs_grad:
        passes.append(launch(made, joined, x))
    one, before = x.like(batch * length, gates * size), x.like(batch * length, size)
    for w_ih, w_hh, b_ih, b_hh in weights:
        passes.append(_weight(x.rows(), one, w_ih, b_ih, beside=count > 1))
        passes.append(_weight(before, one, w_hh, b_hh, beside=count > 1))
    saved = (x, joined, hidden[0] if count == 1 else hidden)
    y = x.like(batch, length, count * size)
    return Cost(both([forward], own), both(passes, gradient_flops(op, saved, y, *inputs)))


def _must_be_one(directions: int) -> None:
    if directions > 1:
        raise ValueError(
            "the cost of both directions is known where one kernel takes all times; where it would not pay, "
            "they are two layers and what joins their outputs"
        )


def _kernel_back(
    x: Spec, made: Spec, state: Spec, hidden: Sequence[Spec], first: Sequence[Spec | None], bits: Spec | None,
    gates: int, sequences: int, by_clusters: bool,
) -> Pass:  # fmt: skip
    """Beside it copies of the weights for clusters, which read nothing else of them, and for blocks where not
    all of them fit into shared memory."""
    size = state.shape[-1]
    how = persistent_sizes.sizes(sequences, gates, size, x.dtype.itemsize, False, SHARED_OF_EMULATOR)
    streamed = list(hidden) if by_clusters or (how is not None and how.held < gates * size) else []
    if by_clusters:
        hidden = ()
    found = Pass()
    for w in streamed:
        found += launch(w, w)
    inner = made if gates == 3 else None
    wanted = [
        x.like(*(state.shape[2], state.shape[0], size)) for f in first if f is not None and f.needs_grad
    ]
    return found + launch(made, made, state, state, *hidden, *streamed, state, bits, inner, *wanted)


def _weight(x: Spec, dy: Spec, weight: Spec, bias: Spec, beside: bool) -> Pass:
    """dyᵀ x and the sums of dy, in one product where cublasLt takes the type; sums alone are of a copy, where
    dy lies beside that of another direction."""
    inside = weight.needs_grad and bias.needs_grad and x.dtype != np.float64
    found = launch(x, dy, weight, bias if inside else None) if weight.needs_grad else Pass()
    if inside or not bias.needs_grad:
        return found
    return found + (launch(dy, dy) if beside else Pass()) + column_sums(dy)


FORMULAS: dict[str, Callable[..., Cost]] = {"bidirectional": bidirectional, "gru": gru, "lstm": lstm}
