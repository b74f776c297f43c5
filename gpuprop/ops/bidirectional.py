"""A GRU or an LSTM in both directions of a layer, in one launch each way where kernels run."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from ..backend.arrays import Array
from ..backprop import Context
from ..op import Op
from ..tensors import Tensor
from . import persistent_kernels
from .cast import as_weight
from .masks import real_tokens
from .operands import data_of
from .shapes import concatenate, stack

WEIGHTS = 4  # of a direction


class Bidirectional(Op):
    """The equations of `GRU` or `LSTM`, from the first token to the last and with other weights from the last
    to the first: x (B, L, I), four weights a direction, and the first states (B, H) or None of both, h then c
    -> every h (B, L, 2H), forward beside reverse, and the last h (2, B, H), for an LSTM the last c too.
    """

    @staticmethod
    def forward(ctx: Context, x: Array, *arrays: Array | None, mask: Array | None) -> tuple[Array, ...]:
        weights, states = arrays[: 2 * WEIGHTS], arrays[2 * WEIGHTS :]
        directions: Any = [weights[:WEIGHTS], weights[WEIGHTS:]]
        cells = states[2:] or None
        return persistent_kernels.forward(ctx, x, directions, states[:2], cells, mask, False)

    @staticmethod
    def backward(ctx: Context, dy: Array | None, *dlast: Array | None) -> tuple[Array | None, ...]:
        found = persistent_kernels.backward(ctx, dy, *dlast)
        first = [(None, None) if d is None else (d[0], d[1]) for d in found[1 + 2 * WEIGHTS :]]
        return (*found[: 1 + 2 * WEIGHTS], *(d for pair in first for d in pair))


def bidirectional(
    cell: Callable[..., tuple[Tensor, ...]], x: Any, weights: Sequence[Sequence[Any]],
    first: Sequence[Sequence[Any]], *, mask: Any = None,
) -> tuple[Tensor, ...]:  # fmt: skip
    """`cell`, which is `gru` or `lstm`, over x (B, L, I) in both directions -> output (B, L, 2H), last states
    (2, B, H), one for a GRU and two for an LSTM.

    weights: weight_ih, weight_hh, bias_ih, bias_hh of the forward direction, and of the reverse one. first:
    the first states (B, H) or None of each, h0 or h0 and c0. mask (B, L), True = real token.
    """
    x, mask = as_weight(x, weights[0][0]), real_tokens(mask, x)
    arrays: Any = [tuple(data_of(w) for w in direction) for direction in weights]
    if persistent_kernels.fits(data_of(x), arrays):
        states = [state for pair in zip(*first, strict=True) for state in pair]
        result: tuple[Tensor, ...] = Bidirectional.apply(x, *weights[0], *weights[1], *states, mask=mask)
        return result
    forward = cell(x, *weights[0], *first[0], mask=mask)
    reverse = cell(x, *weights[1], *first[1], mask=mask, reverse=True)
    lasts = [stack(pair) for pair in zip(forward[1:], reverse[1:], strict=True)]
    return concatenate([forward[0], reverse[0]], axis=-1), *lasts
