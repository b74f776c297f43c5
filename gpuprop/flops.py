"""How many floating-point operations the backward pass of an operation takes, from shapes.

A product of (M, K) and (K, N) counts 2 M K N. Only gradients that are wanted count. Operations without
products count one for every element of the gradients they return; so does `linear_cross_entropy`, whose
products are all in its forward pass.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from .backprop import Context
from .ops.attention import AdditiveWeights, DotProductWeights
from .ops.attention_kernels import Launch
from .ops.bidirectional import Bidirectional
from .ops.conv1d import Conv1d
from .ops.conv1d_relu_max import ConvReluMax
from .ops.embedding import Embedding
from .ops.feed_forward import FeedForward
from .ops.gru import GRU
from .ops.linear import Linear, MatMul
from .ops.lstm import LSTM
from .ops.scaled_dot_product_attention import Attention

Shape = tuple[int, ...]
Count = Callable[[Context, int], int]


def backward_flops(op: Any, ctx: Context, dy: list[Shape | None], gradients: list[Shape | None]) -> int:
    """Of one operation, from what its forward kept, the shapes of the gradients that arrive and of those it
    returns (None where there is none)."""
    arrived = sum(math.prod(shape) for shape in dy if shape is not None)
    if op is Attention and dy[0] is not None:
        return _attention(ctx, dy[0], gradients)
    if op in _COUNTS:
        return _COUNTS[op](ctx, arrived)
    return sum(math.prod(shape) for shape in gradients if shape is not None)


def amount(value: float, base: int, unit: str) -> str:
    """1234567 -> "1.23 M" or, in bytes, "1.18 MiB"."""
    for prefix in ("", "k" if base == 1000 else "Ki", *("MGT" if base == 1000 else ("Mi", "Gi", "Ti"))):
        if value < 999.5 or prefix.startswith("T"):
            return f"{value:.3g} {prefix}{unit}".rstrip()
        value /= base
    raise AssertionError("no amount is beyond the last prefix")


def _linear(ctx: Context, dy: int) -> int:
    """dx = dz W, dW = dzᵀ x, db = Σ dz; dz = dy where y > 0."""
    weight, y = ctx.saved[1:]
    need_x, need_weight, need_bias = ctx.needs_grad
    return dy * (2 * weight.shape[1] * (need_x + need_weight) + need_bias + (y is not None))


def _feed_forward(ctx: Context, dy: int) -> int:
    """Of each layer as `_linear`, where a gradient is wanted of it or of what is before; dropout counts one
    an element."""
    layers, count = len(ctx.needs_grad) // 2, 0
    each = 1 + (ctx.saved[1] != 1.0)
    weights = ctx.saved[-layers:]
    for i, weight in enumerate(weights):
        before, (need_weight, need_bias) = any(ctx.needs_grad[: 2 * i + 1]), ctx.needs_grad[2 * i + 1 :][:2]
        if before or need_weight or need_bias:
            own = 2 * weight.shape[1] * (before + need_weight) + need_bias + each * (i < layers - 1)
            count += dy // weights[-1].shape[0] * weight.shape[0] * own
    return count


def _matmul(ctx: Context, dy: int) -> int:
    """da = dy bᵀ, db = aᵀ dy."""
    return 2 * dy * ctx.saved[0].shape[-1] * sum(ctx.needs_grad)


def _conv1d(ctx: Context, dy: int) -> int:
    """As `_linear`, each output reading a window of K · C / groups values."""
    window = math.prod(ctx.saved[1].shape[:2])  # kept as (K, C, O)
    return dy * (2 * window * sum(ctx.needs_grad[:2]) + ctx.needs_grad[2])


def _conv_relu_max(ctx: Context, dy: int) -> int:
    """The winning window of each text and filter alone: K · C values, for dx and for dW."""
    x, filters = ctx.saved[:2]
    size = sum(group.joined.size for group in filters) if isinstance(filters, list) else filters.size
    wanted = ctx.needs_grad[0] + any(ctx.needs_grad[1::2])
    return int(2 * x.shape[0] * size * wanted + dy)


def _recurrent(ctx: Context, dy: int) -> int:
    """At every position the products with both weights: for x, for the state before, and for the weights."""
    sequence, weight_ih, weight_hh = ctx.saved[:3]
    positions = sequence.shape[0] * sequence.shape[1]
    need_x, need_ih, need_hh = ctx.needs_grad[:3]
    products = weight_ih.size * (need_x + need_ih) + weight_hh.size * (1 + need_hh)
    biases = weight_ih.shape[0] * sum(ctx.needs_grad[3:5])
    return int(positions * (2 * products + biases))


def _bidirectional(ctx: Context, dy: int) -> int:
    """As `_recurrent`, of both directions."""
    x, weights_ih, weights_hh = ctx.saved[:3]
    need_x, wants = ctx.needs_grad[0], ctx.needs_grad[1:]
    products = weights_ih.size * need_x + sum(w.size for w in weights_hh)
    biases = 0
    for d in range(2):
        need_ih, need_hh, *need_biases = wants[4 * d : 4 * d + 4]
        products += weights_ih.size // 2 * need_ih + weights_hh[d].size * need_hh
        biases += weights_ih.shape[0] // 2 * sum(need_biases)
    return int(x.shape[0] * x.shape[1] * (2 * products + biases))


def _dot_product(ctx: Context, dy: int) -> int:
    """dE = A (dA - Σ A dA), then dq = dE k and dk = dEᵀ q."""
    return dy * (4 + 2 * ctx.saved[0].shape[-1] * sum(ctx.needs_grad))


def _attention(ctx: Context, dcontext: Shape, gradients: list[Shape | None]) -> int:
    """dV = Aᵀ dC, dA = dC Vᵀ, dE = A (dA - Σ A dA), dQ = dE K, dK = dEᵀ Q; kernels make A again."""
    need_query, need_key, need_value = ctx.needs_grad
    keys = gradients[1] or gradients[2]
    depth = gradients[0] or gradients[1] or dcontext
    if keys is None:
        return math.prod(dcontext)
    weights = math.prod(dcontext[:-1]) * keys[-2]
    energies = need_query or need_key
    per_weight = 2 * dcontext[-1] * (need_value + energies) + 4 * energies
    per_weight += 2 * depth[-1] * (need_query + need_key + isinstance(ctx.saved[0], Launch))
    return weights * per_weight


def _additive(ctx: Context, dy: int) -> int:
    """u = tanh(q + k) again, dv = Σ dE u, dE (1 - u²) and its two sums: 9 for each of (B, T, S, H)."""
    return dy * (4 + 9 * ctx.saved[0].shape[-1])


def _rows(ctx: Context, dy: int) -> int:
    """A number for each of the table, or of a gradient of rows."""
    _, shape, _, sparse = ctx.saved
    return dy if sparse else math.prod(shape)


_COUNTS: dict[Any, Count] = {
    Linear: _linear,
    FeedForward: _feed_forward,
    MatMul: _matmul,
    Conv1d: _conv1d,
    ConvReluMax: _conv_relu_max,
    Embedding: _rows,
    GRU: _recurrent,
    LSTM: _recurrent,
    Bidirectional: _bidirectional,
    DotProductWeights: _dot_product,
    AdditiveWeights: _additive,
}
