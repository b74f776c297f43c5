"""Products with an activation and with its derivative, and what cublasLt forbids of them."""

from __future__ import annotations

import ctypes
from typing import Any

import fake_cupy
import numpy as np
import pytest

from gpuprop.backend import cublas, cublaslt, gemm, gemm_cuda
from gpuprop.backend.gemm_layout import Operand, Plan
from gpuprop.ops.gelu import CUBIC, SLOPE

ml_dtypes = pytest.importorskip("ml_dtypes")

pytestmark = pytest.mark.usefixtures("fake_gpu")
DTYPES = {"float32": np.float32, "float16": np.float16, "bfloat16": ml_dtypes.bfloat16}
TOLERANCE = {"float32": 1e-5, "float16": 2e-3, "bfloat16": 2e-2}
SIZES = [(6, 4, 16, 3), (5, 3, 7, 2), (3, 2, 129, 9), (1, 8, 1, 4)]  # rows, in, hidden, out
INVALID, NOT_SUPPORTED = 7, 15


def on_device(host: np.ndarray) -> Any:
    """The same memory and strides as an array of the fake GPU."""
    return fake_cupy.ndarray(host, fake_cupy.Chunk(None, np.empty(1, np.uint8)))


def forms(z: np.ndarray, activation: str) -> tuple[np.ndarray, np.ndarray]:
    """f(z) and f'(z)."""
    if activation == "relu":
        return np.maximum(z, 0), (z > 0).astype(float)
    t = np.tanh(SLOPE * (z + CUBIC * z**3))
    return 0.5 * z * (1 + t), 0.5 * (1 + t) + 0.5 * z * (1 - t * t) * SLOPE * (1 + 3 * CUBIC * z * z)


@pytest.mark.parametrize("name", DTYPES)
@pytest.mark.parametrize("activation", ["relu", "gelu"])
@pytest.mark.parametrize("sizes", SIZES)
@pytest.mark.parametrize("biased", [True, False])
def test_forth_and_back(
    fake_gpu: Any, name: str, activation: str, sizes: tuple[int, ...], biased: bool
) -> None:
    """Two launches; the sums go to memory of an arena, which begins anywhere, and nowhere else."""
    rng, (n, inner, hidden, out) = np.random.default_rng(0), sizes
    shapes = ((n, inner), (inner, hidden), (hidden,), (n, out), (hidden, out))
    x, w, bias, dy, after = (rng.standard_normal(s).astype(DTYPES[name]) for s in shapes)
    memory = np.full(hidden + 2, np.nan, DTYPES[name])
    sums = on_device(memory[1:-1]) if biased else None
    fake_gpu.launches.clear()
    done = gemm.activated(on_device(x), on_device(w), on_device(bias) if biased else None, activation)
    assert done is not None
    y, aux = done
    dz = gemm.behind(on_device(dy), on_device(after).T, aux, activation, 1.25, sums)
    assert dz is not None
    assert fake_gpu.launches == ["gemm_epilogue"] * 2
    wide = [a.astype(np.float64) for a in (x, w, bias, dy, after)]
    value, slope = forms(wide[0] @ wide[1] + (wide[2] if biased else 0.0), activation)
    back = 1.25 * (wide[3] @ wide[4].T) * slope
    pairs = [(y.host, value), (dz.host, back)] + ([(memory[1:-1], back.sum(0))] if biased else [])
    for found, expected in pairs:
        error = np.abs(found.astype(np.float64) - expected).max()
        assert error <= 10 * TOLERANCE[name] * max(1.0, np.abs(expected).max())
    assert np.isnan(memory[[0, -1]].astype(np.float64)).all()


def test_the_exact_values_of_gelu_and_relu_without_a_backward_pass() -> None:
    x = np.linspace(-4, 4, 33, dtype=np.float32)[:, None] * np.eye(3, dtype=np.float32)[:1]
    for activation in ("relu", "gelu"):
        y = gemm.affine(on_device(x), on_device(np.eye(3, dtype=np.float32)), None, activation)
        assert y is not None
        np.testing.assert_allclose(y.host, forms(x.astype(np.float64), activation)[0], atol=1e-6)


def test_memory_beside_is_as_the_documentation_wants_it() -> None:
    """Bits in whole 128 of them, numbers in whole 8."""
    y = on_device(np.empty((3, 130), np.float16))
    bits, numbers = (gemm.beside(y, activation) for activation in ("relu", "gelu"))
    assert (bits.shape, bits.dtype) == ((3, 32), np.uint8)
    assert (numbers.shape, numbers.dtype) == ((3, 136), np.float16)


def test_none_where_no_algorithm_is() -> None:
    a, b = on_device(np.ones((4, 3), np.float32)), on_device(np.ones((3, 8), np.float32))
    _, bits = gemm.activated(a, b, None, "relu") or (None, None)
    assert gemm.behind(on_device(np.ones((4, 1), np.float32)), b[:1], bits, "relu") is None
    assert gemm.behind(a, b, on_device(np.ones((4, 32), np.uint8)), "relu") is None  # of another width
    assert gemm.activated(*(on_device(np.ones((3, 3))) for _ in range(2)), None, "gelu") is None  # float64
    host = np.ones((3, 3))
    assert gemm.activated(host, host, None, "relu") is gemm.behind(host, host, host, "relu") is None


PLAN = Plan(True, 8, 4, 3, 1, Operand(False, 8), Operand(False, 3), Operand(False, 8))


def asked(epilogue: str, ld: int | None, pointer: int | None, plan: Plan = PLAN) -> tuple[int, Any]:
    """The status of asking for an algorithm with this auxiliary matrix, and what was prepared."""
    ready = cublaslt._Prepared(plan, (0, 0, 0), cublas.COMPUTE_32F, epilogue)
    for attribute, value in (
        (cublaslt.AUX_LD, None if ld is None else ctypes.c_int64(ld)),
        (cublaslt.AUX_POINTER, None if pointer is None else ctypes.c_void_p(pointer)),
    ):
        if value is not None:
            ready.set(attribute, value)
    lt, preference, count = cublas.library("cublasLt"), ctypes.c_void_p(), ctypes.c_int()
    lt.cublasLtMatmulPreferenceCreate(ctypes.byref(preference))
    status = lt.cublasLtMatmulAlgoGetHeuristic(
        None, ready.description, ready.p, ready.q, ready.d, ready.d, preference, 1,
        ctypes.byref(ready.found), ctypes.byref(count),
    )  # fmt: skip
    lt.cublasLtMatmulPreferenceDestroy(preference)
    return status, ready


@pytest.mark.parametrize(
    ("epilogue", "ld", "pointer", "status"),
    [
        ("relu_aux_bias", 128, 1 << 12, 0),
        ("relu_aux_bias", 128, None, INVALID),
        ("relu_aux_bias", 8, 1 << 12, INVALID),
        ("drelu_bgrad", 0, 1 << 12, INVALID),
        ("gelu_aux", 8, 1 << 12, 0),
        ("gelu_aux", 12, 1 << 12, INVALID),
        ("dgelu_bgrad", 0, 1 << 12, INVALID),
    ],
)
def test_the_stand_in_refuses_what_the_documentation_forbids(
    epilogue: str, ld: int, pointer: int | None, status: int
) -> None:
    assert asked(epilogue, ld, pointer)[0] == status


def test_an_inner_length_of_one_has_no_derivative() -> None:
    plan = Plan(True, 8, 4, 1, 1, Operand(False, 8), Operand(False, 1), Operand(False, 8))
    assert asked("drelu", 128, 1 << 12, plan)[0] == NOT_SUPPORTED


def test_what_lies_beside_is_aligned_as_it_was_when_the_algorithm_was_chosen(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The library tells the alignment by the pointer, so that each alignment has an algorithm of its own."""
    x, w = on_device(np.ones((4, 3), np.float32)), on_device(np.ones((3, 8), np.float32))
    memory = np.empty(256, np.uint8)
    start = -memory.ctypes.data % 64

    def run(offset: int) -> Any:
        y, aux = (on_device(a) for a in (np.empty((4, 8), np.float32), memory[start + offset :][:64]))
        aux.host.fill(0)
        assert gemm_cuda._with_epilogue(x, w, y, False, "relu_aux", None, aux)
        return aux.host.reshape(4, 16)[:, 0]

    for offset in (0, 16):
        np.testing.assert_array_equal(run(offset), 255)
    cublaslt._cache.prepared.clear()
    monkeypatch.setattr(cublaslt, "_alignments", lambda places: (4,) * len(places))
    run(0)
    with pytest.raises(AssertionError, match=f"status {INVALID}"):  # as it is launched
        run(16)
    cublaslt._cache.prepared.clear()


def test_the_oldest_of_many_products_is_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    """As texts of ever new lengths would leave ever more."""
    monkeypatch.setattr(cublaslt, "KEPT", 3)
    cublaslt._cache.prepared.clear()
    w, bias = (on_device(np.ones(shape, np.float32)) for shape in ((3, 8), (8,)))
    for rows in (1, 2, 3, 4, 5, 1, 5):
        x = on_device(np.full((rows, 3), rows, np.float32))
        y = gemm_cuda.affine(x, w, bias, "relu", False)
        assert y is not None
        np.testing.assert_array_equal(y.host, np.full((rows, 8), 3 * rows + 1))
        assert len(cublaslt._cache.prepared) <= 3
    assert sorted(key[1].n for key in cublaslt._cache.prepared) == [1, 4, 5]
