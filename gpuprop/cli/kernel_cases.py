"""One case a kernel file of ours, for `gpuprop kernels check` and for compute-sanitizer on a GPU: on the CPU,
the formula."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from .. import ops
from ..backend import kernels
from ..backend.arrays import to_device
from ..backend.random import state
from ..backend.table_rows import radix_sort, rank, sort
from ..ops.dropout import Dropout
from ..ops.scaled_dot_product_attention import Attention
from ..tensors import Tensor, tensor
from ..training.judgement import LossScale, judge
from .kernel_cases_of_convolutions import (
    conv1d,
    conv1d_depthwise,
    conv1d_relu_max,
    conv1d_relu_max_products,
    conv1d_tensor_cores,
)
from .kernel_cases_of_optimizers import adam, sparse_adam
from .kernel_cases_of_recurrent_layers import recurrent, recurrent_cluster, recurrent_sequence

Results = list[Any]
TWO_LAYERS = ((37, 5), (144, 5), (144,), (3, 144), (3,))  # x, and weights and biases


def activation(dtype: Any) -> Results:
    """GELU and its gradient, a linear layer with ReLU, and the sums over rows that its bias needs; then both
    with dropout between two layers."""
    results: Results = []
    for width in (37, 136):
        rng = np.random.default_rng(0)
        shapes = ((70, width), (width, width), width)
        x, weight, bias = (tensor(rng.uniform(-1, 1, s).astype(dtype), requires_grad=True) for s in shapes)
        for y in (ops.gelu(x), ops.gelu(x, "none"), ops.linear(x, weight * 0.1, bias, activation="relu")):
            y.backward(rng.uniform(-0.1, 0.1, y.shape).astype(dtype))
            results.append(y.data)
        results += [x.grad, bias.grad]
    for activation in ("relu", "gelu"):
        state.calls[9] = 0  # the same numbers each time
        leaves = [tensor(rng.uniform(-1, 1, s).astype(dtype), requires_grad=True) for s in TWO_LAYERS]
        y = ops.feed_forward(*leaves, activation=activation, dropout=0.25, stream=9)
        y.backward(rng.uniform(-0.1, 0.1, y.shape).astype(dtype))
        results += [y.data, *(leaf.grad for leaf in leaves)]
    return results


def attention(dtype: Any) -> Results:
    """Context and gradients: short texts with padding, and longer ones, causal, with dropout."""
    return _attention(dtype, ((20, 31, 20, 5, 0.0), (70, 67, 20, 5, 0.25), (9, 130, 20, 5, 0.25)))


def attention_tensor_cores(dtype: Any) -> Results:
    """The same of rows of whole packs, and of more columns."""
    return _attention(dtype, ((20, 33, 16, 24, 0.25), (33, 17, 72, 72, 0.0)))


def _attention(dtype: Any, sizes: Any) -> Results:
    results: Results = []
    for queries, keys, size, value_size, p in sizes:
        rng = np.random.default_rng(0)
        shapes = ((2, 2, queries, size), (2, 2, keys, size), (2, 2, keys, value_size))
        inputs = [tensor(rng.standard_normal(s).astype(dtype), requires_grad=True) for s in shapes]
        place = None if p == 0 else (p, 5, 9, 2, state.step, 3)
        mask = to_device(np.arange(keys) < np.array([keys, keys // 2])[:, None, None, None])
        y = Attention.apply(*inputs, mask=mask, causal=p > 0, scale=0.2, place=place)
        y.backward(rng.standard_normal(y.shape).astype(dtype))
        results += [y.data, *(x.grad for x in inputs)]
    return results


def softmax_cross_entropy(dtype: Any) -> Results:
    """Loss and gradient by the simple kernels, which rows that begin anywhere are left to."""
    return _losses(dtype, ((40, np.int64), (1100, np.int32)), shift=1)


def softmax_cross_entropy_fused(dtype: Any) -> Results:
    """Loss and gradient in one walk, of few classes, of some, of many, and of more than registers hold."""
    return _losses(dtype, ((7, np.int64), (70, np.int64), (1100, np.int32), (8203, np.int64)), shift=0)


def _losses(dtype: Any, sizes: Any, shift: int) -> Results:
    results: Results = []
    for classes, label in sizes:
        rng = np.random.default_rng(0)
        block = np.zeros(9 * classes + shift, dtype)
        block[shift:] = rng.standard_normal(9 * classes).astype(dtype)
        logits = Tensor(to_device(block)[shift:].reshape(9, classes))
        logits.requires_grad = True
        targets = rng.integers(0, classes, 9).astype(label)
        targets[3] = -100
        loss = ops.softmax_cross_entropy(
            logits, targets, weight=rng.uniform(0.5, 2, classes), label_smoothing=0.1, z_loss=0.01
        )
        loss.backward()
        results += [loss.data, logits.grad]
    return results


def dropout(dtype: Any) -> Results:
    """Output and gradient: the bits of the formula; of all elements, and of packed rows."""
    results = []
    for rows in (None, to_device(np.array([0, 1, 2, 5, 6, 9, 11]))):
        x = tensor(np.random.default_rng(0).standard_normal((7, 300)).astype(dtype), requires_grad=True)
        y = Dropout.apply(x, p=0.3, first=5, stream=9, call=2, rows=rows)
        y.backward(np.ones(y.shape, dtype))
        results += [y.data, x.grad]
    return results


def embedding(dtype: Any) -> Results:
    """Rows of a table and its gradient, some asked for often, and the simple version of the gradient."""
    rng = np.random.default_rng(0)
    results: Results = []
    for columns in (45, 136):
        ids = np.minimum(rng.integers(0, 40, 130), 20)
        values = (rng.standard_normal((130, columns)) / 4).astype(dtype)
        table = tensor(rng.standard_normal((21, columns)).astype(dtype), requires_grad=True)
        y = ops.embedding(ids, table)
        y.backward(values)
        results += [y.data, table.grad, _simple(to_device(ids), to_device(values))]
    return results + _sorted(to_device(rng.integers(-1, 300, 700)), 280)


def _sorted(ids: Any, rows: int) -> Results:
    """Ids and the places they had, by both kernels that sort."""
    if kernels.usable(ids):
        return [*rank(ids, rows, 7), *radix_sort(ids, rows, 7)]
    keys = np.where((ids < 0) | (ids == 7), rows, np.minimum(ids, rows)).astype(np.int32)
    order = np.argsort(keys, kind="stable").astype(np.int32)
    return [keys[order], order] * 2


def _simple(ids: Any, values: Any) -> Any:
    if not kernels.usable(values):
        wide = np.zeros((21, values.shape[1]))
        np.add.at(wide, ids, values.astype(np.float64))
        return wide.astype(values.dtype)
    table = to_device(np.zeros((21, values.shape[1]), values.dtype))
    kernel = kernels.project("embedding", f"add_sorted_rows<{kernels.c_type(table.dtype)}>")
    kernel(ids.size, 64, (*sort(ids, 21), values, table, ids.size, *table.shape))
    return table


def layer_norm(dtype: Any) -> Results:
    """Output and gradients: rows that a warp holds, and others."""
    results: Results = []
    for width in (37, 136):
        rng = np.random.default_rng(0)
        leaves = [
            tensor(rng.standard_normal(s).astype(dtype), requires_grad=True)
            for s in ((35, width), width, width)
        ]
        y = ops.layer_norm(leaves[0], leaves[1], leaves[2])
        y.backward(rng.standard_normal(y.shape).astype(dtype))
        results += [y.data, *(leaf.grad for leaf in leaves)]
    return results


def pooling(dtype: Any) -> Results:
    """Maximum and mean over time and their gradients, of texts with gaps and of one without a token."""
    results: Results = []
    for channels in (37, 264):
        rng = np.random.default_rng(0)
        x = tensor(rng.standard_normal((3, 19, channels)).astype(dtype), requires_grad=True)
        mask = to_device(rng.random((3, 19)) < np.array([[0.7], [0.0], [1.0]]))
        for y in (ops.max_over_time(x, mask), ops.mean_over_time(x, mask)):
            y.backward(rng.standard_normal(y.shape).astype(dtype))
            results.append(y.data)
        results.append(x.grad)
    return results


def residual_layer_norm(dtype: Any) -> Results:
    """Both results and all gradients, with dropout: rows that a warp holds, and others."""
    results: Results = []
    for width in (37, 144):
        rng = np.random.default_rng(0)
        sizes = ((35, width), (35, width), width, width)
        x, r, w, b = (tensor(rng.standard_normal(s).astype(dtype), requires_grad=True) for s in sizes)
        state.calls[9] = 0  # the same numbers each time
        y, total = ops.residual_layer_norm(x, r, w, b, dropout=0.25, stream=9)
        factor = to_device(rng.standard_normal(y.shape).astype(dtype))
        (total * 0.5 + y * factor).sum().backward()
        results += [y.data, total.data, *(leaf.grad for leaf in (x, r, w, b))]
    return results


def step(dtype: Any) -> Results:
    """What is decided of steps that are fine, whose gradients overflow, and whose loss is not finite; the
    loss scale after each."""
    results: Results = []
    dtype = np.float64 if dtype == np.float64 else np.float32  # of sums
    so_far, scale = to_device(np.zeros((), bool)), LossScale.beside(to_device(np.zeros(1)))
    for loss, squares in ((1.0, 4.0), (2.0, np.inf), (3.0, 5.0), (np.nan, 1.0), (1.0, 1.0)):
        norm = to_device(np.array([squares, 2.0], dtype))
        overflow = scale.judge(norm)
        values = [to_device(np.array(loss, of)) for of in (np.float32, np.float64)]
        results += [overflow, *judge(values, None, scale.lost, overflow, so_far)]
        results += [getattr(scale, name).copy() for name in ("scale", "used", "since", "skipped", "lost")]
    results += judge([to_device(np.array(1.0, dtype))], norm, None, None, to_device(np.zeros((), bool)))
    return [result.astype(np.float64) for result in results]


OURS: dict[str, Callable[[Any], Results]] = {
    "activation.cu": activation,
    "adam.cu": adam,
    "attention.cu": attention,
    "attention_tensor_cores.cu": attention_tensor_cores,
    "conv1d.cu": conv1d,
    "conv1d_relu_max.cu": conv1d_relu_max,
    "conv1d_relu_max_products.cu": conv1d_relu_max_products,
    "conv1d_depthwise.cu": conv1d_depthwise,
    "conv1d_tensor_cores.cu": conv1d_tensor_cores,
    "dropout.cu": dropout,
    "embedding.cu": embedding,
    "layer_norm.cu": layer_norm,
    "pooling.cu": pooling,
    "recurrent.cu": recurrent,
    "recurrent_cluster.cu": recurrent_cluster,
    "recurrent_sequence.cu": recurrent_sequence,
    "residual_layer_norm.cu": residual_layer_norm,
    "softmax_cross_entropy.cu": softmax_cross_entropy,
    "softmax_cross_entropy_fused.cu": softmax_cross_entropy_fused,
    "sparse_adam.cu": sparse_adam,
    "step.cu": step,
}
