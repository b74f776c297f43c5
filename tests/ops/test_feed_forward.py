"""Affine maps with an activation between: against the operations one after another, on every device."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import gpuprop as gp
from gpuprop import ops
from gpuprop.backend import cublaslt, random
from gpuprop.backend.arrays import to_host
from gpuprop.costs.cost import np_dtype
from gpuprop.testing import gradcheck

FORMS = [("relu", "tanh"), ("gelu", "tanh"), ("gelu", "none")]
ERROR = {"float64": 1e-13, "float32": 1e-5, "float16": 4e-3, "bfloat16": 3e-2}


def arrays(sizes: tuple[int, ...], biased: bool = True, rows: tuple[int, ...] = (2, 3)) -> list[Any]:
    """x and the parameters of layers of these sizes."""
    rng = np.random.default_rng(0)
    found: list[Any] = [rng.standard_normal((*rows, sizes[0]))]
    for before, after in itertools.pairwise(sizes):
        found.append(rng.standard_normal((after, before)) / np.sqrt(before))
        found.append(rng.standard_normal(after) if biased else None)
    return found


def one_after_another(x: Any, *parameters: Any, activation: str, approximate: str, **drops: Any) -> Any:
    """What `ops.feed_forward` stands for."""
    *hidden, last = zip(parameters[::2], parameters[1::2], strict=True)
    for weight, bias in hidden:
        x = ops.linear(x, weight, bias)
        x = ops.relu(x) if activation == "relu" else ops.gelu(x, approximate)
        x = ops.dropout(x, drops["dropout"], stream=3, mask=drops.get("mask")) if drops else x
    return ops.linear(x, *last)


def value_and_gradients(
    f: Callable[..., Any], given: list[Any], dtype: str, wanted: Any = None, **options: Any
) -> list[Any]:
    """In float64, on the host; wanted: of which inputs, None of all."""
    gp.manual_seed(3)
    options |= {"stream": 3} if "dropout" in options and f is ops.feed_forward else {}
    wanted = range(len(given)) if wanted is None else wanted
    tensors = [
        None if x is None else gp.tensor(x.astype(np_dtype(dtype)), requires_grad=i in wanted)
        for i, x in enumerate(given)
    ]
    y = f(*tensors, **options)
    (y * y).sum().backward()
    found = [y.data, *(t.grad for t in tensors if t is not None and t.requires_grad)]
    return [np.asarray(to_host(x)).astype(np.float64) for x in found]


@pytest.mark.parametrize(("activation", "approximate"), FORMS)
@pytest.mark.parametrize(("sizes", "biased"), [((4, 7, 3), True), ((3, 5, 4, 2), False)])
def test_gradients(device: str, activation: str, approximate: str, sizes: Any, biased: bool) -> None:
    given = arrays(sizes, biased)
    kept = [x for x in given if x is not None]

    def f(*inputs: Any) -> Any:
        left = list(inputs)
        filled = [None if x is None else left.pop(0) for x in given]
        return ops.feed_forward(*filled, activation=activation, approximate=approximate)

    gradcheck(f, kept)


@pytest.mark.parametrize(("activation", "approximate"), FORMS)
@pytest.mark.parametrize("dropped", [{}, {"dropout": 0.4}])
def test_the_bits_of_the_operations_one_after_another(
    device: str, activation: str, approximate: str, dropped: dict[str, Any]
) -> None:
    given, form = arrays((8, 16, 12, 4)), {"activation": activation, "approximate": approximate}
    ours = value_and_gradients(ops.feed_forward, given, "float32", **form, **dropped)
    theirs = value_and_gradients(one_after_another, given, "float32", **form, **dropped)
    assert len(ours) == len(theirs) == 8
    for a, b in zip(ours, theirs, strict=True):
        if device == "cuda":
            np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5)
        else:
            np.testing.assert_array_equal(a, b)


MASK = np.arange(6) < np.array([[3], [6], [1]])


@pytest.mark.parametrize("activation", ["relu", "gelu"])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("packed", [False, True])
def test_dropout_by_the_kernel_of_the_activation(
    device: str, activation: str, dtype: str, packed: bool
) -> None:
    """Whole blocks of random numbers: the same is dropped, of packed rows and parts of a batch, too."""
    form = {"activation": activation, "approximate": "tanh", "dropout": 0.4, "mask": MASK if packed else None}
    given = arrays((8, 16, 48, 4), rows=(10,) if packed else (3, 6))
    with random.rows_from(5):
        ours = value_and_gradients(ops.feed_forward, given, dtype, **form)
        theirs = value_and_gradients(one_after_another, given, dtype, **form)
    tolerance = {"float32": 2e-5, "float64": 1e-13}[dtype]
    for a, b in zip(ours, theirs, strict=True):
        np.testing.assert_allclose(a, b, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("activation", ["relu", "gelu"])
def test_gradients_with_dropout(device: str, activation: str) -> None:
    def f(*inputs: Any) -> Any:
        random.state.calls[3] = 0  # the same mask each time
        return ops.feed_forward(*inputs, activation=activation, dropout=0.4, stream=3)

    gradcheck(f, arrays((3, 16, 2)))


SIZES = [(16, 24, 8), (5, 7, 3), (6, 130, 9, 4)]
CASES = [(dtype, sizes, 0.0) for dtype in ERROR for sizes in SIZES] + [("float32", (4, 8, 1), 0.0)]
CASES += [(dtype, (8, 16, 48, 4), 0.4) for dtype in ERROR]


@pytest.mark.parametrize(("dtype", "sizes", "p"), CASES)
@pytest.mark.parametrize("activation", ["relu", "gelu"])
def test_products_with_epilogues_are_the_formula(
    fake_gpu: Any, dtype: str, activation: str, sizes: tuple[int, ...], p: float
) -> None:
    given, form = arrays(sizes), {"activation": activation, "approximate": "tanh"}
    form |= {"dropout": p} if p else {}
    rounded = [x.astype(np_dtype(dtype)).astype(np.float64) for x in given]
    with gp.use_device("cpu"):
        exact = value_and_gradients(one_after_another, rounded, "float64", **form)
    for found, expected in zip(
        value_and_gradients(ops.feed_forward, given, dtype, **form), exact, strict=True
    ):
        assert np.abs(found - expected).max() <= ERROR[dtype] * max(1.0, np.abs(expected).max())


def launches(machine: Any, given: list[Any], wanted: Any = None, **form: Any) -> tuple[list[str], list[str]]:
    """Names of what runs forward and backward, by products of float32."""
    tensors = [
        gp.tensor(x.astype(np.float32), requires_grad=wanted is None or i in wanted)
        for i, x in enumerate(given)
    ]
    machine.launches.clear()
    y = ops.feed_forward(*tensors, **form)
    forward = [name for name in machine.launches if name != "fill"]  # the number of the step
    machine.launches.clear()
    y.backward(gp.get_xp(y.data).ones(y.shape, y.dtype))
    return forward, [name for name in machine.launches if name != "fill"]


@pytest.mark.parametrize("activation", ["relu", "gelu"])
def test_a_product_each_and_nothing_between(fake_gpu: Any, activation: str) -> None:
    """Backward the last weight with its bias, then a product with the derivative and the sums, the weight
    without its bias, and so on; dx at the end."""
    given = arrays((16, 24, 40, 8))
    forward, backward = launches(fake_gpu, given, activation=activation)
    assert forward == ["gemm_epilogue"] * 3
    assert backward == ["gemm_epilogue", "gemm_epilogue", "gemm", "gemm_epilogue", "gemm", "gemm"]
    _, backward = launches(fake_gpu, given, wanted=(5, 6), activation=activation)  # the last layer
    assert backward == ["gemm_epilogue"]
    _, backward = launches(fake_gpu, given, wanted=(2,), activation=activation)  # the first bias
    assert backward == ["gemm_epilogue"] * 2


@pytest.mark.parametrize("activation", ["relu", "gelu"])
def test_dropout_costs_a_launch_forward_and_none_backward(fake_gpu: Any, activation: str) -> None:
    form = {"activation": activation, "dropout": 0.4, "stream": 3}
    forward, backward = launches(fake_gpu, arrays((16, 32, 8)), **form)
    assert forward == ["gemm_epilogue", "activation_dropout", "gemm_epilogue"]
    assert backward == ["gemm_epilogue", "gemm_epilogue", "gemm", "gemm"]
    forward, backward = launches(fake_gpu, arrays((16, 40, 8)), **form)  # rows begin inside a block
    assert "dropout" in forward
    assert "dropout" in backward


def test_no_algorithm_and_no_epilogue(fake_gpu: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Products and kernels then: for one output, for the exact form of GELU, and where cublasLt says so."""
    _, backward = launches(fake_gpu, arrays((16, 24, 1)), activation="relu")
    assert "activation_backward" in backward
    forward, _ = launches(fake_gpu, arrays((16, 24, 8)), activation="gelu", approximate="none")
    assert forward == ["gemm_epilogue", "activation_forward", "gemm_epilogue"]
    exact = value_and_gradients(ops.feed_forward, arrays((8, 24, 8)), "float32")
    monkeypatch.setattr(cublaslt, "run", lambda *args: False)
    forward, backward = launches(fake_gpu, arrays((8, 24, 8)), activation="relu")
    assert "gemm_epilogue" not in forward + backward
    for a, b in zip(value_and_gradients(ops.feed_forward, arrays((8, 24, 8)), "float32"), exact, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5)


def test_only_what_is_wanted(device: str) -> None:
    given, form = arrays((4, 8, 6, 3)), {"activation": "gelu", "approximate": "tanh"}
    for wanted in ((0,), (2,), (3, 4), (1, 6), (5,)):
        ours = value_and_gradients(ops.feed_forward, given, "float64", wanted, **form)
        theirs = value_and_gradients(one_after_another, given, "float64", wanted, **form)
        for a, b in zip(ours, theirs, strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-12, atol=1e-14)


def test_evaluation_keeps_nothing(fake_gpu: Any) -> None:
    given = [gp.tensor(x.astype(np.float32)) for x in arrays((16, 24, 8))]
    ops.feed_forward(*given, activation="gelu")
    before = fake_gpu.costs[-1].moved
    with gp.no_grad():
        y = ops.feed_forward(*given, activation="gelu")
    assert y.edge is None
    assert fake_gpu.costs[-2].moved == 4 * (6 * 16 + 16 * 24 + 24 + 6 * 24)
    assert fake_gpu.costs[-1].moved == before


def test_what_does_not_fit_is_refused() -> None:
    x, w1, b1, w2, b2 = arrays((4, 8, 3))
    with pytest.raises(ValueError, match="activation is one of relu, gelu, not 'tanh'"):
        ops.feed_forward(x, w1, b1, w2, b2, activation="tanh")
    with pytest.raises(ValueError, match="approximate is one of tanh, none, not 'erf'"):
        ops.feed_forward(x, w1, b1, w2, b2, activation="gelu", approximate="erf")
    with pytest.raises(TypeError, match="two or more layers, not 2 parameters"):
        ops.feed_forward(x, w1, b1)
    with pytest.raises(gp.ShapeError, match=r"feed_forward expects .* but got \(..., 8\), \(3, 9\), \(3,\)"):
        ops.feed_forward(x, w1, b1, np.ones((3, 9)), b2)


def test_explain_counts_what_the_layers_count(device: str) -> None:
    given = [gp.tensor(x, requires_grad=i != 0) for i, x in enumerate(arrays((4, 8, 6, 3)))]
    found = gp.explain(ops.feed_forward(*given).sum())
    form = {"activation": "relu", "approximate": "tanh"}
    apart = gp.explain(one_after_another(*given, **form).sum())
    assert sum(row.flops for row in found.rows) == sum(row.flops for row in apart.rows)
    given = [gp.tensor(x, requires_grad=True) for x in arrays((4, 16, 3))]
    found = gp.explain(ops.feed_forward(*given, dropout=0.4).sum())
    apart = gp.explain(one_after_another(*given, **form, dropout=0.4).sum())
    assert sum(row.flops for row in found.rows) == sum(row.flops for row in apart.rows)
