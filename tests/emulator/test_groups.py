"""Cooperative groups inside a block give NumPy's values, checked, in every order; misuse is found."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from gpuprop.backend import emulator
from gpuprop.errors import BuildError

pytestmark = pytest.mark.skipif(emulator.available() is not None, reason=str(emulator.available()))

SOURCE = Path(__file__).parent / "groups.cu"
KERNELS = re.findall(r'^extern "C" __global__ void (\w+)\(', SOURCE.read_text(), re.MULTILINE)
i32, f32 = np.int32, np.float32


@pytest.fixture(scope="module")
def module() -> emulator.EmulatedModule:
    return emulator.load(SOURCE.read_text(), str(SOURCE), [*KERNELS, "sums_of_tiles<4>", "sums_of_tiles<32>"])


@pytest.fixture(params=emulator.ORDERS)
def groups(
    module: emulator.EmulatedModule, request: pytest.FixtureRequest
) -> Iterator[emulator.EmulatedModule]:
    with emulator.options(mode="check", order=request.param, seed=3):
        yield module


def test_sums(groups: emulator.EmulatedModule) -> None:
    x = np.arange(128, dtype=i32) ** 2 % 101
    of_block, of_tiles = np.zeros(2, i32), np.zeros(16, i32)
    groups.launch("sums_in_memory", 2, 64, (x, of_block, of_tiles), shared_mem=256)
    np.testing.assert_array_equal(of_block, x.reshape(2, 64).sum(1))
    np.testing.assert_array_equal(of_tiles, x.reshape(16, 8).sum(1))
    for size in (4, 32):
        total = np.zeros(1, i32)
        groups.launch(f"sums_of_tiles<{size}>", 2, 32, (x, total, i32(100)))
        assert total[0] == x[:100].sum()


def test_tiles(groups: emulator.EmulatedModule) -> None:
    x = np.arange(64, dtype=i32)
    y = np.zeros((14, 64), i32)
    groups.launch("tiles", 1, 64, (x, y))
    tile, inner, rank = x.reshape(4, 16), x.reshape(16, 4), x % 16
    expected = [
        np.repeat(tile.sum(1), 16),
        np.repeat(inner.max(1), 4),
        np.repeat(inner.min(1), 4),
        tile.cumsum(1).ravel(),
        (inner.cumsum(1) - inner).ravel(),
        x // 16 * 100 + rank // 4 * 10 + x % 4,
        np.full(64, 444),
        np.full(64, 0xAAAA),
        np.where(x < 16, 3, 0),
        x // 16 * 16 + 3,
        np.where(rank < 2, x, x - 2),
        x ^ 1,
        3 << (x % 4 // 2 * 2),
        np.full(64, 0xFFFF + 1),
    ]
    for got, wanted in zip(y, expected, strict=True):
        np.testing.assert_array_equal(got, wanted)


def test_threads_that_are_together(groups: emulator.EmulatedModule) -> None:
    x = np.random.default_rng(0).permutation(64).astype(i32) - 20
    y, count = np.zeros(64, i32), np.zeros(1, i32)
    groups.launch("keep_positive", 1, 64, (x, y, count))
    assert count[0] == 43
    assert sorted(y) == [0] * 21 + list(range(1, 44))


def test_static_shared_memory(groups: emulator.EmulatedModule) -> None:
    y = np.full(1, np.nan, f32)
    groups.launch("static_shared", 1, 96, (np.arange(96, dtype=f32), y))
    assert y[0] == np.arange(96).sum()


@pytest.mark.parametrize(
    ("kernel", "finding"),
    [
        ("half_the_tile", "(__syncwarp here while other lanes .* wait at line LINE|__shfl_sync here)"),
        ("tile_for_block", "groups.cu:LINE: (race|uninitialised shared memory): read"),
    ],
)
def test_misuse_is_found(groups: emulator.EmulatedModule, kernel: str, finding: str) -> None:
    line = SOURCE.read_text().split(f"// BUG {kernel}")[0].count("\n") + 1
    with pytest.raises(emulator.EmulatorError, match=finding.replace("LINE", str(line))):
        groups.launch(kernel, 1, 64, (np.zeros(64, f32),))


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("cg::this_grid().sync();", "a barrier of the whole grid is not emulated"),
        (
            "cg::tiled_partition<64>(cg::this_thread_block());",
            "tiles of more than 32 threads are not emulated",
        ),
        ("cg::this_multi_grid();", "these parts of cooperative groups are not emulated"),
    ],
)
def test_what_is_not_there_says_so(line: str, message: str) -> None:
    text = "#include <cooperative_groups.h>\nnamespace cg = cooperative_groups;\n"
    with pytest.raises(BuildError, match=rf"k.cu:3(.|\n)*{message}"):
        emulator.load(f'{text}extern "C" __global__ void k() {{ {line} }}', "k.cu")
