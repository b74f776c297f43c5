"""What the emulator supports gives NumPy's values, in plain runs and under the checker, in every order."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gpuprop.backend import emulator

ml_dtypes = pytest.importorskip("ml_dtypes")

pytestmark = pytest.mark.skipif(emulator.available() is not None, reason=str(emulator.available()))

SOURCE = Path(__file__).parent / "features.cu"
TEMPLATES = [
    *(f"atomics<{t}>" for t in ("int", "float", "double", "__half", "__nv_bfloat16")),
    "half_arithmetic<__half, __half2>",
    "half_arithmetic<__nv_bfloat16, __nv_bfloat162>",
    "dynamic_rows<8>",
    "matrix<__half, nvcuda::wmma::row_major>",
    "matrix<__nv_bfloat16, nvcuda::wmma::col_major>",
    "inner::kernel<int>",
]
PLAIN = [
    "builtins",
    "three_dimensions",
    "barriers",
    "shuffles",
    "votes",
    "exited_lanes_may_be_named",
    "integer_atomics",
    "spin_lock",
    "vectors",
    "constants",
    "math",
    "bits",
    "conversions",
    "rounding",
    "dynamic_shared",
    "print",
    "clocks",
    "pipeline",
    "index",
    "struct_argument",
    "bytes",
]
f32, i32, u32, u64 = np.float32, np.int32, np.uint32, np.uint64
lanes = np.arange(32)


@pytest.fixture(scope="module")
def features() -> emulator.EmulatedModule:
    return emulator.load(SOURCE.read_text(), str(SOURCE), PLAIN + TEMPLATES)


@pytest.fixture(
    params=[("fast", "forward"), ("check", "forward"), ("check", "reverse"), ("check", "random")],
    ids="-".join,
)
def run(request: pytest.FixtureRequest, features: emulator.EmulatedModule) -> Iterator[Any]:
    mode, order = request.param
    with emulator.options(mode=mode, order=order):
        yield features.launch


def nan(*shape: int, dtype: Any = f32) -> Any:
    return np.full(shape, np.nan, dtype)


def test_builtin_variables(run: Any) -> None:
    y = np.zeros(128, i32)
    run("builtins", (2,), (64,), (y,))
    i = np.arange(128)
    np.testing.assert_array_equal(y, i % 64 + 100 * (i // 64) + 2000 + 320000)


def test_grids_and_blocks_of_three_dimensions(run: Any) -> None:
    y = np.zeros((24, 30), i32)
    run("three_dimensions", (2, 3, 4), (5, 3, 2), (y,))
    np.testing.assert_array_equal(y, 1000 * np.arange(24)[:, None] + np.arange(30))


def test_barriers_that_count(run: Any) -> None:
    for x, expected in (
        (np.arange(40), [29, 0, 1]),
        (np.arange(40) + 11, [40, 1, 1]),
        (np.zeros(40), [0, 0, 0]),
    ):
        y = np.zeros(3, i32)
        run("barriers", (1,), (40,), (x.astype(i32), y))
        assert y.tolist() == expected


def test_shuffles(run: Any) -> None:
    x = np.random.default_rng(0).standard_normal(64).astype(f32)
    y = nan(8, 64)
    run("shuffles", (1,), (64,), (x, y))
    w, out = x.reshape(2, 32), y.reshape(8, 2, 32)
    np.testing.assert_array_equal(out[0], np.repeat(w[:, 5:6], 32, 1))
    np.testing.assert_array_equal(out[1], np.where(lanes >= 3, w[:, lanes - 3], w))
    np.testing.assert_array_equal(out[2], np.where(lanes < 29, w[:, (lanes + 3) % 32], w))
    np.testing.assert_array_equal(out[3], w[:, lanes ^ 7])
    np.testing.assert_array_equal(out[4], w[:, lanes // 8 * 8 + 1])
    np.testing.assert_allclose(out[5], w[:, lanes ^ 1] + (3 << 40) / 1e12, rtol=1e-6)
    half = w.astype(np.float16).astype(f32)
    np.testing.assert_array_equal(out[6], np.where(lanes % 16 < 15, half[:, (lanes + 1) % 32], half))
    np.testing.assert_array_equal(out[7], np.where(lanes < 16, w[:, 2:3], w[:, 20:21]))


def test_votes_matches_and_reductions(run: Any) -> None:
    x = lanes.astype(i32)
    y = np.zeros((32, 10), u32)
    run("votes", (1,), (32,), (x, y))
    classes = [sum(1 << int(i) for i in lanes[lanes % 4 == k]) for k in range(4)]
    assert y[:, 0].tolist() == [0xAAAAAAAA] * 32
    assert y[:, 1].tolist() == y[:, 2].tolist() == y[:, 5].tolist() == y[:, 9].tolist() == [1] * 32
    assert y[:, 3].tolist() == [classes[k % 4] for k in range(32)]
    assert y[:, 4].tolist() == [0xFFFFFFFF] * 32
    assert y[:, 6].tolist() == [496 + 31000 + 100000] * 32
    assert y[:, 7].tolist() == [31 + 100 + 0] * 32
    assert y[:, 8].tolist() == [2**32 - 496] * 32


def test_exited_lanes_in_a_vote(run: Any) -> None:
    y = np.zeros(64, u32)
    run("exited_lanes_may_be_named", (1,), (64,), (y, i32(40)))
    np.testing.assert_array_equal(y[:32], 0xFFFFFFFF)
    np.testing.assert_array_equal(y[32:], [0xFF] * 8 + [0] * 24)


@pytest.mark.parametrize("name", ["int", "float", "double", "__half", "__nv_bfloat16"])
def test_atomic_add(run: Any, name: str) -> None:
    dtype = {
        "int": i32,
        "float": f32,
        "double": np.float64,
        "__half": np.float16,
        "__nv_bfloat16": ml_dtypes.bfloat16,
    }[name]
    y = np.zeros(1, dtype)
    run(f"atomics<{name}>", (2,), (8,), (y, i32(3)))
    assert float(y[0]) == 48


def test_integer_atomics(run: Any) -> None:
    i, u, wide = np.array([0, 0, 9, 0, 0, 0], i32), np.array([15, 0, 0, 0, 0, 0], u32), np.zeros(2, u64)
    run("integer_atomics", (1,), (32,), (i, u, wide))
    assert i.tolist() == [496, -496, -5, 31, 7, 96]
    assert u.tolist() == [0, 255, 2**32 - 1, 32 % 11, 11 - 32 % 11, 64]
    assert wide.tolist() == [32 << 33, 31]


def test_a_spin_lock_lets_every_thread_in(run: Any) -> None:
    total = np.zeros(1, i32)
    run("spin_lock", (3,), (40,), (np.zeros(1, i32), total))
    assert total[0] == 120


def test_vectors(run: Any) -> None:
    x = np.arange(32 * 4, dtype=f32).reshape(32, 4)
    y, z, d = np.zeros((32, 2), i32), np.zeros((32, 4), np.uint8), nan(32, 2, dtype=np.float64)
    run("vectors", (1,), (32,), (x, y, z, d))
    np.testing.assert_array_equal(y, np.stack([x[:, 0] + x[:, 1], x[:, 2] + x[:, 3]], 1))
    np.testing.assert_array_equal(z[:, 3], lanes)
    np.testing.assert_array_equal(d, x[:, :2] * [1, -1])


@pytest.mark.parametrize(
    ("name", "dtype", "epsilon"),
    [
        ("__half, __half2", np.float16, 2.0**-10),
        ("__nv_bfloat16, __nv_bfloat162", ml_dtypes.bfloat16, 2.0**-7),
    ],
)
def test_half_arithmetic(run: Any, name: str, dtype: Any, epsilon: float) -> None:
    x = np.linspace(0.1, 2, 32).astype(dtype)
    pairs = np.linspace(-1, 1, 64).astype(dtype)
    before, y = pairs.astype(f32), np.zeros((5, 32), dtype)
    run(f"half_arithmetic<{name}>", (1,), (32,), (x, y, pairs))
    v = x.astype(np.float64)
    expected = [
        v * v + v,
        v * v + v,
        np.exp(v) / np.sqrt(v + 1),
        np.maximum(v, 0.5) - np.minimum(v, 0.5),
        np.where(v > 0.25, np.tanh(v), np.log(v + 1)),
    ]
    # A few roundings each, of intermediate values that are larger than the result by at most 4.
    np.testing.assert_allclose(y.astype(np.float64), expected, rtol=2 * epsilon, atol=4 * epsilon)
    np.testing.assert_allclose(pairs.astype(f32), before**2 + np.exp(before), rtol=2 * epsilon)


def test_constants_and_cached_loads(run: Any) -> None:
    x, y, seen = np.arange(1, 33, dtype=f32), nan(32), np.zeros(1, i32)
    run("constants", (1,), (32,), (x, y, seen))
    np.testing.assert_array_equal(y, x * np.tile([1, 2, 3, 4], 8).astype(f32) + 1)
    assert seen[0] >= 5  # a __device__ variable lives as long as its module


def test_math(run: Any) -> None:
    x, y = np.linspace(0.05, 3, 32).astype(f32), nan(20, 32)
    run("math", (1,), (32,), (x, y))
    v = x.astype(np.float64)
    from math import erf

    erfs = np.array([erf(a) for a in v])
    cdfs = np.array([0.5 * (1 + erf(a / 2**0.5)) for a in v])
    expected = [
        np.exp(v),
        np.log(v),
        v**2.5,
        np.sin(v),
        1 / v,
        v**-0.5,
        np.clip(v, 0, 1),
        1 / v,
        v * v + 1,
        np.maximum(v, 1),
        np.exp(v),
        np.maximum(v, 2),
        np.minimum(3, v.astype(int)),
        erfs,
        np.sin(np.pi * v),
        cdfs,
        np.log2(v),
        v ** (-1 / 3),
        np.tanh(v),
        -v,
    ]
    np.testing.assert_allclose(y, expected, rtol=2e-6, atol=1e-6)


def test_bits(run: Any) -> None:
    rng = np.random.default_rng(1)
    x = rng.integers(1, 2**32, 32, dtype=u32)
    f = rng.uniform(-9, 9, 32).astype(f32)
    y = np.zeros((11, 32), u32)
    run("bits", (1,), (32,), (x, y, f))
    for k in range(32):
        v = int(x[k])
        text = f"{v:032b}"
        signed = [b - 256 if b > 127 else b for b in v.to_bytes(4, "little")]
        expected = [
            text.count("1"),
            32 - v.bit_length(),
            (v & -v).bit_length(),
            int(text[::-1], 2),
            v & 0xFFFF | 0x33440000,
            v * v >> 32,
            ((~v & 0xFFFFFFFF) << 32 | v) << 5 >> 32 & 0xFFFFFFFF,
            int(f[k : k + 1].view(u32)[0]),
            int(np.rint(f[k])) % 2**32,
            int(np.floor(f[k])) % 2**32,
            sum(signed) % 2**32,
        ]
        assert y[:, k].tolist() == expected


def test_conversions_saturate(run: Any) -> None:
    x = np.full(32, 1.9, f32)
    x[:4] = [np.nan, 1e20, -1e20, -1.9]
    y, high = np.zeros(32, i32), np.zeros(32, u64)
    run("conversions", (1,), (32,), (x, y, high))
    assert y[:5].tolist() == [0, 2**31 - 1, -(2**31), -1, 1]
    assert high.tolist() == [0xFEDCBA9876543210 * (0x123456789ABCDEF0 + k) >> 64 for k in range(32)]


def test_directed_rounding(run: Any) -> None:
    x, y = np.linspace(1, 2, 32).astype(f32), nan(3, 32)
    run("rounding", (1,), (32,), (x, y))
    np.testing.assert_array_equal(y[0], np.nextafter(x, f32(9)))
    np.testing.assert_array_equal(y[1], np.nextafter(x, f32(-9)))
    exact = x.astype(np.float64) * np.float64(f32(1.0000001))
    assert (y[2] <= exact).all()
    assert (np.nextafter(y[2], f32(9)) > exact).all()


def test_dynamic_shared_memory(run: Any) -> None:
    x, y = np.arange(48, dtype=np.float64), nan(48, dtype=np.float64)
    run("dynamic_shared", (1,), (48,), (x, y, i32(48)), 48 * 8)
    np.testing.assert_array_equal(y, x[::-1])
    a, b = np.arange(40, dtype=f32).reshape(5, 8), nan(8, 5)
    run("dynamic_rows<8>", (1,), (8, 5), (a, b), a.nbytes)
    np.testing.assert_array_equal(b, a.T)


def test_printf(run: Any, capsys: pytest.CaptureFixture[str]) -> None:
    run("print", (1,), (4,), (i32(2),))
    assert sorted(capsys.readouterr().out.splitlines()) == [
        "thread 0 of block 0.50",
        "thread 1 of block 0.50",
    ]


def test_clocks(run: Any) -> None:
    y = np.zeros(1, np.int64)
    run("clocks", (1,), (1,), (y,))
    assert y[0] == 1


def test_async_copies(run: Any) -> None:
    x, y = np.arange(5 * 128, dtype=f32), nan(32)
    run("pipeline", (1,), (32,), (x, y, i32(5)))
    np.testing.assert_array_equal(y, x.reshape(20, 32).sum(0))


@pytest.mark.parametrize(
    "name", ["__half, nvcuda::wmma::row_major", "__nv_bfloat16, nvcuda::wmma::col_major"]
)
def test_matrix_products(run: Any, name: str) -> None:
    dtype = np.float16 if "half" in name else ml_dtypes.bfloat16
    rng = np.random.default_rng(2)
    a, b = rng.integers(-4, 5, (16, 16)).astype(dtype), rng.integers(-4, 5, (16, 16)).astype(dtype)
    c = nan(16, 16)
    run(f"matrix<{name}>", (1,), (32,), (a, b, c))
    right = b.astype(f32) if "row_major" in name else b.astype(f32).T
    np.testing.assert_array_equal(c, 2 * (a.astype(f32) @ right + 0.5))


def test_names_structs_and_bytes(run: Any) -> None:
    x, y = np.linspace(0, 1, 32).astype(f32), nan(32)
    run("index", (1,), (32,), (x, y))
    np.testing.assert_allclose(y, np.exp(np.maximum(x, 0.5)) + np.exp(2.0) + 3, rtol=1e-6)
    z = np.zeros(32, i32)
    run("inner::kernel<int>", (1,), (32,), (z,))
    np.testing.assert_array_equal(z, lanes)
    argument = np.array([(2.0, 3)], dtype=[("factor", f32), ("offset", i32)])[0]
    run("struct_argument", (1,), (32,), (y, argument, np.bool_(True), None))
    np.testing.assert_array_equal(y, -(2 * lanes + 3))
    mask, copy = np.arange(64) % 3 == 0, np.zeros(64, np.uint8)
    run("bytes", (1,), (64,), (mask, copy))
    np.testing.assert_array_equal(copy, mask[::-1])
