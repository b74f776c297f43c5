"""What each operation costs on a GPU, forward and backward: launches, bytes that they move, floating-point
operations of their products. Counted on the fake GPU, and asserted against what the equations need."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import gpuprop as gp
from gpuprop import ops
from gpuprop.ops import persistent_kernels

FLOAT = 4
SMALL = 1 << 12  # bytes that do not count: sums, flags, numbers of the random generator


def leaf(*shape: int, dtype: str = "float32") -> gp.Tensor:
    values = np.random.default_rng(0).standard_normal(shape).astype(dtype)
    return gp.tensor(values, requires_grad=True)


def cost(machine: Any, run: Callable[[], Any], *leaves: gp.Tensor) -> dict[str, tuple[int, int, int]]:
    """(launches, bytes, flops) of forward and backward, from ones that are made before."""
    for x in leaves:
        x.grad = None
    run()  # what is compiled and kept
    machine.costs.clear()
    y = run()
    forward = list(machine.costs)
    dy = gp.get_xp(y.data).ones(y.shape, y.dtype)
    machine.costs.clear()
    y.backward(dy)
    found = {"forward": forward, "backward": list(machine.costs)}
    return {
        name: (len(part), sum(c.moved for c in part) // SMALL * SMALL, sum(c.flops for c in part))
        for name, part in found.items()
    }


def test_linear(fake_gpu: Any) -> None:
    """One product forward, two backward, biases and ReLU inside them but for the mask of dy."""
    n, i, o = 128, 64, 96
    x, weight, bias = leaf(n, i), leaf(o, i), leaf(o)
    moved, flops = FLOAT * (n * i + i * o + n * o), 2 * n * i * o
    found = cost(fake_gpu, lambda: ops.linear(x, weight, bias), x, weight, bias)
    assert found["forward"] == (1, moved, flops)
    assert found["backward"] == (2, 2 * moved, 2 * flops)
    found = cost(fake_gpu, lambda: ops.linear(x, weight, bias, activation="relu"), x, weight, bias)
    assert found["forward"] == (1, moved, flops)
    assert found["backward"] == (3, 2 * moved + 3 * FLOAT * n * o, 2 * flops)


def test_a_convolution_by_products_copies_no_windows(fake_gpu: Any) -> None:
    """One product forward, which reads x once for each of the K phases, and one each for dx and dW; what is
    copied is dy, with zeros between the texts, and the weight, turned round."""
    b, length, c, o, k = 32, 64, 32, 64, 3
    x, bias = leaf(b, length, c), leaf(o)
    weight = gp.Parameter(leaf(o, k, c).data, order=(1, 2, 0))
    n, w = b * length, k * c * o
    windows, phased = n - k + 1, n + -n % k  # those across two texts are multiplied, too
    found = cost(fake_gpu, lambda: ops.conv1d(x, weight, bias), x, weight, bias)
    moved = FLOAT * (windows * (k * c + o) + w)
    assert found["forward"] == (1, moved // SMALL * SMALL, 2 * windows * w)
    dy = b * (length - k + 1) * o
    expected = [
        ("conv1d_pad", dy + (k - 1 + phased) * o),
        ("copy", 2 * w),
        ("gemm_batched", phased * (k * o + c) + w),
        ("gemm_batched", windows * (k * c + o) + k * w),
        ("conv1d_sum_partials", k * w + w),
    ]
    costs = fake_gpu.costs
    assert [(cost.name, cost.moved) for cost in costs[:5]] == [(name, FLOAT * m) for name, m in expected]
    assert [cost.name for cost in costs[5:]] == ["activation_backward", "activation_sum_partials"]  # dbias
    assert found["backward"][2] == 2 * w * (phased + windows)


def test_a_maximum_over_time_of_convolutions_stores_no_activations(fake_gpu: Any) -> None:
    """Two launches each way for all widths. Beside x and the weights, which are copied once in the order that
    the kernels read, there is a value and a winner for each text and filter; none for each window."""
    b, length, c, shapes = 16, 64, 32, [(24, 3), (32, 4), (40, 5)]
    x, mask = leaf(b, length, c), gp.tensor(np.arange(length) < np.arange(b)[:, None] * 4).data
    pairs = [(gp.Parameter(leaf(f, k, c).data, order=(1, 2, 0)), leaf(f)) for f, k in shapes]
    leaves = [x, *(p for pair in pairs for p in pair)]
    found = cost(fake_gpu, lambda: ops.conv1d_relu_max(x, pairs, mask, paddings="same"), *leaves)
    weights, filters = sum(f * k * c for f, k in shapes), sum(f for f, _ in shapes)
    join, features = 2 * (weights + filters), b * filters
    forward = FLOAT * (join + x.size + weights + filters + 2 * features) + mask.size
    assert found["forward"] == (2, forward // SMALL * SMALL, 0)
    of_weights, of_x = x.size + 2 * features + weights + filters, 2 * features + weights + x.size
    assert found["backward"] == (2, FLOAT * (of_weights + of_x) // SMALL * SMALL, 0)


@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_a_depthwise_convolution_is_a_pass_each_way(fake_gpu: Any, dtype: str) -> None:
    """x read and y written; x and dy read, dx written, and the other gradients made beside."""
    b, length, c, k = 64, 64, 128, 4
    x, bias = leaf(b, length, c, dtype=dtype), leaf(c, dtype=dtype)
    weight = gp.Parameter(leaf(c, k, 1, dtype=dtype).data, order=(1, 2, 0))
    found = cost(
        fake_gpu, lambda: ops.conv1d(x, weight, bias, padding="causal", groups=c), x, weight, bias
    )  # fmt: skip
    assert found["forward"] == (1, 2 * x.data.nbytes, 0)
    launches, moved, _ = found["backward"]
    assert [cost.name for cost in fake_gpu.costs] == ["conv1d_depthwise_backward", "conv1d_depthwise_sum"]
    partial = fake_gpu.costs[1].moved
    assert launches == 2
    assert moved <= 3 * x.data.nbytes + 2 * partial
    assert partial <= x.data.nbytes / 4


@pytest.mark.parametrize("over", [ops.max_over_time, ops.mean_over_time])
def test_pooling_over_time_is_a_pass_each_way(fake_gpu: Any, over: Any) -> None:
    x, mask = leaf(32, 64, 32), gp.tensor(np.arange(64) < np.arange(32)[:, None]).data
    found = cost(fake_gpu, lambda: over(x, mask), x)
    assert {name: n for name, (n, _, _) in found.items()} == {"forward": 1, "backward": 1}
    assert all(moved <= x.data.nbytes + 4 * SMALL for _, moved, _ in found.values())


def test_matmul_of_stacks(fake_gpu: Any) -> None:
    """A transpose costs nothing, forward or backward."""
    b, m, k, n = 8, 16, 32, 24
    x, y = leaf(b, m, k), leaf(b, n, k)
    moved, flops = FLOAT * b * (m * k + k * n + m * n), 2 * b * m * n * k
    found = cost(fake_gpu, lambda: ops.matmul(x, y.swapaxes(1, 2)))
    assert found["forward"] == (1, moved, flops)
    assert found["backward"] == (2, 2 * moved, 2 * flops)


def test_cross_entropy_reads_logits_and_writes_their_gradient(fake_gpu: Any) -> None:
    """Two passes in all: the forward pass writes the gradient too. The backward pass looks at dy, finds 1 and
    leaves it as it is."""
    rows, classes = 64, 512
    logits, labels = leaf(rows, classes), gp.tensor(np.arange(rows) % classes)
    found = cost(fake_gpu, lambda: ops.softmax_cross_entropy(logits, labels), logits)
    assert found["forward"][1] == 2 * logits.data.nbytes
    assert [c.name for c in fake_gpu.costs] == ["softmax_cross_entropy_scale"]
    assert found["forward"][0] + found["backward"][0] <= 4


@pytest.mark.parametrize("p", [0.0, 0.1])
def test_attention_reads_and_writes_each_array_but_no_weights(fake_gpu: Any, p: float) -> None:
    b, heads, length, size = 2, 2, 32, 16
    q, k, v = (leaf(b, heads, length, size) for _ in range(3))
    found = cost(fake_gpu, lambda: ops.scaled_dot_product_attention(q, k, v, dropout=p, stream=5))
    one = q.data.nbytes
    assert found["forward"][:2] == (1, 4 * one)
    assert found["backward"][:2] == (1, 8 * one)  # q, k, v, C, dC, and the gradients


def test_attention_of_long_texts_is_two_launches_backward(fake_gpu: Any) -> None:
    q, k, v = leaf(2, 2, 8, 16), leaf(2, 2, 160, 16), leaf(2, 2, 160, 16)
    found = cost(fake_gpu, lambda: ops.scaled_dot_product_attention(q, k, v))
    small, large = q.data.nbytes, k.data.nbytes
    assert found["backward"][0] == 2  # q, k, v and dC by both, C, and the gradients
    assert found["backward"][1] <= 6 * (large + small) + SMALL


def test_dropout_is_a_pass_each_way_and_keeps_no_mask(fake_gpu: Any) -> None:
    x = leaf(64, 256)
    found = cost(fake_gpu, lambda: ops.dropout(x, 0.5, stream=3))
    assert found["forward"] == found["backward"] == (1, 2 * x.data.nbytes, 0)


@pytest.mark.parametrize("p", [0.0, 0.1])
def test_residual_dropout_and_layer_norm_are_one_launch_and_two(fake_gpu: Any, p: float) -> None:
    x, residual, weight, bias = leaf(256, 64), leaf(256, 64), leaf(64), leaf(64)
    n, partial = x.data.nbytes, 2 * 32 * 2 * 64 * FLOAT  # sums over 32 parts of the rows, written and read
    run = lambda: ops.residual_layer_norm(x, residual, weight, bias, dropout=p, stream=3)[0]  # noqa: E731
    found = cost(fake_gpu, run, x, residual, weight, bias)
    assert found["forward"] == (1, 4 * n, 0)  # x, r, s and y
    assert found["backward"] == (2, (3 + (p > 0)) * n + partial, 0)  # s, dy and dx, and dr where it is not dx


def test_arithmetic_is_a_pass_each(fake_gpu: Any) -> None:
    x, y = leaf(64, 256), leaf(64, 256)
    n = x.data.nbytes
    assert cost(fake_gpu, lambda: x + y, x, y) == {"forward": (1, 3 * n, 0), "backward": (0, 0, 0)}
    assert cost(fake_gpu, lambda: x * y, x, y) == {"forward": (1, 3 * n, 0), "backward": (2, 6 * n, 0)}


def recurrent_costs(machine: Any, gates: int, length: int, b: int = 8, size: int = 16) -> dict[str, Any]:
    w, u = (gp.Parameter(leaf(gates * size, size).data, order=(1, 0)) for _ in range(2))
    x, b_ih, b_hh = leaf(b, length, size), leaf(gates * size), leaf(gates * size)
    operation: Any = ops.gru if gates == 3 else ops.lstm
    return cost(machine, lambda: operation(x, w, u, b_ih, b_hh)[0], x, w, u, b_ih, b_hh)


@pytest.mark.parametrize(("gates", "kept"), [(3, 2), (4, 3)])
def test_recurrence_is_a_launch_each_way_whatever_the_length(fake_gpu: Any, gates: int, kept: int) -> None:
    """Beside it a product for x, and backward one for dx and one each for the weights with their biases. Each
    number is moved once, what is written in place twice: kept are the state before, and s, or c and
    tanh c; a GRU has gradients of W_hh h + b_hh of its own."""
    b, size = 8, 16
    for length in (2, 64):
        found = recurrent_costs(fake_gpu, gates, length)
        numbers, weights, biases = b * length * size, gates * size * size, gates * size
        product = numbers + gates * numbers + weights
        forward = product + (2 * gates + kept + 1) * numbers + weights + 2 * biases + b * size
        backward = 3 * product + 2 * biases + (2 * gates + 3 + (3 if gates == 3 else 0)) * numbers + weights
        flops = 2 * b * length * gates * size * size  # of the products that stand alone
        assert found == {
            "forward": (2, FLOAT * forward // SMALL * SMALL, flops),
            "backward": (4, FLOAT * backward // SMALL * SMALL, 3 * flops),
        }


def test_a_time_step_of_a_gru(fake_gpu: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where it does not fit one kernel: products for x and for the weights over all times at once; at each
    time one for the state, and one kernel, each way."""
    monkeypatch.setattr(persistent_kernels, "fits", lambda *_: False)
    b, size, launches = 8, 16, []
    for length in (4, 8):
        found = recurrent_costs(fake_gpu, 3, length)
        launches.append(sum(n for n, _, _ in found.values()))
        assert found["forward"][2] == 2 * b * length * 3 * size * 2 * size
        assert found["backward"][2] == 2 * found["forward"][2]
    assert launches[1] - launches[0] == 4 * 4
