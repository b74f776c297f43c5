"""Clusters of blocks: right kernels give NumPy's values in every order, and each kind of mistake is found."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import gpuprop as gp
from gpuprop.backend import emulator
from gpuprop.errors import BuildError, KernelError

pytestmark = pytest.mark.skipif(emulator.available() is not None, reason=str(emulator.available()))

SOURCE = Path(__file__).parent / "clusters.cu"
f32, i32 = np.float32, np.int32
RIGHT = ["histogram<4>", "exchange", "halves", "places", "through_global", "alone"]
BUGS = {
    "read_too_early": "race",
    "written_too_early": "race",
    "before_its_begin": "cluster barrier",
    "after_its_end": "exited block",
    "a_block_returns": "exited block",
    "rank_out_of_range": "cluster rank",
    "not_shared": "cluster rank",
    "past_anothers_end": "out of bounds",
    "never_written": "uninitialised shared memory",
    "mapped_by_another": "cluster rank",
    "divergent_cluster_barrier": "barrier divergence",
    "one_waits_elsewhere": "deadlock",
    "arrives_twice": "cluster barrier",
    "waits_without_arriving": "cluster barrier",
    "writes_after_arriving": "race",
    "reads_after_arriving": "race",
    "global_without_barrier": "race",
    "adds_without_atomic": "race",
}
ONE_ARRAY = ("divergent_cluster_barrier", "one_waits_elsewhere", "arrives_twice", "waits_without_arriving")
SHARED = {"after_its_end": 128}


@pytest.fixture(scope="module")
def module() -> emulator.EmulatedModule:
    return emulator.load(SOURCE.read_text(), str(SOURCE), [*RIGHT, *BUGS])


@pytest.fixture(params=[(mode, order) for mode in ("fast", "check") for order in emulator.ORDERS], ids=str)
def how(request: pytest.FixtureRequest) -> Any:
    mode, order = request.param
    with emulator.options(mode=mode, order=order, time_limit=20):
        yield


def nan(n: int) -> Any:
    return np.full(n, np.nan, f32)


def test_a_histogram_spread_over_blocks(module: emulator.EmulatedModule, how: Any) -> None:
    x, bins = np.random.default_rng(0).integers(0, 64, 500).astype(i32), np.zeros(64, i32)
    module.launch("histogram<4>", 8, 32, (x, bins, i32(500), i32(16)), 64)
    np.testing.assert_array_equal(bins, np.bincount(x, minlength=64))


@pytest.mark.parametrize("steps", [1, 4])
def test_blocks_exchange_what_they_hold(module: emulator.EmulatedModule, how: Any, steps: int) -> None:
    y, want = nan(192), np.arange(96, dtype=f32).reshape(3, 32)
    for _ in range(steps):
        want = np.broadcast_to((want[0, ::-1] + want[1, ::-1] + want[2, ::-1]) / f32(3), (3, 32))
    module.launch("exchange", 6, 32, (y, i32(steps)), cluster=3)
    np.testing.assert_array_equal(y.reshape(2, 3, 32), np.broadcast_to(want, (2, 3, 32)))


def test_the_barrier_in_halves(module: emulator.EmulatedModule, how: Any) -> None:
    x, y = np.random.default_rng(0).standard_normal(256).astype(f32), nan(256)
    module.launch("halves", 8, 32, (x, y), 128, cluster=(4,))
    want = np.roll(x.reshape(2, 4, 32), 1, axis=1) + 2 * np.arange(31, -1, -1, dtype=f32)
    np.testing.assert_array_equal(y.reshape(2, 4, 32), want)


def test_ranks_and_sizes(module: emulator.EmulatedModule, how: Any) -> None:
    found = [np.full((2, 2, 4), -1, i32) for _ in range(3)]
    module.launch("places", (4, 2, 2), 3, found)
    z, y, x = np.indices((2, 2, 4))
    rank = (z % 2 * 2 + y % 2) * 2 + x % 2
    for got, want in zip(found, (rank, rank, np.full_like(rank, 24)), strict=True):
        np.testing.assert_array_equal(got, want)


def test_global_memory_and_a_block_alone(module: emulator.EmulatedModule, how: Any) -> None:
    x, y, ones = nan(128), nan(128), np.zeros(5, i32)
    module.launch("through_global", 4, 32, (x, y), cluster=2)
    np.testing.assert_array_equal(y.reshape(2, 64), np.arange(128, dtype=f32).reshape(2, 64)[:, ::-1])
    module.launch("alone", 1, 5, (ones,))
    np.testing.assert_array_equal(ones, np.ones(5))


@pytest.mark.parametrize("order", emulator.ORDERS)
@pytest.mark.parametrize("name", BUGS)
def test_a_mistake_is_found_and_its_repair_is_silent(
    module: emulator.EmulatedModule, name: str, order: str
) -> None:
    text = SOURCE.read_text().splitlines()
    lines = {n for n, line in enumerate(text, start=1) if re.search(rf"// BUG {name}$", line)}
    assert lines, "the source marks no line"
    with emulator.options(mode="check", order=order):
        with pytest.raises(emulator.EmulatorError, match=r"cluster \(2, 1, 1\)") as caught:
            launch(module, name, fixed=False)
        assert {report.kind for report in caught.value.reports} == {BUGS[name]}, str(caught.value)
        for report in caught.value.reports:
            assert Path(report.file or "").name == SOURCE.name
            assert report.line in lines, str(report)
            assert report.block is not None
        launch(module, name, fixed=True)


@pytest.mark.parametrize("name", ["rank_out_of_range", "divergent_cluster_barrier", "one_waits_elsewhere"])
def test_a_plain_run_finds_it_too(module: emulator.EmulatedModule, name: str) -> None:
    with emulator.options(mode="fast"):
        with pytest.raises(emulator.EmulatorError, match=BUGS[name]):
            launch(module, name, fixed=False)
        launch(module, name, fixed=True)


def launch(module: emulator.EmulatedModule, name: str, fixed: bool) -> None:
    x = () if name in ONE_ARRAY else (np.arange(128, dtype=f32),)
    module.launch(name, 4, 32, (*x, nan(128), np.bool_(fixed)), SHARED.get(name, 0), cluster=2)


def test_what_cuda_refuses(module: emulator.EmulatedModule) -> None:
    y, ints = nan(128), [np.zeros(12, i32)] * 3
    with pytest.raises(KernelError, match=r"INVALID_CLUSTER_SIZE: grid \(4, 1, 1\) is not a multiple"):
        module.launch("exchange", 4, 32, (y, i32(1)), cluster=3)
    with pytest.raises(KernelError, match="has 16 blocks, it must have 1 to 8"):
        module.launch("exchange", 16, 32, (y, i32(1)), cluster=16)
    with pytest.raises(KernelError, match=r"cluster 2, its __cluster_dims__ are \(2, 2, 2\)"):
        module.launch("places", (4, 2, 2), 3, ints, cluster=2)
    text = 'extern "C" __global__ void __cluster_dims__(2) k() {}'
    older = emulator.load(text, "k.cu", options=["-arch=sm_80"])
    with pytest.raises(KernelError, match="clusters need sm_90, this is sm_80"):
        older.launch("k", 2, 1, ())
    assert np.isnan(y).all()


def test_through_the_public_interface() -> None:
    kernel = gp.kernels.load(SOURCE, ["exchange"])["exchange"]
    y = nan(64)
    with gp.use_device("emulated"):
        kernel(2, 32, (y, 1), cluster=2)
    np.testing.assert_array_equal(y, np.tile(np.arange(47, 15, -1, dtype=f32), 2))


def test_where_the_attribute_may_stand_and_what_is_not_emulated() -> None:
    text = """
    template <int N, typename T = int> __launch_bounds__(32) __cluster_dims__(N * 2, 1)
    __global__ void before(unsigned* y) { y[blockIdx.x] = __clusterSizeInBlocks(); }
    namespace inner { extern "C" __global__ void
    #if __CUDA_ARCH__ >= 900
    __cluster_dims__(3)
    #endif
    plain(unsigned* y) { y[blockIdx.x] = __clusterSizeInBlocks(); } }
    """
    module = emulator.load(text, "k.cu", ["before<2>", "inner::plain"])
    for name, blocks in (("before<2>", 4), ("inner::plain", 3)):
        y = np.zeros(blocks, np.uint32)
        module.launch(name, blocks, 1, (y,))
        assert (y == blocks).all()
    tile = "#include <cooperative_groups.h>\n__global__ void k() { cooperative_groups::this_multi_grid(); }"
    with pytest.raises(BuildError, match=r"k.cu:2(.|\n)*these parts of cooperative groups are not emulated"):
        emulator.load(tile, "k.cu")
    hidden = '#define PAIR __cluster_dims__(2)\nextern "C" __global__ void PAIR k(int* y) { y[0] = 1; }'
    with pytest.raises(BuildError, match=r"k.cu:2(.|\n)*__cluster_dims__ is read where"):
        emulator.load(hidden, "k.cu")
