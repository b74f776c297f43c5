"""Products of CuPy arrays: how shapes, strides and transposes are said to cuBLAS, against NumPy's own."""

from __future__ import annotations

from typing import Any

import fake_cupy
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import gpuprop as gp
from gpuprop.backend import cublas, gemm
from gpuprop.backend.gemm_layout import batch_stride, matrix

ml_dtypes = pytest.importorskip("ml_dtypes")

pytestmark = pytest.mark.usefixtures("fake_gpu")
MANY = settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])
DTYPES = {"float64": np.float64, "float32": np.float32, "float16": np.float16, "bfloat16": ml_dtypes.bfloat16}
TOLERANCE = {"float64": 1e-12, "float32": 1e-5, "float16": 2e-3, "bfloat16": 2e-2}


def on_device(host: np.ndarray) -> Any:
    """The same memory and strides as an array of the fake GPU."""
    return fake_cupy.ndarray(host, fake_cupy.Chunk(None, np.empty(1, np.uint8)))


@st.composite
def views(draw: Any, rows: int, columns: int, lead: tuple[int, ...]) -> np.ndarray:
    """(*lead, rows, columns) of random numbers: whole, a slice, a transpose, turned round, or repeated."""
    rng = np.random.default_rng(draw(st.integers(0, 99)))
    kind = draw(st.sampled_from(["whole", "slice", "transpose", "both", "steps", "flipped", "repeated"]))
    if kind == "whole":
        return rng.standard_normal((*lead, rows, columns))
    if kind == "slice":
        return rng.standard_normal((*lead, rows + 2, columns + 3))[..., 1 : 1 + rows, 2 : 2 + columns]
    if kind == "transpose":
        return rng.standard_normal((*lead, columns, rows)).swapaxes(-1, -2)
    if kind == "both":
        return rng.standard_normal((*lead, columns + 1, rows + 4))[..., :columns, 3 : 3 + rows].swapaxes(
            -1, -2
        )
    if kind == "steps":
        return rng.standard_normal((*lead, 2 * rows, 3 * columns))[..., ::2, ::3]
    if kind == "flipped":
        return rng.standard_normal((*lead, rows, columns))[..., ::-1, :]
    return np.broadcast_to(rng.standard_normal((*lead, 1, columns)), (*lead, rows, columns))


@st.composite
def products(draw: Any) -> tuple[np.ndarray, np.ndarray]:
    m, k, n = (draw(st.integers(0 if draw(st.booleans()) else 1, 5)) for _ in range(3))
    lead = draw(st.sampled_from([(), (1,), (3,), (2, 3), (2, 1, 2)]))
    left = draw(st.sampled_from([lead, tuple(1 for _ in lead), ()]))
    right = draw(st.sampled_from([lead, tuple(1 for _ in lead), ()]))
    a, b = draw(views(m, k, left)), draw(views(k, n, right))
    if len(left) > 1 and draw(st.booleans()):  # heads that lie beside each other
        a = np.ascontiguousarray(a.swapaxes(0, -2)).swapaxes(0, -2)
    return a, b


@MANY
@given(products())
def test_any_shapes_and_strides(pair: tuple[np.ndarray, np.ndarray]) -> None:
    a, b = pair
    y = gemm.matmul(on_device(a), on_device(b))
    expected = np.matmul(a, b)
    assert y.shape == expected.shape
    assert np.allclose(y.host, expected, rtol=1e-12, atol=1e-12)


@MANY
@given(products(), st.sampled_from(["whole", "slice", "transpose", "steps"]))
def test_into_memory_that_is_there(pair: tuple[np.ndarray, np.ndarray], kind: str) -> None:
    a, b = pair
    expected = np.matmul(a, b)
    *lead, m, n = expected.shape
    memory = np.full((*lead, 2 * max(m, n) + 2, 3 * max(m, n) + 2), np.nan)
    out = {
        "whole": np.full(expected.shape, np.nan),
        "slice": memory[..., 1 : 1 + m, 1 : 1 + n],
        "transpose": memory[..., 1 : 1 + n, :m].swapaxes(-1, -2),
        "steps": memory[..., : 2 * m : 2, : 3 * n : 3],
    }[kind]
    given = on_device(out)
    assert gemm.matmul(on_device(a), on_device(b), out=given) is given
    assert np.allclose(out, expected, rtol=1e-12, atol=1e-12)
    if kind != "whole":
        assert np.isnan(memory).sum() == memory.size - out.size, "written beside the result"


@pytest.mark.parametrize("name", DTYPES)
def test_types(name: str) -> None:
    rng = np.random.default_rng(0)
    a, b = (rng.standard_normal(shape).astype(DTYPES[name]) for shape in ((7, 33), (33, 5)))
    y = gemm.matmul(on_device(a), on_device(b))
    exact = a.astype(np.float64) @ b.astype(np.float64)
    assert y.dtype == a.dtype
    assert np.abs(y.host.astype(np.float64) - exact).max() <= TOLERANCE[name] * np.abs(exact).max()


@pytest.mark.parametrize("name", ["float16", "bfloat16"])
def test_half_types_are_added_up_in_float32_and_may_be_written_so(name: str) -> None:
    a = np.full((1, 4096), 1.0, DTYPES[name])
    b = np.full((4096, 1), 0.001, DTYPES[name])
    into = on_device(np.empty((1, 1), np.float32))
    gemm.matmul(on_device(a), on_device(b), out=into)
    exact = 4096 * float(b[0, 0])
    assert abs(float(into.host[0, 0]) - exact) <= 1e-6 * exact  # in its own type it would stop growing


def test_mixed_types_become_numpys() -> None:
    a, b = np.ones((2, 3), np.float16), np.ones((3, 2), np.float32)
    assert gemm.matmul(on_device(a), on_device(b)).dtype == np.float32
    assert gemm.matmul(on_device(a), on_device(b.astype(np.float64))).dtype == np.float64


def test_precision_is_what_was_set() -> None:
    a, b = np.full((1, 1), 1 + 2.0**-12, np.float32), np.ones((1, 1), np.float32)
    assert gp.get_matmul_precision() == "highest"
    assert gemm.matmul(on_device(a), on_device(b)).host[0, 0] == a[0, 0]
    gp.set_matmul_precision("high")
    try:
        assert gemm.matmul(on_device(a), on_device(b)).host[0, 0] == 1.0
    finally:
        gp.set_matmul_precision("highest")
    with gemm.tf32_products():
        assert gemm.matmul(on_device(a), on_device(b)).host[0, 0] == 1.0
    assert gemm.matmul(on_device(a), on_device(b)).host[0, 0] == a[0, 0]
    with pytest.raises(ValueError, match="highest, high, not 'medium'"):
        gp.set_matmul_precision("medium")


@pytest.mark.parametrize(
    ("shape_a", "shape_b"),
    [((3,), (3,)), ((3,), (3, 4)), ((2, 3), (3,)), ((3,), (5, 3, 2)), ((5, 2, 3), (3,))],
)
def test_vectors(shape_a: tuple[int, ...], shape_b: tuple[int, ...]) -> None:
    rng = np.random.default_rng(1)
    a, b = rng.standard_normal(shape_a), rng.standard_normal(shape_b)
    y = gemm.matmul(on_device(a), on_device(b))
    assert y.shape == np.shape(a @ b)
    assert np.allclose(y.host, a @ b)


def test_nothing_is_copied_for_transposes_slices_and_batches(fake_gpu: Any) -> None:
    rng = np.random.default_rng(2)
    x = rng.standard_normal((4, 6, 8))
    cases = [
        (x, rng.standard_normal((8, 5))),  # a layer: one large product
        (x, x.swapaxes(-1, -2)),
        (x[:, 1:4, :3], x[:, 2:5, :7]),
        (x[0].T, x[1, :, 2:]),
        (x[:, :, :1], x[:, :1, :]),
    ]
    for a, b in cases:
        fake_gpu.launches.clear()
        gemm.matmul(on_device(a), on_device(b))
        assert fake_gpu.launches in (["gemm"], ["gemm_batched"]), (a.shape, b.shape, fake_gpu.launches)


def test_the_stream_and_then_the_workspace_are_set_before_each_product(fake_gpu: Any) -> None:
    """fake_cublas.cpp forgets the workspace with each stream, as cuBLAS does, and refuses to go without."""
    a = on_device(np.ones((2, 2)))
    library, stream = cublas.library("cublas"), fake_cupy.Stream(non_blocking=True)
    gemm.matmul(a, a)
    assert library.fake_last_stream() is None  # the default stream
    with stream:
        gemm.matmul(a, a)
        assert library.fake_last_stream() == stream.ptr
    gemm.matmul(a, a)
    assert library.fake_last_stream() is None


def test_what_cublas_refuses_is_an_error_with_its_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(cublas.DATA_TYPES, "float32", 99)
    a = on_device(np.ones((2, 2), np.float32))
    library = cublas.library("cublas")
    real = library.real.cublasGemmEx_64
    monkeypatch.setattr(type(library), "cublasGemmEx_64", lambda self, *args: real(*args))
    with pytest.raises(gp.KernelError, match="CUBLAS_STATUS_INVALID_VALUE"):
        gemm.matmul(a, a)


def test_shapes_that_do_not_fit() -> None:
    with pytest.raises(ValueError, match="3 columns and 2 rows"):
        gemm.matmul(on_device(np.ones((2, 3))), on_device(np.ones((2, 3))))
    with pytest.raises(ValueError, match="out has shape"):
        gemm.matmul(on_device(np.ones((2, 3))), on_device(np.ones((3, 2))), out=on_device(np.ones((2, 3))))


def test_leading_dimensions() -> None:
    assert matrix((4, 3), (1, 4)) == (False, 4)
    assert matrix((4, 3), (3, 1)) == (True, 3)
    assert matrix((4, 3), (1, 9)) == (False, 9)
    assert matrix((4, 3), (2, 6)) is None
    assert matrix((4, 3), (1, 3)) is None  # columns that overlap
    assert matrix((1, 3), (77, 5)) == (False, 5)
    assert matrix((4, 1), (5, 77)) == (True, 5)
    assert batch_stride((2, 3), (30, 10)) == 10
    assert batch_stride((2, 3), (10, 30)) is None
    assert batch_stride((2, 1, 3), (30, 7, 10)) == 10
    assert batch_stride((2, 3), (0, 0)) == 0


@pytest.mark.parametrize("name", ["float32", "float16", "bfloat16"])
@pytest.mark.parametrize("activation", [None, "relu"])
@pytest.mark.parametrize("biased", [True, False])
def test_products_with_bias_and_activation(name: str, activation: str | None, biased: bool) -> None:
    rng = np.random.default_rng(3)
    x, w, bias = (
        rng.standard_normal(shape).astype(DTYPES[name]) for shape in ((6, 4), (4, 10), (10,))
    )  # fmt: skip
    if activation is None and not biased:
        assert gemm.affine(on_device(x), on_device(w), None) is None  # nothing to add
        return
    given = on_device(bias) if biased else None
    y = gemm.affine(on_device(x), on_device(w), given, activation)
    assert y is not None
    z = x.astype(np.float64) @ w.astype(np.float64) + (bias.astype(np.float64) if biased else 0.0)
    expected = np.maximum(z, 0) if activation == "relu" else z
    assert np.abs(y.host.astype(np.float64) - expected).max() <= TOLERANCE[name] * 10


@pytest.mark.parametrize("transposed", [False, True])
@pytest.mark.parametrize("offset", [0, 1])  # memory of the optimizer's arena begins anywhere
def test_weight_and_bias_gradients_in_one_product(fake_gpu: Any, transposed: bool, offset: int) -> None:
    rng = np.random.default_rng(4)
    x, dy = rng.standard_normal((9, 4)).astype(np.float32), rng.standard_normal((9, 5)).astype(np.float32)
    memory = np.full(64, np.nan, np.float32)
    matrix_part = memory[offset : offset + 20]
    dw = matrix_part.reshape(5, 4).T if transposed else matrix_part.reshape(4, 5)
    sums = memory[offset + 20 : offset + 25]
    fake_gpu.launches.clear()
    assert gemm.with_sums(on_device(x).T, on_device(dy), on_device(dw), on_device(sums))
    assert fake_gpu.launches == ["gemm_epilogue"]
    assert np.allclose(dw, x.T @ dy, atol=1e-5)
    assert np.allclose(sums, dy.sum(axis=0), atol=1e-5)
    assert np.isnan(memory).sum() == 64 - 25


@pytest.mark.parametrize("name", ["float32", "float16", "bfloat16"])
def test_overlapping_matrices_with_a_bias_in_one_product(fake_gpu: Any, name: str) -> None:
    """Windows of 3 rows of 4 numbers, side by side in three phases, as a convolution needs them."""
    rng = np.random.default_rng(5)
    x, w, bias = (rng.standard_normal(s).astype(DTYPES[name]) for s in ((11, 4), (12, 5), (5,)))
    y = np.full((11, 5), np.nan, DTYPES[name])
    a = gemm.matrices(on_device(x), 0, (3, 3, 12), (4, 12))
    out = gemm.matrices(on_device(y), 0, (3, 3, 5), (5, 15))
    windows = np.lib.stride_tricks.sliding_window_view(x.astype(np.float64), 3, axis=0).swapaxes(1, 2)
    exact = windows.reshape(9, 12) @ w.astype(np.float64)
    for expected in (exact + bias.astype(np.float64), exact):
        fake_gpu.launches.clear()
        if expected is exact:
            gemm.matmul(a, on_device(w), out=out)
        else:
            assert gemm.with_bias(a, on_device(w), on_device(bias), out)
        assert len(fake_gpu.launches) == 1
        assert np.abs(y[:9].astype(np.float64) - expected).max() <= TOLERANCE[name] * 10
        assert np.isnan(y[9:].astype(np.float64)).all()
    assert not gemm.with_bias(a, on_device(w.astype(np.float64)), on_device(bias), out)


def test_matrices_stay_inside_their_memory() -> None:
    x = np.arange(12.0)
    assert gemm.matrices(x, 1, (2, 2, 3), (2, 4))[1, 1].tolist() == [7, 8, 9]
    for first, shape in ((-1, (2, 2, 3)), (4, (2, 2, 3)), (0, (0, 2, 3))):
        with pytest.raises(ValueError, match=r"with strides \(2, 4\) are outside 12"):
            gemm.matrices(x, first, shape, (2, 4))
    with pytest.raises(ValueError, match="outside"):
        gemm.matrices(x[::2], 0, (1, 1, 1), (1, 1))


def test_no_epilogue_where_cublaslt_has_none() -> None:
    a = on_device(np.ones((2, 2)))  # float64
    assert gemm.affine(a, a, on_device(np.ones(2))) is None
    assert not gemm.with_sums(a, a, on_device(np.ones((2, 2))), on_device(np.ones(2)))
    assert gemm.affine(np.ones((2, 2)), np.ones((2, 2)), np.ones(2)) is None  # a CPU


def test_sums_of_squares() -> None:
    x = np.arange(12, dtype=np.float32).reshape(3, 4)
    assert float(gemm.sum_of_squares(on_device(x)).host) == (x * x).sum() == gemm.sum_of_squares(x)
    assert gemm.sum_of_squares(np.full(4096, 0.25, np.float16)) == 256.0
