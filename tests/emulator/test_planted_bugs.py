"""Every kind of bug the checker is for, planted: found at the right line, and its repaired twin silent."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gpuprop.backend import emulator
from gpuprop.backend.emulator import toolchain
from gpuprop.errors import KernelError

pytestmark = pytest.mark.skipif(emulator.available() is not None, reason=str(emulator.available()))

HERE = Path(__file__).parent
SOURCE = HERE / "bugs.cu"
f32, i32, u32 = np.float32, np.int32, np.uint32


def x(n: int = 128) -> Any:
    return np.arange(n, dtype=f32)


def out(n: int = 128, dtype: Any = f32) -> Any:
    return np.full(n, np.nan, f32).astype(dtype) if dtype is f32 else np.zeros(n, dtype)


# kernel: (kind of report, grid, block, arguments, dynamic shared memory)
BUGS: dict[str, tuple[str, int, int, Callable[[], tuple[Any, ...]], int]] = {
    "read_past_end": ("out of bounds", 2, 64, lambda: (x(100), out(100), i32(100)), 0),
    "write_past_end": ("out of bounds", 2, 64, lambda: (x(100), out(100), i32(100)), 0),
    "negative_index": ("out of bounds", 1, 64, lambda: (x(64), out(64), i32(64)), 0),
    "read_past_shared": ("out of bounds", 1, 32, lambda: (x(32), out(32)), 0),
    "write_past_shared": ("out of bounds", 1, 32, lambda: (x(32), out(32)), 0),
    "read_past_dynamic": ("out of bounds", 1, 32, lambda: (x(32), out(32), i32(32)), 128),
    "write_past_dynamic": ("out of bounds", 1, 32, lambda: (x(32), out(32), i32(32)), 128),
    "past_device_variable": ("out of bounds", 1, 32, lambda: (out(32),), 0),
    "straddling_vector": ("out of bounds", 1, 32, lambda: (x(30), out(32), i32(30)), 0),
    "misaligned_vector": ("misaligned", 1, 1, lambda: (x(8), out(1)), 0),
    "misaligned_copy": ("misaligned", 1, 1, lambda: (x(8), out(4)), 0),
    "null_pointer": ("null pointer", 1, 32, lambda: (x(32), None, out(32)), 0),
    "write_to_const": ("write to const", 1, 32, lambda: (x(32), out(32)), 0),
    "atomic_past_end": ("out of bounds", 1, 1, lambda: (np.array([4], i32), out(4, i32)), 0),
    "local_of_another_thread": ("out of bounds", 1, 32, lambda: (out(32),), 0),
    "in_a_header": ("out of bounds", 1, 32, lambda: (x(32), out(32), i32(32)), 0),
    "tile_past_end": ("out of bounds", 1, 32, lambda: (np.ones((16, 16), np.float16), out(32)), 0),
    "never_written_shared": ("uninitialised shared memory", 1, 64, lambda: (x(64), out(64)), 0),
    "uninitialised_shared": ("uninitialised shared memory", 1, 64, lambda: (x(64), out(64)), 0),
    "no_barrier_after_load": ("race", 1, 64, lambda: (x(64), out(64)), 0),
    "no_barrier_before_reuse": ("race", 1, 64, lambda: (x(256), out(64), i32(256)), 0),
    "no_barrier_in_reduction": ("race", 1, 128, lambda: (x(128), out(1)), 0),
    "no_syncwarp": ("race", 1, 32, lambda: (x(32), out(32)), 0),
    "shuffle_is_no_fence": ("race", 1, 32, lambda: (x(32), out(32)), 0),
    "several_write_one": ("race", 1, 64, lambda: (x(64), out(64)), 0),
    "blocks_write_one": ("race", 3, 32, lambda: (x(96), out(96)), 0),
    "blocks_read_and_write": ("race", 3, 32, lambda: (x(96), out(96)), 0),
    "non_atomic_add": ("race", 3, 32, lambda: (x(96), np.zeros(1, f32)), 0),
    "no_threadfence": ("race", 5, 32, lambda: (x(5), out(5), np.zeros(1, u32), out(1)), 0),
    "compare_and_swap_loop": ("race", 1, 64, lambda: (x(64), np.zeros(1, f32)), 0),
    "read_beside_atomics": ("race", 1, 64, lambda: (x(64), out(64)), 0),
    "no_async_wait": ("async copy", 1, 32, lambda: (x(128), out(32)), 0),
    "async_copy_too_early": ("race", 1, 32, lambda: (x(128), out(32)), 0),
    "divergent_barrier": ("barrier divergence", 1, 64, lambda: (out(64),), 0),
    "barrier_and_shuffle": ("deadlock", 1, 32, lambda: (x(32), out(32)), 0),
    "exited_lane": ("exited lane", 1, 32, lambda: (x(32), out(32), i32(20)), 0),
    "inactive_lane": ("inactive lane", 1, 32, lambda: (x(32), out(32)), 0),
    "mask_without_caller": ("mask", 1, 32, lambda: (out(32),), 0),
    "divergent_shuffle": ("warp divergence", 1, 32, lambda: (x(32), out(32)), 0),
    "matrix_lane_exited": ("exited lane", 1, 32, lambda: (out(32),), 0),
    "matrix_half_warp": ("missing lane", 1, 48, lambda: (out(48),), 0),
    "matrix_divergence": ("warp divergence", 1, 32, lambda: (out(32),), 0),
    "matrix_row_misaligned": ("misaligned", 1, 32, lambda: (out(32),), 0),
    "matrix_row_past_end": ("out of bounds", 1, 32, lambda: (out(32),), 0),
    "matrix_row_in_global": ("not shared memory", 1, 32, lambda: (x(128), out(32)), 0),
    "matrix_rows_not_there": ("race", 1, 32, lambda: (x(128), out(32)), 0),
    "matrix_rows_reused": ("race", 1, 32, lambda: (x(128), out(32)), 0),
    "endless_spin": ("time limit", 1, 1, lambda: (np.zeros(1, i32),), 0),
    "endless_atomic_spin": ("time limit", 1, 2, lambda: (np.zeros(1, i32),), 0),
    "integer_overflow": ("undefined behaviour", 1, 1, lambda: (x(1), out(1), i32(50000), i32(50000)), 0),
    "shift_out_of_range": ("undefined behaviour", 1, 1, lambda: (out(1, u32), i32(40)), 0),
    "division_by_zero": ("undefined behaviour", 1, 1, lambda: (out(1, i32), i32(0)), 0),
    "float_does_not_fit": ("undefined behaviour", 1, 32, lambda: (x(32), out(32, i32)), 0),
    "device_assert": ("device assert", 1, 64, lambda: (x(64), out(64)), 0),
    "trap": ("trap", 1, 1, lambda: (out(1),), 0),
}
# What plain runs notice too, without a checker: the process survives them.
FAULTS = {
    "null_pointer": "null pointer",
    "division_by_zero": "fault",
    "endless_spin": "time limit",
    "endless_atomic_spin": "time limit",
    "device_assert": "device assert",
    "divergent_barrier": "barrier divergence",
    "exited_lane": "exited lane",
    "matrix_lane_exited": "exited lane",
    "matrix_half_warp": "missing lane",
    "matrix_row_misaligned": "misaligned",
}


def marked_lines(name: str) -> set[tuple[str, int]]:
    """Where the sources say that bug `name` is."""
    return {
        (path.name, number)
        for path in (SOURCE, HERE / "bugs_helper.cuh")
        for number, line in enumerate(path.read_text().splitlines(), start=1)
        if re.search(rf"// BUG {name}$", line)
    }


@pytest.fixture(scope="module")
def bugs() -> emulator.EmulatedModule:
    names = [f"{name}<{fixed}>" for name in BUGS for fixed in ("false", "true")]
    return emulator.load(SOURCE.read_text(), str(SOURCE), names)


def launch(bugs: emulator.EmulatedModule, name: str, fixed: str) -> None:
    _, grid, block, arguments, shared = BUGS[name]
    bugs.launch(f"{name}<{fixed}>", (grid,), (block,), arguments(), shared)


@pytest.mark.parametrize("order", emulator.ORDERS)
@pytest.mark.parametrize("name", BUGS)
def test_bug_is_found_and_its_repair_is_silent(bugs: emulator.EmulatedModule, name: str, order: str) -> None:
    if name.startswith("misaligned") and toolchain.find().clang:
        pytest.skip("Clang copies a vector in parts, and checks the alignment of none")
    lines = marked_lines(name)
    assert lines, "the source marks no line"
    with emulator.options(mode="check", order=order, time_limit=0.3 if "endless" in name else 30):
        with pytest.raises(emulator.EmulatorError) as caught:
            launch(bugs, name, "false")
        reports = caught.value.reports
        assert BUGS[name][0] in [report.kind for report in reports]
        for report in reports:
            assert report.file is not None
            assert (Path(report.file).name, report.line) in lines, str(report)
            assert report.block is not None
            assert report.thread is not None
        launch(bugs, name, "true")  # the process goes on, and the twin is silent


@pytest.mark.parametrize("name", FAULTS)
def test_a_plain_run_survives(bugs: emulator.EmulatedModule, name: str) -> None:
    with emulator.options(mode="fast", time_limit=0.3):
        with pytest.raises(emulator.EmulatorError) as caught:
            launch(bugs, name, "false")
        report = caught.value.reports[0]
        assert report.kind == FAULTS[name]
        assert (Path(report.file or "").name, report.line) in marked_lines(name), str(report)
        launch(bugs, name, "true")


def test_the_caller_of_a_header_is_named(bugs: emulator.EmulatedModule) -> None:
    if toolchain.find().clang:
        pytest.skip("the line of an inlined call is not in what Clang writes at -g1")
    call = next(i for i, line in enumerate(SOURCE.read_text().splitlines(), start=1) if "load_at(x" in line)
    with emulator.options(mode="check"), pytest.raises(emulator.EmulatorError) as caught:
        launch(bugs, "in_a_header", "false")
    assert [Path(caller).name for caller in caught.value.reports[0].callers] == [f"bugs.cu:{call}"]


def test_a_race_with_an_atomic_says_so(bugs: emulator.EmulatedModule) -> None:
    with emulator.options(mode="check"), pytest.raises(emulator.EmulatorError) as caught:
        launch(bugs, "compare_and_swap_loop", "false")
    assert (
        "read of 4 bytes after an atomic by thread (0,0,0), at byte 0 of argument 1 'y': no barrier "
        in str(caught.value)
    )
    assert "(an atomic or a volatile read needs none)" in str(caught.value)


def test_an_address_in_a_struct_is_explained() -> None:
    text = """struct Matrix { float* elements; };
    extern "C" __global__ void k(Matrix m, float* y) { y[0] = m.elements[0]; }"""
    module = emulator.load(text, "k.cu")
    rows = np.zeros(1 << 22, f32)  # far from y: a mapping of its own
    address = np.array((rows.ctypes.data,), [("elements", "u8")])[()]
    with (
        emulator.options(mode="check"),
        pytest.raises(emulator.EmulatorError, match=r"k.cu:2: out of bounds.*; an array whose address is"),
    ):
        module.launch("k", 1, 1, (address, out(1)))


def test_the_message_says_what_where_and_who(bugs: emulator.EmulatedModule) -> None:
    with emulator.options(mode="check"), pytest.raises(emulator.EmulatorError) as caught:
        launch(bugs, "read_past_end", "false")
    [(_, line)] = marked_lines("read_past_end")
    assert str(caught.value) == (
        "read_past_end<false>, grid (2, 1, 1), block (64, 1, 1), emulated in order forward:\n"
        f"  {SOURCE}:{line}: out of bounds: read of 4 bytes, "
        "0 bytes past the end of argument 0 'x' (400 bytes), "
        "block (1, 0, 0) thread (35, 0, 0)"
    )


def test_values_alone_do_not_show_every_race(bugs: emulator.EmulatedModule) -> None:
    """Why there is a checker: one after another, non-atomic additions give the right sum in any order."""
    for order in emulator.ORDERS:
        y = np.zeros(1, f32)
        with emulator.options(mode="fast", order=order):
            bugs.launch("non_atomic_add<false>", (3,), (32,), (x(96), y))
        assert y[0] == 4560


SCALE = """
extern "C" __global__ void scale(const float* x, float* y, const float2* pairs, float factor, int n) {
  const int i = blockIdx.x * blockDim.x + threadIdx.x;
  if (i < n) y[i] = factor * x[i] + (pairs ? pairs[i].y : 0.0f);
}
"""


@pytest.fixture(scope="module")
def scale() -> emulator.EmulatedModule:
    return emulator.load(SCALE, "scale.cu")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (
            (x(8).astype(np.float64), out(8), None, f32(2), i32(8)),
            "argument 0 'x': an array of float32 is wanted, got float64",
        ),
        ((x(8), out(8), None, f32(2)), "takes 5 arguments, 4 given"),
        ((x(16)[::2], out(8), None, f32(2), i32(8)), "argument 0 'x': the array is not C-contiguous"),
        (
            (x(8), out(8), None, 2.0, i32(8)),
            "argument 3 'factor': a NumPy scalar of float32 is wanted, got float 2.0",
        ),
        ((x(8), out(8), None, f32(2), 8), "argument 4 'n': a NumPy scalar of int32 is wanted, got int 8"),
        (
            (x(8), out(8), None, f32(2), np.int64(8)),
            "argument 4 'n': a NumPy scalar of int32 is wanted, got numpy.int64",
        ),
        ((f32(1), out(8), None, f32(2), i32(8)), "argument 0 'x': an array of float32 or None is wanted"),
        (
            (x(8), out(8), None, x(1), i32(8)),
            "argument 3 'factor': a NumPy scalar of float32 is wanted, got ndarray",
        ),
    ],
    ids=[
        "dtype",
        "count",
        "contiguous",
        "python-float",
        "python-int",
        "width",
        "scalar-for-array",
        "array-for-scalar",
    ],
)
def test_wrong_arguments(scale: emulator.EmulatedModule, arguments: tuple[Any, ...], message: str) -> None:
    with pytest.raises(KernelError, match=re.escape(message)):
        scale.launch("scale", (1,), (8,), arguments)


def test_arguments_that_fit(scale: emulator.EmulatedModule) -> None:
    y = out(8)
    pairs = np.arange(16, dtype=f32)
    scale.launch("scale", 1, 8, (x(8), y, pairs, f32(2), i32(8)))
    np.testing.assert_array_equal(y, 2 * np.arange(8) + pairs[1::2])
    frozen = out(8)
    frozen.flags.writeable = False
    with pytest.raises(KernelError, match="argument 1 'y': the array is read-only"):
        scale.launch("scale", 1, 8, (x(8), frozen, None, f32(2), i32(8)))


NEIGHBOURS = """
extern "C" __global__ void add_next(const float* x, float* y) { int i = threadIdx.x; y[i] = x[i] + x[i + 1]; }
extern "C" __global__ void doubled(const float* x, float* y) { y[threadIdx.x] = 2 * x[threadIdx.x]; }
struct Pair { const float* x; float* y; };
extern "C" __global__ void through_struct(Pair pair, const float* x, float* y) {
  pair.y[threadIdx.x] = 2 * pair.x[threadIdx.x];
}
extern "C" __global__ void cached(const float* x, float* y) {
  y[0] = __ldg(reinterpret_cast<const float4*>(x + 1)).x;
}
__device__ int deep(int n, volatile int* y) {
  volatile int local[64];
  local[n & 63] = y[0];
  return n < 0 ? 0 : deep(n + 1, y) + local[n & 31];
}
extern "C" __global__ void endless_recursion(int* y) { y[0] = deep(1, y); }
"""


@pytest.fixture(scope="module")
def neighbours() -> emulator.EmulatedModule:
    return emulator.load(NEIGHBOURS, "neighbours.cu")


@pytest.mark.parametrize("order", emulator.ORDERS)
@pytest.mark.parametrize(("first", "second"), [(0, 32), (32, 0)])
def test_past_the_end_into_another_argument(
    neighbours: emulator.EmulatedModule, order: str, first: int, second: int
) -> None:
    """x[32] is the first element of y where they are slices of one buffer."""
    buffer = x(64)
    before, y = buffer[first : first + 32], buffer[second : second + 32]
    with emulator.options(mode="check", order=order):
        with pytest.raises(emulator.EmulatorError) as caught:
            neighbours.launch("add_next", 1, 32, (before, y))
        [report] = caught.value.reports
        assert (report.kind, report.line, report.thread) == ("out of bounds", 2, (31, 0, 0))
        assert "0 bytes past the end of argument 0 'x' (128 bytes)" in report.message
        longer = x(33)
        neighbours.launch("add_next", 1, 32, (longer, y))
    np.testing.assert_array_equal(y, longer[:-1] + longer[1:])  # results reach the slice


def test_arrays_that_overlap_stay_together(neighbours: emulator.EmulatedModule) -> None:
    with emulator.options(mode="check"):
        y = x(32)
        neighbours.launch("doubled", 1, 32, (y, y))
        np.testing.assert_array_equal(y, 2 * x(32))
        buffer = x(96)
        neighbours.launch("doubled", 1, 32, (buffer[:80], buffer[64:]))  # y is writable, though x covers half
        np.testing.assert_array_equal(buffer, np.concatenate([x(64), 2 * x(32)]))


def test_arrays_whose_addresses_are_stored_stay_in_place(neighbours: emulator.EmulatedModule) -> None:
    a, y = x(32), out(32)
    pair = np.array([(a.ctypes.data, y.ctypes.data)], [("x", np.uint64), ("y", np.uint64)])[0]
    with emulator.options(mode="check"):
        neighbours.launch("through_struct", 1, 32, (pair, a, y))
    np.testing.assert_array_equal(y, 2 * a)


def test_what_goes_wrong_in_the_shim_is_placed_in_the_kernel(neighbours: emulator.EmulatedModule) -> None:
    if toolchain.find().clang:
        pytest.skip("Clang copies a vector in parts, and checks the alignment of none")
    with emulator.options(mode="check"), pytest.raises(emulator.EmulatorError) as caught:
        neighbours.launch("cached", 1, 1, (x(8), out(1)))
    [report] = caught.value.reports
    assert (report.kind, report.file, report.line) == ("misaligned", "neighbours.cu", 9)


@pytest.mark.parametrize("mode", ["fast", "check"])
def test_too_deep_a_recursion_is_placed(neighbours: emulator.EmulatedModule, mode: str) -> None:
    with (
        emulator.options(mode=mode),
        pytest.raises(emulator.EmulatorError, match="256 KB of stack") as caught,
    ):
        neighbours.launch("endless_recursion", 1, 1, (out(1, i32),))
    assert caught.value.reports[0].file == "neighbours.cu"
    assert caught.value.reports[0].line in range(11, 15)
