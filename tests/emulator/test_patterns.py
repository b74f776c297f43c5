"""The patterns kernels are made of, at random sizes, launch shapes and orders, checked, against NumPy."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gpuprop.backend import emulator

pytestmark = pytest.mark.skipif(emulator.available() is not None, reason=str(emulator.available()))

SOURCE = Path(__file__).parent / "patterns.cu"
PLAIN = [
    "max_by_tree",
    "sum_by_last_block",
    "scan_in_shared",
    "scan_in_warps",
    "stencil",
    "scatter_add",
    "histogram",
    "compact",
    "softmax_rows",
    "axpy_half",
]
TEMPLATES = [
    "sum_by_shuffles<float>",
    "sum_by_shuffles<int>",
    "transpose<float, 8>",
    "transpose<double, 16>",
    "matmul<8>",
]
f32, i32, u32 = np.float32, np.int32, np.uint32
EPS = float(np.finfo(f32).eps)


class Case:
    """Random numbers and launches for one example; `kernels.launch` runs under the drawn order."""

    def __init__(self, data: Any, kernels: emulator.EmulatedModule) -> None:
        self.data, self.launch = data, kernels.launch
        self.rng = np.random.default_rng(data.draw(st.integers(0, 2**32 - 1), "seed"))

    def size(self, most: int, least: int = 1) -> int:
        return int(self.data.draw(st.integers(least, most), "size"))

    def block(self, warps: bool = False) -> int:
        return 32 * self.size(8) if warps else self.size(256)

    def floats(self, *shape: int) -> Any:
        return self.rng.standard_normal(shape).astype(f32)


def parts(n: int, of: int) -> int:
    return -(-n // of)


def sum_by_shuffles(case: Case) -> None:
    n, block, grid = case.size(3000), case.block(warps=True), case.size(5)
    x, y = case.floats(n), np.zeros(1, f32)
    case.launch("sum_by_shuffles<float>", grid, block, (x, y, i32(n)))
    # Each element takes part in at most log2(block) + n / (threads) + grid additions.
    additions = 10 + parts(n, block * grid) + grid
    assert abs(float(y[0]) - x.sum(dtype=np.float64)) <= additions * EPS * np.abs(x).sum(dtype=np.float64)
    z, total = case.rng.integers(-1000, 1000, n).astype(i32), np.zeros(1, i32)
    case.launch("sum_by_shuffles<int>", grid, block, (z, total, i32(n)))
    assert total[0] == z.sum()


def max_by_tree(case: Case) -> None:
    n, block = case.size(2000), case.block()
    x, y = case.floats(n), np.full(1, np.nan, f32)
    case.launch("max_by_tree", 1, block, (x, y, i32(n)), 4 * block)
    assert y[0] == x.max()


def sum_by_last_block(case: Case) -> None:
    n, block, grid = case.size(2000), case.block(), case.size(9)
    x, part, y = case.floats(n), np.full(grid, np.nan, f32), np.full(1, np.nan, f32)
    ticket = np.zeros(1, u32)
    case.launch("sum_by_last_block", grid, block, (x, part, ticket, y, i32(n)))
    additions = parts(n, block * grid) + block + grid
    assert abs(float(y[0]) - x.sum(dtype=np.float64)) <= additions * EPS * np.abs(x).sum(dtype=np.float64)
    assert ticket[0] == grid


def scan_in_shared(case: Case) -> None:
    n = case.size(300)
    x, y = case.rng.integers(-99, 99, n).astype(i32), np.zeros(n, i32)
    case.launch("scan_in_shared", 1, n + case.size(40, 0), (x, y, i32(n)), 4 * n)
    np.testing.assert_array_equal(y, np.cumsum(x))


def scan_in_warps(case: Case) -> None:
    n, block = case.size(600), case.block(warps=True)
    x, y = case.rng.integers(-99, 99, n).astype(f32), np.full(n, np.nan, f32)
    case.launch("scan_in_warps", parts(n, block), block, (x, y, i32(n)))
    padded = np.pad(x, (0, -n % 32)).reshape(-1, 32)
    np.testing.assert_array_equal(y, np.cumsum(padded, 1).ravel()[:n])


def stencil(case: Case) -> None:
    n, block = case.size(700), case.block()
    x, y = case.floats(n), np.full(n, np.nan, f32)
    case.launch("stencil", parts(n, block), block, (x, y, i32(n)), 4 * (block + 2))
    p = np.pad(x, 1)
    np.testing.assert_array_equal(y, p[:-2] - 2 * p[1:-1] + p[2:])


def transpose(case: Case) -> None:
    rows, columns = case.size(60), case.size(60)
    for name, side, dtype in (("float, 8", 8, f32), ("double, 16", 16, np.float64)):
        x, y = case.floats(rows, columns).astype(dtype), np.full((columns, rows), np.nan, dtype)
        grid = (parts(columns, side), parts(rows, side))
        case.launch(f"transpose<{name}>", grid, (side, side), (x, y, i32(rows), i32(columns)))
        np.testing.assert_array_equal(y, x.T)


def scatter_add(case: Case) -> None:
    n, width, rows = case.size(80), case.size(9), case.size(20)
    index, x = case.rng.integers(0, rows, n).astype(i32), case.rng.integers(-99, 99, (n, width)).astype(f32)
    y = np.zeros((rows, width), f32)
    case.launch("scatter_add", case.size(4), case.block(), (index, x, y, i32(n), i32(width)))
    expected = np.zeros_like(y)
    np.add.at(expected, index, x)
    np.testing.assert_array_equal(y, expected)


def histogram(case: Case) -> None:
    n, bins = case.size(1500), case.size(70)
    x, y = case.rng.integers(0, bins, n).astype(i32), np.zeros(bins, i32)
    case.launch("histogram", case.size(4), case.block(), (x, y, i32(n), i32(bins)), 4 * bins)
    np.testing.assert_array_equal(y, np.bincount(x, minlength=bins))


def compact(case: Case) -> None:
    n, block = case.size(700), case.block(warps=True)
    x, length = case.rng.integers(-99, 99, n).astype(i32), np.zeros(1, i32)
    y = np.zeros(max(1, (x > 0).sum()), i32)  # not one more than is needed
    case.launch("compact", parts(n, block), block, (x, y, length, i32(n)))
    np.testing.assert_array_equal(np.sort(y[: length[0]]), np.sort(x[x > 0]))


def matmul(case: Case) -> None:
    m, n, k = case.size(30), case.size(30), case.size(40)
    a, b = case.rng.integers(-9, 9, (m, k)).astype(f32), case.rng.integers(-9, 9, (k, n)).astype(f32)
    c = np.full((m, n), np.nan, f32)
    case.launch("matmul<8>", (parts(n, 8), parts(m, 8)), (8, 8), (a, b, c, i32(m), i32(n), i32(k)))
    np.testing.assert_array_equal(c, a @ b)


def softmax_rows(case: Case) -> None:
    rows, columns = case.size(9), case.size(200)
    x, y = 3 * case.floats(rows, columns), np.full((rows, columns), np.nan, f32)
    case.launch("softmax_rows", rows, 32, (x, y, i32(columns)))
    e = np.exp(x.astype(np.float64) - x.max(1, keepdims=True))
    # expf of a rounded difference of up to 40: 20 ulp; the sum: log2(32) + columns / 32 positive terms.
    np.testing.assert_allclose(y, e / e.sum(1, keepdims=True), rtol=50 * EPS, atol=1e-30)


def axpy_half(case: Case) -> None:
    n, block = case.size(500), case.block()
    x, y = case.floats(n).astype(np.float16), case.floats(n).astype(np.float16)
    expected = (f32(0.5) * x.astype(f32) + y.astype(f32)).astype(np.float16)
    case.launch("axpy_half", parts(n, 2 * block), block, (x, y, f32(0.5), i32(n)))
    np.testing.assert_array_equal(y, expected)


PATTERNS: list[Callable[[Case], None]] = [
    sum_by_shuffles,
    max_by_tree,
    sum_by_last_block,
    scan_in_shared,
    scan_in_warps,
    stencil,
    transpose,
    scatter_add,
    histogram,
    compact,
    matmul,
    softmax_rows,
    axpy_half,
]


@pytest.fixture(scope="module")
def kernels() -> emulator.EmulatedModule:
    with emulator.options(mode="check"):
        return emulator.load(SOURCE.read_text(), str(SOURCE), PLAIN + TEMPLATES)


@pytest.mark.parametrize("pattern", PATTERNS, ids=lambda pattern: pattern.__name__)
@settings(max_examples=16, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_pattern(kernels: emulator.EmulatedModule, pattern: Callable[[Case], None], data: Any) -> None:
    order, seed = (
        data.draw(st.sampled_from(emulator.ORDERS), "order"),
        data.draw(st.integers(1, 2**32), "order seed"),
    )
    with emulator.options(mode="check", order=order, seed=seed):
        pattern(Case(data, kernels))
