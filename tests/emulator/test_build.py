"""Compiling and loading: errors in the user's lines, what is not supported, CUDA's limits, the cache."""

from __future__ import annotations

import os
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import numpy as np
import pytest

from gpuprop.backend import emulator
from gpuprop.backend.emulator import source, toolchain
from gpuprop.backend.emulator import symbols as symbol_table
from gpuprop.errors import BuildError, DeviceError, KernelError

needs_compiler = pytest.mark.skipif(emulator.available() is not None, reason=str(emulator.available()))

FILL = """
extern "C" __global__ void fill(float* y, float value) { y[blockIdx.x * blockDim.x + threadIdx.x] = value; }
template <typename T> __global__ void copy(const T* x, T* y) { y[threadIdx.x] = x[threadIdx.x]; }
"""


@needs_compiler
def test_a_compile_error_has_the_users_line(tmp_path: Path) -> None:
    (tmp_path / "helper.cuh").write_text("#pragma once\n__device__ float twice(float x) { return 2 * x; }\n")
    text = textwrap.dedent("""\
        #include <cuda_fp16.h>
        #include "helper.cuh"
        /* two
           lines */ extern __shared__
        float tile[];
        extern "C" __global__ void wrong(float* y) {
          y[0] = twice(undeclared);
        }
        """)
    path = tmp_path / "wrong.cu"
    with pytest.raises(BuildError, match=r"wrong\.cu:7:.*undeclared"):
        emulator.load(text, str(path))


@needs_compiler
def test_an_error_in_a_header_has_its_line(tmp_path: Path) -> None:
    (tmp_path / "helper.cuh").write_text(
        "#pragma once\n\n__device__ float half(float x) { return x / missing; }\n"
    )
    with pytest.raises(BuildError, match=r"helper.cuh:3:.*missing"):
        emulator.load('#include "helper.cuh"\n' + FILL, str(tmp_path / "fill.cu"))
    with pytest.raises(BuildError, match=r"fill.cu:2:.*nowhere.h"):
        emulator.load("\n#include <nowhere.h>\n" + FILL, str(tmp_path / "fill.cu"))


@needs_compiler
def test_a_missing_kernel_lists_those_there_are() -> None:
    with pytest.raises(
        BuildError, match=r"fill.cu: there is no kernel scale<float> .*defines fill, copy<...>"
    ):
        emulator.load(FILL, "fill.cu", ["fill", "scale<float>"])
    with pytest.raises(KernelError, match=r"name the kernels to load; the file defines copy<...>"):
        emulator.load(FILL.split("\n", 2)[2], "fill.cu")
    module = emulator.load(FILL, "fill.cu")
    assert module.names == ["fill"]
    with pytest.raises(KernelError, match="copy<int> was not loaded; loaded are fill"):
        module.launch("copy<int>", 1, 1, ())


UNSUPPORTED = {
    "inline PTX": ('int v; asm volatile("mov.u32 %0, %laneid;" : "=r"(v));', "inline PTX is not emulated"),
    "cooperative groups": ("", "this part of cooperative groups is not emulated"),
    "CUB": ("", "CUB and Thrust are not emulated"),
    "TMA": ("", "TMA"),
    "barriers": ("", "libcu\\+\\+"),
}
INCLUDES = {
    "cooperative groups": "#include <cooperative_groups/memcpy_async.h>",
    "CUB": "#include <cub/cub.cuh>",
    "TMA": "#include <cuda/ptx>",
    "barriers": "#include <cuda/barrier>",
}


@needs_compiler
@pytest.mark.parametrize("feature", UNSUPPORTED)
def test_what_is_not_emulated_names_the_way_out(feature: str) -> None:
    body, message = UNSUPPORTED[feature]
    include = INCLUDES.get(feature, "")
    text = f'{include}\nextern "C" __global__ void\nk(int* y) {{ {body} y[0] = 1; }}\n'
    line = 1 if feature in INCLUDES else 3
    with pytest.raises(BuildError, match=rf"new.cu:{line}:(.|\n)*{message}(.|\n)*#ifndef GPUPROP_EMULATOR"):
        emulator.load(text, "new.cu")
    guarded = text.replace(body, f"\n#ifndef GPUPROP_EMULATOR\n{body}\n#endif\n") if body else text
    guarded = guarded.replace(
        INCLUDES.get(feature, "\0"), f"#ifndef GPUPROP_EMULATOR\n{INCLUDES.get(feature)}\n#endif"
    )
    y = np.zeros(1, np.int32)
    emulator.load(guarded, "new.cu", ["k"]).launch("k", 1, 1, (y,))
    assert y[0] == 1


@needs_compiler
@pytest.mark.parametrize(
    ("line", "what"),
    [
        ("y[0] = __cluster_map_shared_multicast(y, 1).x;", "these functions of clusters are not emulated"),
        ("y[0] = tex1Dfetch<int>(0, 0);", "textures and surfaces are not emulated"),
        ("k<<<1, 1>>>(y);", r"launches \(<<<...>>>\) are not emulated: leave main\(\) [^:]*, or"),
    ],
)
def test_names_of_what_is_not_emulated(line: str, what: str) -> None:
    with pytest.raises(BuildError, match=rf"k.cu:1(.|\n)*{what}:? keep it behind #ifndef GPUPROP_EMULATOR"):
        emulator.load(f'extern "C" __global__ void k(int* y) {{ {line} }}', "k.cu")


@needs_compiler
def test_shuffles_of_old_tutorials() -> None:
    with pytest.raises(BuildError, match=r"k.cu:1(.|\n)*since CUDA 9 .*__shfl_down_sync\(0xffffffff, value,"):
        emulator.load('extern "C" __global__ void k(float* y) { *y += __shfl_down(*y, 1); }', "k.cu")


@needs_compiler
def test_a_kernel_returns_void() -> None:
    with pytest.raises(BuildError, match="a __global__ function returns void"):
        emulator.load('extern "C" __global__ int k(float* y) { return 1; }', "k.cu")


@needs_compiler
def test_atomics_that_cuda_does_not_have() -> None:
    with pytest.raises(BuildError, match="CUDA has no atomicMax for this type"):
        emulator.load('extern "C" __global__ void k(float* y) { atomicMax(y, 1.0f); }', "k.cu")


@needs_compiler
@pytest.mark.parametrize(
    ("grid", "block", "shared", "message"),
    [
        ((1,), (1025,), 0, "block x is 1025, it must be 1 to 1024"),
        ((1,), (64, 32), 0, r"block \(64, 32, 1\) has 2048 threads, the limit is 1024"),
        ((1,), (1, 1, 65), 0, "block z is 65, it must be 1 to 64"),
        ((0,), (32,), 0, "grid x is 0, it must be 1 to 2147483647"),
        ((1, 65536), (32,), 0, "grid y is 65536, it must be 1 to 65535"),
        ((1,), (32,), 228 << 10, "a block on sm_90 has 232448"),
        ((1,), (32,), -4, "-4 of dynamic shared memory"),
        ((1, 1, 1, 1), (32,), 0, "one to three sizes"),
    ],
)
def test_cudas_limits(grid: tuple[int, ...], block: tuple[int, ...], shared: int, message: str) -> None:
    y = np.full(32, np.nan, np.float32)
    with pytest.raises(KernelError, match=message):
        emulator.load(FILL, "fill.cu").launch("fill", grid, block, (y, np.float32(1)), shared)
    assert np.isnan(y).all()  # nothing ran


@needs_compiler
def test_limits_follow_the_architecture() -> None:
    y = np.zeros(32, np.float32)
    emulator.load(FILL, "fill.cu").launch("fill", 1, 32, (y, np.float32(1)), 200 << 10)
    with pytest.raises(KernelError, match="a block on sm_75 has 65536"):
        emulator.load(FILL, "fill.cu", options=["-arch=sm_75"]).launch(
            "fill", 1, 32, (y, np.float32(1)), 65 << 10
        )
    with pytest.raises(BuildError, match="-arch=sm_999: unknown architecture"):
        emulator.load(FILL, "fill.cu", options=["-arch=sm_999"])


@needs_compiler
def test_more_than_48_kb_of_static_shared_memory() -> None:
    text = """extern "C" __global__ void big(float* y) {
      __shared__ float s[12289];
      s[threadIdx.x] = 1;
      __syncthreads();
      y[threadIdx.x] = s[blockDim.x - 1 - threadIdx.x];
    }"""
    y = np.zeros(1, np.float32)
    with pytest.raises(KernelError, match=r"too much shared data \(0xc004 bytes, 0xc000 max\)"):
        emulator.load(text, "big.cu").launch("big", 1, 1, (y,))
    emulator.load(text.replace("12289", "12288"), "big.cu").launch("big", 1, 1, (y,))
    assert y[0] == 1


BOUNDED = """
constexpr int T = 96;
template <typename U, int N = (3 > 2) ? 64 : 32>
__global__ void __launch_bounds__(N * 2, 2) after(U* y) { y[threadIdx.x] = 1; }
template <int N> __launch_bounds__(N) __global__ void before(float* y) { y[threadIdx.x] = N; }
extern "C" __launch_bounds__(T / 2) __global__ void plain(float* y) { y[threadIdx.x] = 1; }
namespace inner {
  template <typename U> __global__ void __launch_bounds__(sizeof(U) * 8) nested(U* y) { y[threadIdx.x] = 1; }
}
#define MAKE(name) \\
  extern "C" __global__ void __launch_bounds__(32) name(float* y) { y[threadIdx.x] = 1; }
MAKE(made) MAKE(made_too)
#define LOOP {}
extern "C" __global__ void __launch_bounds__(32) declared(float* y);
extern "C" __global__ void __launch_bounds__(32) declared(float* y) { y[threadIdx.x] = 1; }
extern "C" __global__ void unbounded(float* y) { y[threadIdx.x] = 1; }
"""


@needs_compiler
def test_launch_bounds() -> None:
    most = {
        "after<float>": 128,
        "after<float, 16>": 32,
        "before<96>": 96,
        "plain": 48,
        "inner::nested<float>": 32,
        "declared": 32,
        "unbounded": 1024,
    }
    module = emulator.load(BOUNDED, "bounded.cu", list(most))
    for name, threads in most.items():
        y = np.zeros(1024, np.float32)
        module.launch(name, 1, threads, (y,))
        assert (y != 0).sum() == threads
        with pytest.raises(KernelError, match=rf"__launch_bounds__ allow {threads}$|it must be 1 to 1024"):
            module.launch(name, 1, threads + 1, (y,))


@needs_compiler
def test_macros_and_include_folders(tmp_path: Path) -> None:
    (tmp_path / "factor.cuh").write_text("constexpr float factor = 3;\n")
    text = '#include "factor.cuh"\nextern "C" __global__ void k(float* y) { y[0] = factor * WIDTH + BASE; }'
    y = np.zeros(1, np.float32)
    for width in (2, 5):
        options = [f"-DWIDTH={width}", "-D", "BASE=1", f"-I{tmp_path}", "--std=c++17", "--use_fast_math"]
        emulator.load(text, "k.cu", options=options).launch("k", 1, 1, (y,))
        assert y[0] == 3 * width + 1
    (tmp_path / "factor.cuh").write_text("constexpr float factor = 7;\n")  # an edited header is seen
    emulator.load(text, "k.cu", options=options).launch("k", 1, 1, (y,))
    assert y[0] == 36


@needs_compiler
def test_a_cached_load_is_quick() -> None:
    emulator.load(FILL, "fill.cu")
    times = []
    for _ in range(5):
        start = time.perf_counter()
        emulator.load(FILL, "fill.cu")
        times.append(time.perf_counter() - start)
    assert min(times) < 0.1


@needs_compiler
def test_two_processes_build_at_once(tmp_path: Path) -> None:
    """Both start on an empty cache, and build the runtime and the kernels."""
    program = f"""
import numpy as np
from gpuprop.backend import emulator
y = np.zeros(8, np.float32)
emulator.load({FILL!r}, "fill.cu").launch("fill", 1, 8, (y, np.float32(3)))
assert (y == 3).all()
"""
    environment = os.environ | {"GPUPROP_CACHE": str(tmp_path)}
    both = [subprocess.Popen([sys.executable, "-c", program], env=environment) for _ in range(2)]
    assert [process.wait(timeout=120) for process in both] == [0, 0]
    folders = list((tmp_path / "emulator").iterdir())
    assert all(len(folder.name) == 24 for folder in folders), "a half-built folder was left behind"


def test_no_compiler_says_what_to_install(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CXX", raising=False)
    assert "apt install g++" in str(emulator.available())
    with pytest.raises(DeviceError, match=r"needs a C\+\+ compiler"):
        emulator.load(FILL, "fill.cu")


def test_no_headers_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(toolchain, "_wheel_folders", list)
    monkeypatch.setattr(toolchain, "_toolkit_folders", lambda home: [])
    with pytest.raises(DeviceError, match=r'pip install "gpuprop\[emulator\]"'):
        toolchain._include(None)


@pytest.mark.parametrize(
    ("system", "machine"), [("darwin", "arm64"), ("win32", "AMD64"), ("linux", "ppc64le")]
)
def test_other_systems_are_told(monkeypatch: pytest.MonkeyPatch, system: str, machine: str) -> None:
    monkeypatch.setattr(sys, "platform", system)
    monkeypatch.setattr("platform.machine", lambda: machine)
    with pytest.raises(DeviceError, match=f"x86-64 and aarch64, not on {system} {machine}"):
        toolchain._find.__wrapped__(None, None, None)


def test_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GPUPROP_EMULATOR", "check")
    assert emulator.current().mode == "check"
    with emulator.options(order="reverse", time_limit=5):
        assert emulator.current() == emulator.Settings("check", "reverse", 1, 5)
        with emulator.options(mode="fast"):
            assert emulator.current() == emulator.Settings("fast", "reverse", 1, 5)
    monkeypatch.setenv("GPUPROP_EMULATOR", "tset")
    with pytest.raises(KernelError, match="one of fast, check, asan, ubsan, not 'tset'"):
        emulator.current()
    monkeypatch.delenv("GPUPROP_EMULATOR")
    with pytest.raises(KernelError, match="order is one of"), emulator.options(mode="fast", order="sideways"):
        pass


def test_kernels_are_found_in_the_source() -> None:
    text = """
    // __global__ void commented(int* x)
    const char* quoted = "__global__ void quoted(int* x)";
    template <typename T, int N = (3 > 2)> static __global__ void __launch_bounds__(128, (2 + 1))
    first(const T* __restrict__ x, float (*f)(int, int), int n = 3, float4 v[2]) {}
    extern "C" __global__ __launch_bounds__(64) void second() {}
    __global__ void declared(int a);
    #define MAKE(name) __global__ void name(int a) {}
    """
    kernels = source.find_kernels(text)
    assert [(k.name, k.template) for k in kernels] == [
        ("first", True),
        ("second", False),
        ("declared", False),
    ]
    assert kernels[0].parameters[0] == "x"
    assert kernels[0].parameters[2:] == ("n", "v")


def test_variables_are_read_from_the_symbol_table() -> None:
    symbols = """\
0000000000005f70 b _ZGVZN12_GLOBAL__N_16kernelEPKfE4tile
0000000000006000 0000000000000200 b _ZZN12_GLOBAL__N_16kernelILi4EEEvPKfE4tile
0000000000006200 0000000000000110 b _ZZN12_GLOBAL__N_15inner6reduceIfEEvPKfE4part_0
0000000000006400 0000000000000020 d _ZN12_GLOBAL__N_15tableE
0000000000006500 0000000000000010 r _ZN12_GLOBAL__N_15constE
"""
    padded = {line.split()[3] for line in symbols.splitlines() if "_ZZN" in line and "_ZGV" not in line}
    found = [(v.name, v.function, v.offset, v.size) for v in symbol_table.find_variables(symbols, padded)]
    assert found == [
        ("", symbol_table.GUARD, 0x5F70, 8),
        ("tile", "kernel", 0x6000, 256),
        ("part", "reduce", 0x6200, 16),
        ("table", "", 0x6400, 32),
    ]


@needs_compiler
@pytest.mark.full
@pytest.mark.parametrize("mode", ["ubsan", "asan"])
def test_the_sanitizers(mode: str) -> None:
    """Mode asan needs a process of its own, with the library loaded first."""
    program = """
import numpy as np
from gpuprop.backend import emulator
text = '''extern "C" __global__ void k(const float* x, int* y, int n) {
  __shared__ float s[4];
  s[threadIdx.x % n] = 1;
  y[0] = (1 << n) + (int)s[0];
}'''
module = emulator.load(text, "k.cu")
y = np.zeros(1, np.int32)
module.launch("k", 1, 8, (y.view(np.float32), y, np.int32(4)))
assert y[0] == 17
for _ in range(2):  # the same place is reported again
    try:
        module.launch("k", 1, 8, (y.view(np.float32), y, np.int32(40)))
    except emulator.EmulatorError as error:
        print(error)
    else:
        raise SystemExit("not found")
module.launch("k", 1, 8, (y.view(np.float32), y, np.int32(4)))
"""
    environment = os.environ | {"GPUPROP_EMULATOR": mode}
    if mode == "asan":
        tools = toolchain.find()
        command = [tools.compiler, f"-print-file-name={tools.asan}"]
        library = subprocess.run(command, capture_output=True, text=True).stdout.strip()
        environment |= {
            "LD_PRELOAD": library,
            "ASAN_OPTIONS": "detect_leaks=0:halt_on_error=0:suppress_equal_pcs=0",
        }
    done = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.count("k.cu:3") >= 2
