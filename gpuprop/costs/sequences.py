"""Operations along texts: attention and pooling."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ..backend.kernel_memory import SHARED_OF_EMULATOR
from ..ops.attention import GPU_BLOCK, AdditiveWeights, DotProductWeights
from ..ops.attention_kernels import Launch
from ..ops.attention_sizes import backward as one_kernel
from ..ops.scaled_dot_product_attention import Attention
from .layers import dropout as dropout_of
from .layers import matmul
from .measure import INT, Cost, Pass, Spec, add_up, both, gradient_flops, launch


def scaled_dot_product_attention(
    query: Spec, key: Spec, value: Spec, mask: Spec | None = None, **_: Any
) -> Cost:
    """Each array once, forward, and backward where a block takes a matrix; else q, k, v and dC are read for
    dQ, and again for dK and dV. Weights are made on the chip, never stored."""
    inputs = (query, key, value)
    bits = None if mask is None else mask.like(*mask.shape, dtype=bool)
    context = query.like(*query.shape[:-1], value.shape[-1])
    sums = query.sums(*query.shape[:-1])
    weights = sums.size * key.shape[-2]
    products = 2 * weights * (query.shape[-1] + value.shape[-1])
    forward = launch(*inputs, bits, context, sums, flops=products + 4 * weights)
    if not any(x.needs_grad for x in inputs):
        return Cost(forward)
    if one_kernel(query.shape, value.shape, query.dtype, True, SHARED_OF_EMULATOR):
        backward = launch(*inputs, bits, context, sums, context, *inputs)
    else:
        backward = launch(*inputs, bits, context, sums, context, sums, query)
        backward += launch(*inputs, bits, sums, context, sums, key, value)
    flops = gradient_flops(Attention, (object.__new__(Launch),), context, *inputs)
    return Cost(forward, both([backward], flops))


def _softmax_over_keys(weights: Spec) -> Pass:
    """max, -, exp, a product with ones, and what is 0 becomes 1, before it divides."""
    rows, keys = weights.like(*weights.shape[:-1]), weights.like(weights.shape[-1])
    where = rows.like(*rows.shape, dtype=bool)
    ones_and_sums = launch(keys) + launch(weights, keys, rows, flops=2 * weights.size)
    zeros = launch(rows, where) + launch(where, rows) + launch(weights, rows, weights)
    return (
        launch(weights, rows)
        + launch(weights, rows, weights)
        + launch(weights, weights)
        + ones_and_sums
        + zeros
    )


def _softmax_gradient(weights: Spec) -> Pass:
    rows = weights.like(*weights.shape[:-1])
    first = launch(weights, weights, weights) + add_up(weights, rows)
    return first + launch(weights, rows, weights) + launch(weights, weights, weights)


def attention_weights(query: Spec, key: Spec, mask: None = None, *, scale: float | None = None) -> Cost:
    """Composed of products and launches element by element; the energies are stored."""
    _no_mask(mask)
    scaled = launch(query, query) if scale != 1.0 else Pass()
    weights = query.like(*query.shape[:-1], key.shape[-2])
    forward = scaled + launch(query, key, weights) + _softmax_over_keys(weights)
    backward = _softmax_gradient(weights)
    backward += launch(weights, key, query) + scaled if query.needs_grad else Pass()
    backward += scaled + launch(weights, query, key) if key.needs_grad else Pass()
    flops = gradient_flops(DotProductWeights, (query, key), weights, query, key)
    own = 2 * weights.size * query.shape[-1] + 2 * weights.size
    wanted = query.needs_grad or key.needs_grad
    return Cost(both([forward], own), both([backward], flops) if wanted else Pass())


def attention(
    query: Spec, key: Spec, value: Spec, mask: None = None, *, scale: float | None = None,
    dropout: float = 0.0, **_: Any,
) -> Cost:  # fmt: skip
    """The weights, dropout of them, and a product with the values; the gradient of the context alone."""
    weights = attention_weights(query, key, mask, scale=scale)
    wanted = query.needs_grad or key.needs_grad
    made = Spec((*query.shape[:-1], key.shape[-2]), query.dtype, wanted)
    dropped, context = dropout_of(made, dropout), matmul(made, value)
    parts = (weights, dropped, context)
    return Cost(both([part.forward for part in parts]), both([part.backward for part in parts]))


def additive_attention_weights(query: Spec, key: Spec, v: Spec, mask: None = None) -> Cost:
    """tanh(q + k) of each query and key is stored, in parts, forward and again backward."""
    _no_mask(mask)
    (batch, queries, size), keys = query.shape, key.shape[1]
    weights = query.like(batch, queries, keys)
    forward, backward = Pass(), _softmax_gradient(weights) + launch(key) + launch(v)
    step = max(1, GPU_BLOCK // max(1, batch * keys * size))
    for start in range(0, queries, step):
        count = min(step, queries - start)
        u, q = query.like(batch, count, keys, size), query.like(batch, count, size)
        w = weights.like(batch, count, keys)
        made = launch(q, key, u) + launch(u, u)
        forward += made + launch(u, v, w) + launch(w, w)
        backward += made + launch(w, u, v) + launch(v, v, v)  # dv
        backward += launch(u, u, u) + launch(u, u) + launch(u, w, u)  # dE (1 - u²)
        backward += add_up(u, q) + launch(q, q)
        backward += add_up(u, key) + launch(key, key, key) if count > 1 else launch(u, key, key)
    backward += launch(query, v, query) + launch(key, v, key)
    flops = gradient_flops(AdditiveWeights, (query,), weights, query, key, v)
    own = both([forward, _softmax_over_keys(weights)], weights.size * 4 * size)
    wanted = query.needs_grad or key.needs_grad or v.needs_grad
    return Cost(own, both([backward], flops) if wanted else Pass())


def max_over_time(x: Spec, mask: Spec | None = None) -> Cost:
    """A pass each way; where the largest stand is kept."""
    return _over_time(x, mask, True)


def mean_over_time(x: Spec, mask: Spec | None = None) -> Cost:
    """A pass each way; one share a text is kept."""
    return _over_time(x, mask, False)


def _over_time(x: Spec, mask: Spec | None, largest: bool) -> Cost:
    batch, _, channels = x.shape
    y, bits = x.like(batch, channels), None if mask is None else mask.like(*mask.shape, dtype=bool)
    kept = y.like(*y.shape, dtype=INT) if largest else x.sums(batch)
    forward = launch(x, bits, y, kept, flops=x.size)
    backward = launch(y, None if largest else bits, kept, x, flops=x.size)
    return Cost(forward, backward if x.needs_grad else Pass())


def _no_mask(mask: Any) -> None:
    if mask is not None:
        raise ValueError("the cost is known without a mask alone")


FORMULAS: dict[str, Callable[..., Cost]] = {
    "additive_attention_weights": additive_attention_weights,
    "attention": attention,
    "attention_weights": attention_weights,
    "max_over_time": max_over_time,
    "mean_over_time": mean_over_time,
    "scaled_dot_product_attention": scaled_dot_product_attention,
}
