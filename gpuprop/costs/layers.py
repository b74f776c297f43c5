"""Layers that work row by row."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from ..backend.half import is_half
from ..backend.instantiations import PACK
from ..backend.table_rows import RANKED
from ..ops import activation_kernels, embedding_kernels, layer_norm_kernels
from ..ops.linear import Linear, MatMul
from ..ops.residual_layer_norm import packs_of as residual_packs_of
from .measure import INT, LONG, Cost, Pass, Spec, add_up, both, gradient_flops, launch


def linear(x: Spec, weight: Spec, bias: Spec | None = None, *, activation: str | None = None) -> Cost:
    """One product each for y, dx and dW, with bias, ReLU and the sums of db inside."""
    x2, (out, inner), relu = x.rows(), weight.shape, activation is not None
    y = x2.like(len(x2), out)
    forward = affine(x2, weight, bias, y, relu)
    backward = launch(y, y, y) if relu else Pass()
    backward += launch(y, weight, x2) if x.needs_grad else Pass()
    backward += weight_gradients(x2, weight, bias, y)
    need_bias = bias is not None and bias.needs_grad
    flops = gradient_flops(Linear, (x2, weight, y if relu else None), y, x, weight, bias)
    wanted = x.needs_grad or weight.needs_grad or need_bias
    own = y.size * (2 * inner + (bias is not None) + relu)
    return Cost(both([forward], own), both([backward], flops) if wanted else Pass())


def affine(x: Spec, weight: Spec, bias: Spec | None, y: Spec, relu: bool, beside: Spec | None = None) -> Pass:
    """y = f(x Wᵀ + b) in one product, and what it keeps beside y; in float64 a kernel adds the bias."""
    if x.dtype != np.float64:
        return launch(x, weight, bias, y, beside)
    after = launch(y, bias, y) if bias is not None or relu else Pass()
    return launch(x, weight, y) + after


def weight_gradients(x: Spec, weight: Spec, bias: Spec | None, dy: Spec) -> Pass:
    """dyᵀ x, and the sums of dy inside, or in kernels where they are wanted alone or in float64."""
    need_bias = bias is not None and bias.needs_grad
    inside = need_bias and weight.needs_grad and x.dtype != np.float64
    found = launch(x, dy, weight, bias if inside else None) if weight.needs_grad else Pass()
    return found + (column_sums(dy) if need_bias and not inside else Pass())


def column_sums(x: Spec) -> Pass:
    """Σ over the rows of x (N, C), by activation.cu: in parts, then of the parts."""
    rows, width = x.shape
    pack = PACK // x.dtype.itemsize
    parts = activation_kernels.parts_of(rows, width, pack if width % pack == 0 else 1)
    partial = x.sums(parts, width)
    return launch(x, partial) + launch(partial, x.like(width))


def matmul(a: Spec, b: Spec) -> Cost:
    """A product forward, and one for each gradient; of what a stack shares, the gradients are added up."""
    lead = np.broadcast_shapes(a.shape[:-2], b.shape[:-2])
    y = a.like(*lead, a.shape[-2], b.shape[-1])
    backward = Pass()
    for x, other in ((a, b), (b, a)):
        if x.needs_grad:
            whole = x.like(*lead, *x.shape[-2:])
            backward += launch(y, other, whole) + (add_up(whole, x) if whole.shape != x.shape else Pass())
    forward = launch(a, b, y, flops=2 * y.size * a.shape[-1])
    flops = gradient_flops(MatMul, (a, b), y, a, b)
    return Cost(forward, both([backward], flops) if a.needs_grad or b.needs_grad else Pass())


def layer_norm(x: Spec, weight: Spec, bias: Spec, eps: float = 1e-5) -> Cost:
    """x is read once each way where a warp holds a row; then the partial sums of dweight and dbias."""
    x2, mean = x.rows(), x.sums(x.size // x.shape[-1])
    forward = launch(x2, weight, bias, x2, mean, mean, flops=x.size)
    held = layer_norm_kernels.packs_of(x2.shape[1], x.dtype.itemsize) is not None
    backward = norm_gradients(x2, weight, bias, (x2,), held, x.needs_grad)
    wanted = [y.size for y in (x, weight, bias) if y.needs_grad]
    return Cost(forward, both([backward], sum(wanted)) if wanted else Pass())


def residual_layer_norm(
    x: Spec, residual: Spec, weight: Spec, bias: Spec, eps: float = 1e-5, *, dropout: float = 0.0, **_: Any
) -> Cost:
    """x and the residual are read, the norm and the sum are written; backward, of the norm alone, the sum and
    dy are read and dx is written, which is the residual's too where nothing is dropped."""
    x2, mean = x.rows(), x.sums(x.size // x.shape[-1])
    forward = launch(x2, x2, weight, bias, x2, x2, mean, mean, flops=x.size)
    held = residual_packs_of(x2.shape[1], x.dtype.itemsize) is not None
    dr = x2 if dropout > 0.0 and residual.needs_grad else None
    backward = norm_gradients(x2, weight, bias, (x2, dr), held, inputs=True)
    wanted = [y.size for y in (x, residual, weight, bias) if y.needs_grad]
    return Cost(forward, both([backward], sum(wanted)) if wanted else Pass())


def norm_gradients(
    x: Spec, weight: Spec, bias: Spec, results: Sequence[Spec | None], held: bool, inputs: bool
) -> Pass:
    """Of a layer norm of rows x (N, D): in one launch where a warp holds a row, else that of x, if wanted,
    and those of the constants; then the sums of the constants' partial sums."""
    n, width = x.shape
    mean, partial = x.sums(n), x.sums(layer_norm_kernels.parts_of(n), 2, width)
    constants, backward = weight.needs_grad or bias.needs_grad, Pass()
    if held:
        backward += launch(x, x, weight, mean, mean, *results, partial)
    else:
        backward += launch(x, x, weight, mean, mean, *results) if inputs else Pass()
        backward += launch(x, x, mean, mean, partial) if constants else Pass()
    sums = [x.sums(width) for y in (weight, bias) if y.needs_grad]
    backward += launch(partial, *sums) if constants else Pass()
    if is_half(x.dtype):  # summed in float32, then stored as the parameter
        backward += launch(x.sums(width), x.like(width)).times(len(sums))
    return backward


def embedding(ids: Spec, table: Spec, *, padding_idx: int | None = None, sparse: bool = False) -> Cost:
    """Rows are read and written; backward they are sorted by id, and added to rows of the table, which is
    cleared before. Of a table that is larger than what is asked for, so many rows count. sparse: backward
    only ids are copied, and the optimizer does the rest."""
    n, width = ids.size, table.shape[1]
    y, labels = table.like(n, width), ids.like(n, dtype=ids.dtype if ids.dtype.kind in "iu" else LONG)
    touched = min(table.nbytes, y.nbytes)
    forward = launch(touched, labels, y, flops=y.size)
    if sparse:
        return Cost(forward, both([launch(labels, labels)], y.size) if table.needs_grad else Pass())
    backward = launch(table) + added_rows(labels, y, touched)
    return Cost(forward, both([backward], table.size) if table.needs_grad else Pass())


def added_rows(ids: Spec, values: Spec, touched: int) -> Pass:
    """Rows (N, D) added to those of a table, of which `touched` bytes are read and written, by ids (N,)."""
    n, width = values.shape
    order, chunks = ids.like(n, dtype=INT), math.ceil(n / embedding_kernels.CHUNK)
    partial = values.sums(chunks, 2, width)
    added = launch(order, order, values, 2 * touched, partial)
    return sort(ids) + added + (launch(order, partial, 2 * touched) if chunks > 1 else Pass())


def sort(ids: Spec) -> Pass:
    """Of ids that are of an integer type: with their places, as int32; by a radix sort to and fro."""
    both_ways = 1 if ids.size <= RANKED else 2
    return launch(ids, both_ways * 2 * ids.like(ids.size, dtype=INT).nbytes)


def dropout(x: Spec, p: float, **_: Any) -> Cost:
    """A pass each way: the mask is made again, not kept."""
    if p == 0.0 or x.size == 0:
        return Cost(Pass())
    one = launch(x, x, flops=x.size)
    return Cost(one, one if x.needs_grad else Pass())


FORMULAS: dict[str, Callable[..., Cost]] = {
    "dropout": dropout,
    "embedding": embedding,
    "layer_norm": layer_norm,
    "linear": linear,
    "matmul": matmul,
    "residual_layer_norm": residual_layer_norm,
}
