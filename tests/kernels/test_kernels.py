"""Loading and launching: what is refused before anything runs, the cache's key, our kernels on odd grids."""

from __future__ import annotations

import sys
from pathlib import Path
from types import SimpleNamespace
from typing import ClassVar

import numpy as np
import pytest

from gpuprop.backend import cuda_module, kernels
from gpuprop.backend.arrays import to_device, to_host
from gpuprop.backend.device import Device, use_device
from gpuprop.bench.host_calls import python_calls
from gpuprop.errors import BuildError, KernelError

SCALE = """
#include "common.cuh"
template <typename T> __global__ void scale(const T* x, T* y, const T* offset, int n, float factor) {
  for (long long i = grid_thread(); i < n; i += grid_threads())
    y[i] = from_acc<T>(to_acc(x[i]) * factor + (offset ? to_acc(*offset) : 0.0f));
}
extern "C" __global__ void count(int* out) { out[blockIdx.x] = (int)gridDim.x; }
"""
X = np.arange(10, dtype=np.float32)


@pytest.fixture
def kernel_device(device):
    if device == "cpu":
        pytest.skip("kernels do not run on plain NumPy arrays")
    return device


def test_runs_on_arrays_of_the_device(kernel_device):
    module = kernels.load(SCALE, names=["scale<float>", "count"])
    x, y = to_device(X), to_device(np.full(10, np.nan, np.float32))
    offset = to_device(np.full(1, 3, np.float32))
    module["scale<float>"]((2, 1, 1), 4, (x, y, None, 10, 2))
    np.testing.assert_array_equal(to_host(y), 2 * X)
    module["scale<float>"]([1], (8, 1), (x, y, offset, np.int64(10), 0.5))
    np.testing.assert_array_equal(to_host(y), X / 2 + 3)
    out = to_device(np.zeros(3, np.int32))
    module["count"](3, 1, (out,))
    assert to_host(out).tolist() == [3, 3, 3]


def test_a_file_and_its_own_header(kernel_device, tmp_path):
    (tmp_path / "mine.cuh").write_text("#define VALUE 7\n")
    file = tmp_path / "mine.cu"
    file.write_text(
        '#include "mine.cuh"\nextern "C" __global__ void set(int* out) { *out = VALUE + PLUS; }\n'
    )
    out = to_device(np.zeros(1, np.int32))
    kernels.load(file, options=["-DPLUS=1"])["set"](1, 1, (out,))
    kernels.load(str(file), options=["-DPLUS=2"])["set"](1, 1, (out,))
    assert to_host(out).tolist() == [9]


def test_kernels_of_namespaces_macros_and_headers(kernel_device, tmp_path):
    """What the source's own text does not show is left to the compiler."""
    (tmp_path / "more.cuh").write_text('extern "C" __global__ void in_header(int* out) { *out = 3; }\n')
    file = tmp_path / "mine.cu"
    file.write_text(
        """#include "more.cuh"
        #define MAKE(name, value) extern "C" __global__ void name(int* out) { *out = value; }
        #define BOUNDS __launch_bounds__(32)
        namespace inner { template <typename T> __global__ void nested(T* out) { *out = 1; } }
        MAKE(made, 2)
        template <int N> BOUNDS __global__ void before(int* out) { *out = N; }
        extern "C" __global__ void BOUNDS after(int* out) { *out = 5; }"""
    )
    names = ["inner::nested<int>", "made", "in_header", "before<4>", "after"]
    module = kernels.load(file, names=names)
    for value, name in enumerate(names, start=1):
        out = to_device(np.zeros(1, np.int32))
        module[name](1, 1, (out,))
        assert to_host(out).tolist() == [value]


def test_a_kernel_that_does_not_compile_gives_the_users_line(kernel_device):
    with pytest.raises(BuildError, match=r"kernel\.cu\D{1,3}2\b(.|\n)*nothing"):
        kernels.load('extern "C" __global__ void f(int* a) {\n  a[0] = nothing;\n}')


@pytest.mark.parametrize(
    ("grid", "block", "words"),
    [
        (0, 32, r"CUDA_ERROR_INVALID_VALUE: invalid argument: grid 0 is outside 1\.\."),
        ((1, 65536), 32, "grid .* is outside"),
        (2**31, 32, "grid 2147483648 is outside"),
        ((1, 1, 1, 1), 32, "grid is one to three whole numbers"),
        ((), 32, "grid is one to three whole numbers"),
        (1.0, 32, "grid is one to three whole numbers, got 1.0"),
        (1, 1025, "block 1025 is outside"),
        (1, (32, 64), r"block \(32, 64, 1\) is 2048 threads"),
        (1, (1, 1, 65), "block .* is outside"),
        (1, -1, "block -1 is outside"),
    ],
)
def test_grids_and_blocks_that_cuda_would_refuse(grid, block, words):
    module = kernels.load(SCALE, names=["scale<float>"])
    with pytest.raises(KernelError, match=words):
        module["scale<float>"](grid, block, (X, X.copy(), None, 10, 2.0))


def test_arguments_are_checked_by_the_declaration():
    module = kernels.load(SCALE, names=["scale<__half>"])
    with pytest.raises(KernelError, match=r"scale<__half>: argument 0 \(const __half\* x\) takes float16"):
        module["scale<__half>"](1, 32, (X, X.copy(), None, 10, 2.0))
    with pytest.raises(KernelError, match="shared_mem -1 is negative"):
        module["scale<__half>"](1, 32, (X, X, None, 10, 2.0), shared_mem=-1)


def test_numpy_arrays_need_the_emulated_device():
    with use_device("cpu"):
        assert not kernels.usable(X)
        with pytest.raises(KernelError, match=r'current device is cpu.*set_device\("emulated"\)'):
            kernels.load(SCALE, names=["scale<float>"])["scale<float>"](1, 32, (X, X.copy(), None, 10, 2.0))


def test_missing_names_list_those_there_are():
    with pytest.raises(KernelError, match=r"has no kernel 'scaled<float>': it has scale, count"):
        kernels.load(SCALE, names=["scaled<float>"])
    with pytest.raises(KernelError, match=r"'scale' is a template: give its arguments, scale<T>"):
        kernels.load(SCALE, names=["scale"])
    with pytest.raises(KernelError, match=r'defines templates alone: names .* such as "f<float>"'):
        kernels.load("template <class T> __global__ void f(T* x) {}")
    with pytest.raises(KernelError, match="defines no __global__ function"):
        kernels.load("__device__ void f(float* x) {}\n")
    module = kernels.load(SCALE)
    assert (module.names, list(module), "count" in module, "scale" in module) == (
        ["count"], ["count"], True, False
    )  # fmt: skip
    with pytest.raises(KernelError, match=r"not loaded with a kernel 'scale<float>': it has count"):
        module["scale<float>"]
    with pytest.raises(KernelError, match="names is a list"):
        kernels.load(SCALE, names="count")
    with pytest.raises(KernelError, match=r"cannot read the kernels in .*missing\.cu"):
        kernels.load("missing.cu")


def test_project_kernels_are_built_once_with_their_type():
    kernel = kernels.project("conv1d", "conv1d_forward<float, float>")
    assert kernel is kernels.project("conv1d", "conv1d_forward<float, float>")
    assert "conv1d_sum_partials<float, float>" in kernel.module.names
    assert not any("__half" in name for name in kernel.module.names)
    with pytest.raises(KernelError, match=r"kernels take float32, .*, not int32"):
        kernels.c_types(np.int32)


def test_our_kernels_read_their_own_declarations():
    """Every type of every parameter is known, so that every launch of ours is checked."""
    for file in kernels.kernel_files():
        for names in file.instantiations.values():
            module = kernels.Module(file.path.read_text(), file.path.name, names, [])
            for name in names:
                assert module[name].parameters
                assert all(p.dtype is not None and p.name for p in module[name].parameters), name


def test_a_changed_header_changes_the_key(tmp_path):
    """CuPy's cache of compiled code does not see included files."""
    source, options = '#include "a.cuh"\n__global__ void f() {}', [f"-I{tmp_path}"]
    (tmp_path / "a.cuh").write_text('#pragma once\n#include "b.cuh"\n#include <not_ours.h>\n')
    (tmp_path / "b.cuh").write_text("#define B 1\n")
    key = cuda_module.includes_digest(source, options)
    assert key == cuda_module.includes_digest(source, options)
    (tmp_path / "b.cuh").write_text("#define B 2\n")
    assert cuda_module.includes_digest(source, options) != key
    assert cuda_module.includes_digest("__global__ void f() {}", options) != key


class FakeDevice:
    """Stands in for cupy.cuda.Device."""

    current: ClassVar[list[int]] = []

    def __init__(self, index):
        self.index = index

    def __enter__(self):
        self.current.append(self.index)

    def __exit__(self, *_):
        self.current.pop()


class CompileException(Exception):
    """Stands in for CuPy's."""


def fake_cupy(compiled, launched, fail=False):
    class RawModule:
        def __init__(self, **given):
            compiled.append(given)

        def compile(self):
            if fail:
                raise CompileException("scale.cu(3): error: no")

        def get_function(self, name):
            def launch(grid, block, args, shared_mem):
                launched.append((name, FakeDevice.current[-1], grid, block, args, shared_mem))

            launch.shared_size_bytes = 30_000
            return launch

    errors = SimpleNamespace(CUDADriverError=ValueError, CUDARuntimeError=ValueError)
    compiler = SimpleNamespace(CompileException=CompileException)
    return SimpleNamespace(
        RawModule=RawModule,
        cuda=SimpleNamespace(Device=FakeDevice, compiler=compiler, driver=errors, runtime=errors),
    )


def test_a_size_of_clusters_at_launch_is_not_for_cupy(monkeypatch):
    kernel = kernels.load(SCALE, names=["count"])["count"]
    monkeypatch.setattr(kernels, "device_of_launch", lambda *_: Device("cuda", 0))
    with pytest.raises(KernelError, match=r"count: cluster=2: CuPy launches no clusters .*__cluster_dims__"):
        kernel(2, 1, (np.zeros(2, np.int32),), cluster=2)


def test_what_cupy_is_given(monkeypatch):
    """Name expressions for templates, the user's lines, a null pointer, more shared memory when asked, and an
    array of one element for a struct that is passed by value."""
    compiled, launched = [], []
    monkeypatch.setattr(cuda_module.cuda_setup, "import_cupy", lambda: fake_cupy(compiled, launched))
    module = cuda_module.CudaModule(
        SCALE, "scale.cu", ["scale<float>", "count"], ["-DA=1"], Device("cuda", 1)
    )
    assert compiled[0]["code"].startswith('#line 1 "scale.cu"\n')
    assert compiled[0]["name_expressions"] == ("scale<float>",)
    assert compiled[0]["options"][:2] == ("-std=c++17", "-DA=1")
    assert compiled[0]["options"][2].startswith("-DGPUPROP_INCLUDES=0x")
    for shared_mem in (20_000, 10_000):  # beside 30,000 bytes that the kernel declares
        module.launch("scale<float>", (1, 1, 1), (32, 1, 1), [X, None, np.int32(3)], shared_mem=shared_mem)
    name, device, grid, block, args, shared = launched[0]
    assert (name, device, grid, block, shared) == ("scale<float>", 1, (1, 1, 1), (32, 1, 1), 20_000)
    assert args[1] == 0
    assert args[1].dtype.itemsize == 8
    pair = np.array((1, 2), [("a", "i4"), ("b", "i4")])[()]
    module.launch("count", (1, 1, 1), (1, 1, 1), [pair])
    (struct,) = launched[-1][4]
    assert (type(struct), struct.shape, struct.tobytes()) == (np.ndarray, (1,), pair.tobytes())
    assert module._function("scale<float>", 0).max_dynamic_shared_size_bytes == 20_000
    again = python_calls(lambda: module.launch("scale<float>", (1, 1, 1), (32, 1, 1), [X] * 20, 20_000))
    assert again.total() == 2


def test_cupys_compile_error_becomes_ours(monkeypatch):
    monkeypatch.setattr(cuda_module.cuda_setup, "import_cupy", lambda: fake_cupy([], [], fail=True))
    with pytest.raises(BuildError, match=r"scale\.cu does not compile:\nscale\.cu\(3\): error: no"):
        cuda_module.CudaModule(SCALE, "scale.cu", ["scale<float>"], [], Device("cuda", 0))


def test_the_folder_is_found_beside_the_package():
    assert (kernels.folder() / "common.cuh").is_file()
    assert {"conv1d.cu", "softmax_cross_entropy.cu"} <= {path.name for path in kernels.folder().glob("*.cu")}


@pytest.mark.parametrize("groups", [1, 4])
@pytest.mark.parametrize("grid", [1, 3])
def test_conv1d_gives_the_same_bits_on_any_grid(kernel_device, groups, grid):
    """A grid too small for the work walks it: two row tiles and two column tiles in one group."""
    rng = np.random.default_rng(0)
    batch, length, channels, out, kernel_size = 3, 30, 8, 68, 3
    x, weight, bias = (
        to_device(rng.standard_normal(shape).astype(np.float32))
        for shape in ((batch, length, channels), (kernel_size, channels // groups, out), (out,))
    )
    sizes = (batch, length, channels, length, out, kernel_size, 1, 1, 1, groups)
    narrow = "_narrow" if groups > 1 else ""
    dy = to_device(rng.standard_normal((batch, length, out)).astype(np.float32))

    def run(blocks):
        y, dx = to_device(np.full(dy.shape, np.nan, "f4")), to_device(np.full(x.shape, np.nan, "f4"))
        partial = to_device(np.full((2, *weight.shape), np.nan, "f4"))
        launches = {
            f"conv1d_forward{narrow}": (x, weight, bias, y, *sizes),
            f"conv1d_backward_input{narrow}": (dy, weight, dx, *sizes),
            f"conv1d_backward_weight{narrow}": (x, dy, partial, *sizes, 2, 48),
        }
        for name, args in launches.items():
            kernels.project("conv1d", f"{name}<float, float>")(blocks, 256, args)
        return [to_host(a) for a in (y, dx, partial)]

    for got, want in zip(run(grid), run(1000), strict=True):
        assert np.isfinite(want).all()
        assert got.tobytes() == want.tobytes()


def test_import_does_not_load_cupy():
    """Kernels are found and checked without a GPU package."""
    import subprocess

    code = "import sys; from gpuprop.backend import kernels, nvrtc; sys.exit('cupy' in sys.modules)"
    root = Path(kernels.__file__).parents[2]
    assert subprocess.run([sys.executable, "-c", code], cwd=root, check=False).returncode == 0
