"""Our kernels under the checker in three thread orders: no report, the same bits, the formulas' values. On a
GPU the same, twice."""

from __future__ import annotations

import importlib

import numpy as np
import pytest

from gpuprop import testing
from gpuprop.backend import kernels, signatures
from gpuprop.backend.arrays import to_device, to_host
from gpuprop.backend.device import get_device, use_device
from gpuprop.backend.instantiations import C_TYPES
from gpuprop.backend.random import manual_seed
from gpuprop.cli import kernel_cases
from gpuprop.cli.kernel_cases import (
    adam,
    attention_tensor_cores,
    conv1d_relu_max_products,
    conv1d_tensor_cores,
    sparse_adam,
)
from gpuprop.cli.kernel_cases_of_recurrent_layers import recurrent_cluster, recurrent_sequence
from gpuprop.ops import activation_kernels
from gpuprop.ops.conv1d import conv1d
from gpuprop.ops.conv1d_relu_max import conv1d_relu_max
from gpuprop.ops.embedding import embedding
from gpuprop.ops.feed_forward import feed_forward
from gpuprop.ops.gelu import gelu
from gpuprop.ops.gru import gru
from gpuprop.ops.layer_norm import layer_norm
from gpuprop.ops.lstm import lstm
from gpuprop.ops.pooling import max_over_time, mean_over_time
from gpuprop.ops.residual_layer_norm import residual_layer_norm
from gpuprop.ops.scaled_dot_product_attention import scaled_dot_product_attention
from gpuprop.ops.softmax_cross_entropy import softmax_cross_entropy
from gpuprop.tensors import Parameter, tensor
from gpuprop.testing import unavailable

REASON, NO_GPU = unavailable("emulated"), unavailable("cuda")
TOLERANCE = {"float64": 1e-13, "float32": 2e-6, "float16": 1e-3, "bfloat16": 8e-3}
STORED_BETWEEN = {
    "lstm": 2
}  # of half types, gates are rounded where they are stored, and their gradients again
ORDERS = ("forward", "reverse", "random")


def dtype_named(name):
    return np.dtype(pytest.importorskip("ml_dtypes").bfloat16 if name == "bfloat16" else name)


def convolution(dtype, groups, channels=8, out=68):
    """70 x 68 results in a group: two row tiles, two column tiles, two runs of pairs."""
    rng = np.random.default_rng(0)
    x = tensor(rng.standard_normal((2, 35, channels)).astype(dtype), requires_grad=True)
    weight = Parameter(rng.standard_normal((out, 3, channels // groups)).astype(dtype), order=(1, 2, 0))
    bias = Parameter(rng.standard_normal(out).astype(dtype))
    y = conv1d(x, weight, bias, padding="same", dilation=2, groups=groups)
    y.backward(rng.standard_normal(y.shape).astype(dtype))
    return y.data, x.grad, weight.grad, bias.grad


def features(dtype, batch, length, channels, shapes):
    """Widths side by side, of padded texts: filters in two tiles, windows in several or texts in one."""
    rng = np.random.default_rng(0)
    mask = np.arange(length) < rng.integers(0, length + 1, (batch, 1))
    x = tensor(
        (rng.standard_normal((batch, length, channels)) * mask[..., None]).astype(dtype), requires_grad=True
    )
    pairs = [
        (
            Parameter(rng.standard_normal((f, k, channels)).astype(dtype), order=(1, 2, 0)),
            Parameter(rng.standard_normal(f).astype(dtype)),
        )
        for f, k in shapes
    ]
    y = conv1d_relu_max(x, pairs, mask, paddings=[(k - 1, k - 1) for _, k in shapes])
    y.backward(rng.standard_normal(y.shape).astype(dtype))
    return y.data, x.grad, *(p.grad for pair in pairs for p in pair)


def pool(dtype, channels):
    """Texts of several positions a warp; one without a token."""
    rng = np.random.default_rng(0)
    x = tensor(rng.standard_normal((3, 19, channels)).astype(dtype), requires_grad=True)
    mask = rng.random((3, 19)) < np.array([[0.7], [0.0], [1.0]])
    y = [max_over_time(x, mask), mean_over_time(x, mask)]
    for each in y:
        each.backward(rng.standard_normal(each.shape).astype(dtype))
    return *(each.data for each in y), x.grad


def loss(dtype, classes, label="int64", rows=9, **options):
    rng = np.random.default_rng(0)
    logits = tensor(rng.standard_normal((rows, classes)).astype(dtype), requires_grad=True)
    targets = rng.integers(0, classes, rows).astype(label)
    targets[3] = -100
    value = softmax_cross_entropy(logits, targets, weight=rng.uniform(0.5, 2, classes), **options)
    value.sum().backward()
    return value.data, logits.grad


def attend(dtype, queries, keys, **options):
    """Up to 32 tokens are one tile; more are two, or three of doubles; over 128 take two kernels backward."""
    rng = np.random.default_rng(0)
    shapes = ((2, 2, queries, 20), (2, 2, keys, 20), (2, 2, keys, 5))
    inputs = [tensor(rng.standard_normal(s).astype(dtype), requires_grad=True) for s in shapes]
    manual_seed(0)
    mask = np.arange(keys) < np.array([keys, keys // 2])[:, None]
    y = scaled_dot_product_attention(*inputs, mask, stream=3, **options)
    y.backward(rng.standard_normal(y.shape).astype(dtype))
    return y.data, *(x.grad for x in inputs)


def normalize(dtype, width, rows=35):
    rng = np.random.default_rng(0)
    arrays = [rng.standard_normal(s).astype(dtype) for s in ((rows, width), width, width)]
    leaves = [tensor(a, requires_grad=True) for a in arrays]
    y = layer_norm(*leaves)
    y.backward(rng.standard_normal(y.shape).astype(dtype))
    return y.data, *(leaf.grad for leaf in leaves)


def add_and_normalize(dtype, width, rows=35):
    """Packed rows with dropout, and a gradient of the sum beside that of the norm."""
    rng = np.random.default_rng(0)
    sizes = ((rows, width), (rows, width), width, width)
    leaves = [tensor(rng.standard_normal(s).astype(dtype), requires_grad=True) for s in sizes]
    manual_seed(0)
    mask = to_device(np.arange(2 * rows).reshape(7, -1) % 2 == 0)
    y, total = residual_layer_norm(*leaves, dropout=0.25, stream=3, mask=mask)
    gradient = to_device(rng.standard_normal(y.shape).astype(dtype))
    (y * gradient + total).sum().backward()
    return y.data, total.data, *(leaf.grad for leaf in leaves)


def activate(dtype, name, width):
    """More rows than a part has; widths of whole packs, in two tiles, and others."""
    if get_device().type == "cpu":
        return formula_of_activation(dtype, name, width)
    x, bias, dy = map(to_device, activation_inputs(dtype, width))
    sums = to_device(np.full(width, np.nan, dtype))
    y = activation_kernels.forward(name, x, bias)
    return y, activation_kernels.backward(name, dy, x, bias, sums), sums


def feed(dtype, activation):
    """Two layers with dropout between, of packed rows, and of more of them than a block takes. The numbers
    are short: a sum is positive or not, wherever it is rounded."""
    rng, rows = np.random.default_rng(0), 35
    sizes = ((rows, 5), (144, 5), 144, (3, 144), 3)
    leaves = [tensor((rng.integers(-8, 9, s) / 8).astype(dtype), requires_grad=True) for s in sizes]
    manual_seed(0)
    mask = to_device(np.arange(2 * rows).reshape(7, -1) % 2 == 0)
    y = feed_forward(*leaves, activation=activation, dropout=0.25, stream=3, mask=mask)
    y.backward(rng.standard_normal(y.shape).astype(dtype))
    return y.data, *(leaf.grad for leaf in leaves)


def activation_inputs(dtype, width):
    rng = np.random.default_rng(0)
    return [rng.uniform(-1, 1, s).astype(dtype) for s in ((67, width), width, (67, width))]


def formula_of_activation(dtype, name, width):
    x, bias, dy = (a.astype(np.float64) for a in activation_inputs(dtype, width))
    z = tensor(x + bias, requires_grad=True)
    y = z.relu() if name == "relu" else gelu(z, "tanh" if name == "gelu_tanh" else "none")
    y.backward(dy)
    return y.data, z.grad, z.grad.sum(0)


def look_up(dtype, columns):
    """Runs over several chunks, cut by them, and a padding id."""
    rng = np.random.default_rng(0)
    ids = np.minimum(rng.integers(0, 40, 130), 20)
    table = tensor(rng.standard_normal((21, columns)).astype(dtype), requires_grad=True)
    y = embedding(ids, table, padding_idx=3)
    y.backward((rng.standard_normal(y.shape) / 8).astype(dtype))
    return y.data, table.grad


def recur(dtype, operation, gates, **options):
    """Padding at both ends, and more numbers than a block has threads. Of half types one time: what is stored
    each time is rounded, while the formula is computed in float32."""
    half = np.dtype(dtype).itemsize == 2
    kept = np.float32 if get_device().type == "cpu" and half else dtype
    rng, size = np.random.default_rng(0), 90
    mask = np.array([[True, True, True], [False, True, False], [True, False, True]])[:, : 1 if half else 3]
    shapes = ((*mask.shape, 5), (gates * size, 5), (gates * size, size), gates * size, gates * size)
    draws = [(rng.standard_normal(s) / 8).astype(dtype).astype(kept) for s in shapes]
    leaves = [tensor(a, requires_grad=True) for a in draws]
    outputs = operation(*leaves, mask=to_device(mask), **options)
    scales = [to_device(rng.uniform(0.5, 1, y.shape).astype(kept)) for y in outputs]
    sum((y * scale).sum() for y, scale in zip(outputs, scales, strict=True)).backward()
    return *(y.data for y in outputs), *(leaf.grad for leaf in leaves)


CASES = {
    "gru": lambda dtype: recur(dtype, gru, 3),
    "lstm": lambda dtype: recur(dtype, lstm, 4, reverse=True),
    "gru-lstm-sequence": recurrent_sequence,
    "gru-lstm-cluster": recurrent_cluster,
    "activation-plain": lambda dtype: activate(dtype, "gelu", 37),
    "activation-packs": lambda dtype: activate(dtype, "gelu_tanh", 136),
    "activation-relu": lambda dtype: activate(dtype, "relu", 264),
    "activation-relu-dropout": lambda dtype: feed(dtype, "relu"),
    "activation-gelu-dropout": lambda dtype: feed(dtype, "gelu"),
    "adam": adam,
    "attention-short": lambda dtype: attend(dtype, 20, 31),
    "attention-middle": lambda dtype: attend(dtype, 67, 70, causal=True, dropout=0.25),
    "attention-long": lambda dtype: attend(dtype, 17, 131, causal=True, dropout=0.25),
    "attention-tensor-cores": attention_tensor_cores,
    "conv1d": lambda dtype: convolution(dtype, 1),
    "conv1d-depthwise": lambda dtype: convolution(dtype, 24, 24, 24),
    "conv1d-narrow": lambda dtype: convolution(dtype, 4),
    "conv1d-relu-max-long": lambda dtype: features(dtype, 2, 70, 8, [(68, 3), (5, 1)]),
    "conv1d-relu-max-short": lambda dtype: features(
        dtype, 9, 11, 5, [(5, 3), (4, 2), (3, 14), (2, 1), (7, 2)]
    ),
    "conv1d-relu-max-products": conv1d_relu_max_products,
    "conv1d-tensor-cores": conv1d_tensor_cores,
    "embedding-plain": lambda dtype: look_up(dtype, 45),
    "embedding-packs": lambda dtype: look_up(dtype, 136),
    "layer-norm-plain": lambda dtype: normalize(dtype, 37),
    "layer-norm-warp": lambda dtype: normalize(dtype, 136),
    "pooling-plain": lambda dtype: pool(dtype, 37),
    "pooling-packs": lambda dtype: pool(dtype, 264),
    "residual-layer-norm-plain": lambda dtype: add_and_normalize(dtype, 37),
    "residual-layer-norm-warp": lambda dtype: add_and_normalize(dtype, 144),
    "sparse-adam": sparse_adam,
    "softmax-slab": lambda dtype: loss(dtype, 7, label_smoothing=0.1, rows=131),
    "softmax-warp": lambda dtype: loss(dtype, 70, label_smoothing=0.1, z_loss=0.01, soft_cap=4.0),
    "softmax-block": lambda dtype: loss(dtype, 1100, "int32"),
    "softmax-online": lambda dtype: loss(dtype, 8203, label_smoothing=0.1, rows=4),
    "softmax-each-row": lambda dtype: loss(dtype, 70, reduction="none"),
}


# The rest of the kernels: the simple versions, and what has no other.
SIMPLE = {
    "dropout": kernel_cases.dropout,
    "embedding-simple": kernel_cases.embedding,
    "softmax-simple": kernel_cases.softmax_cross_entropy,
    "step": kernel_cases.step,
}
CASES |= SIMPLE
RUNS = [
    (case, dtype)
    for dtype in C_TYPES
    for case in CASES
    if dtype == "float32" or (case not in SIMPLE and (case != "sparse-adam" or dtype == "float64"))
]


@pytest.mark.skipif(REASON is not None, reason=f"emulated: {REASON}")
@pytest.mark.parametrize(("case", "dtype"), RUNS)
def test_every_order_gives_the_same_bits_and_no_report(case, dtype):
    emulator = importlib.import_module("gpuprop.backend.emulator")
    run = CASES[case]
    with use_device("cpu"):
        formula = run(dtype_named(dtype))
    first = None
    for order in ORDERS:
        with use_device("emulated"), emulator.options(mode="check", order=order):
            results = run(dtype_named(dtype))
        bits = [array.tobytes() for array in results]
        first = first or bits
        assert bits == first, order
    assert_near(results, formula, case, dtype)


def test_every_kernel_is_launched(fake_gpu):
    """By the cases above; but for the one that only runs where algorithms need not be deterministic."""
    for case, dtype in RUNS:
        if dtype == ("float16" if "tensor" in case else "float32"):
            CASES[case](dtype_named(dtype))
    declared = {
        name for file in kernels.kernel_files() for name in signatures.parse_kernels(file.path.read_text())
    }
    assert declared - set(fake_gpu.launches) == {"embedding_backward_atomic"}


@pytest.mark.gpu
@pytest.mark.skipif(NO_GPU is not None, reason=f"cuda: {NO_GPU}")
@pytest.mark.parametrize(("case", "dtype"), [run for run in RUNS if run[1] in ("float32", "float16")])
def test_on_a_gpu_a_second_run_gives_the_same_bits(case, dtype):
    """Those of tensor cores and of clusters among them, where the GPU has these."""
    with use_device("cpu"):
        formula = CASES[case](dtype_named(dtype))
    with testing.use_device("cuda"):  # which fake_device.py puts the fake one behind
        first, results = ([to_host(a) for a in CASES[case](dtype_named(dtype))] for _ in range(2))
    assert [a.tobytes() for a in results] == [a.tobytes() for a in first]
    assert_near(results, formula, case, dtype)


def assert_near(results, formula, case, dtype):
    for got, want in zip(results, formula, strict=True):
        error = np.abs(got.astype(np.float64) - want.astype(np.float64)).max()
        rounded = STORED_BETWEEN.get(case, 1) if dtype_named(dtype).itemsize == 2 else 1
        assert error <= rounded * TOLERANCE[dtype] * max(0.1, float(np.abs(want).max()))
