"""Every kernel compiles, in every type it is launched with, for every architecture: no GPU, no driver."""

from __future__ import annotations

import re

import numpy as np
import pytest
from cubins import FILES, QUICK, is_hot, names_in

from gpuprop.backend import nvrtc
from gpuprop.backend.instantiations import ATTENTION_WIDTHS
from gpuprop.backend.occupancy import occupancy
from gpuprop.errors import BuildError
from gpuprop.ops import attention_sizes
from gpuprop.ops.softmax_cross_entropy_kernels import PACKS, SLAB_BYTES, SLAB_THREADS
from gpuprop.ops.softmax_cross_entropy_kernels import THREADS as THREADS_OF_ROWS

pytestmark = pytest.mark.skipif(not nvrtc.available(), reason=nvrtc.MISSING)
THREADS = {"sort_ids": 1024, "softmax_cross_entropy_slab": SLAB_THREADS, "add_sorted_rows": 64}  # else 256
THREADS |= {f"{cell}_sequence_{way}": 384 for cell in ("gru", "lstm") for way in ("forward", "backward")}
THREADS |= {f"conv1d_depthwise_{way}": n for way, n in (("forward", 128), ("backward", 128), ("sum", 1024))}


def of_attention(width):
    """The kernels on tensor cores for matrices of that many columns."""
    shape, dtype = (attention_sizes.SHORT, width), np.dtype(np.float16)
    yield attention_sizes.forward(shape, shape, dtype, True)
    yield attention_sizes.backward(shape, shape, dtype, True, 227 << 10)


NORM = r"(residual_)?layer_norm_"
DYNAMIC = (  # bytes of shared memory, at most
    (r"softmax_cross_entropy_slab", SLAB_THREADS * (SLAB_BYTES + 4)),
    (r"softmax_cross_entropy_row<.*, (32|256)>", PACKS * THREADS_OF_ROWS * 16),
    (NORM + r"backward_warp<(float, .*, 8|__.*, 4)>", 8 * 2 * 32 * 32 * 4),
    (r"attention_backward<", attention_sizes.SHORT * attention_sizes.COLUMNS * 4),
    *((k.name.replace("__half", ".*"), k.shared) for w in ATTENTION_WIDTHS for k in of_attention(w)),
    (r"", 0),
)
DECLARED = {"attention_backward": attention_sizes.DECLARED}
# Warps that a multiprocessor holds at least, by the first pattern that fits. A memory of 4.3 TB/s that
# answers after 0.7 µs wants 23 KB asked for at each of 132 multiprocessors: 32 warps with twice 16 bytes a
# lane, or fewer with more.
LEAST_WARPS = (
    (r"attention_backward(_query|_key)?<.*, 64>", 8),  # e, da and sums at once: registers for one block
    (r"attention_tensor_cores_.*, 128>", 8),  # 64 sums a lane of a result, and as much around them
    (r"attention_", 16),  # one block multiplies while another loads
    (r"conv1d_(forward|backward_input|backward_weight)<", 16),  # the same
    (r"conv1d_relu_max_(forward|backward_weight)<", 16),  # the same, and loads ahead into registers
    (r"conv1d_tensor_cores<", 16),  # 64 sums a lane; what it copies next is on its way without registers
    (r"conv1d_depthwise_forward", 16),  # a window of K rows in registers, and 64 bytes on their way
    (r"conv1d_depthwise_backward", 12),  # a window of two texts and K sums, and 64 bytes on their way
    (NORM + r"backward_warp<(float, .*, [48]|__.*, [24])>", 16),  # a lane asks for 128 bytes at once, or 256
    (NORM + r"forward_warp<(float, .*, 8|__.*, 4)>", 24),  # a lane asks for 64 bytes and more at once
    (r"softmax_cross_entropy_slab<", 16),  # 64 classes: a block asks for 33 KB at once, and holds them
    (r"(gru|lstm)_sequence_", 12),  # a block a multiprocessor: its weights take the shared memory
    (r"(gru|lstm)_cluster_", 8),  # the same
    (r"", 32),
)


def gates():
    """Every file for every architecture; for two of them, unless all tests run."""
    for name in FILES:
        for arch in nvrtc.ARCHITECTURES:
            yield pytest.param(name, arch, marks=() if arch in QUICK else pytest.mark.full)


@pytest.mark.parametrize(("name", "arch"), list(gates()))
def test_compiles(name, arch, cubins):
    info = cubins.compiled(name, arch)
    assert info.cubin[:4] == b"\x7fELF"
    assert [kernel.name for kernel in info.kernels] == names_in(name, arch)
    for kernel in info.kernels:
        assert kernel.arch == arch
        assert 0 < kernel.registers <= 255
        assert kernel.shared_bytes <= DECLARED.get(kernel.name.partition("<")[0], 48 * 1024)
        if is_hot(kernel.name):
            assert (kernel.stack_bytes, kernel.spill_stores, kernel.spill_loads) == (0, 0, 0), kernel
            if arch in QUICK:
                assert warps_of(kernel) >= least_warps(kernel.name), kernel


def warps_of(kernel):
    """That a multiprocessor holds."""
    name = kernel.name.partition("<")[0]
    shared = kernel.shared_bytes + next(size for pattern, size in DYNAMIC if re.match(pattern, kernel.name))
    threads = 1024 if kernel.name.endswith(", 1024>") else THREADS.get(name, 256)
    return occupancy(kernel.arch, threads, kernel.registers, shared).warps


def least_warps(name):
    return next(warps for pattern, warps in LEAST_WARPS if re.match(pattern, name))


@pytest.mark.parametrize("name", FILES)
def test_every_kernel_is_in_the_table(name):
    """A kernel that no instantiation names would be neither compiled here nor listed."""
    groups = FILES[name].instantiations.values()
    assert {expression.partition("<")[0] for group in groups for expression in group} == set(
        FILES[name].kernels
    )


def test_an_error_names_the_users_file_and_line():
    with pytest.raises(
        BuildError, match=r"mine\.cu does not compile for sm_90:\nmine\.cu\(2\): error.*nothing"
    ):
        nvrtc.compile_cubin(
            'extern "C" __global__ void f(int* a) {\n  a[0] = nothing;\n}', "sm_90", filename="mine.cu"
        )


@pytest.mark.parametrize(
    ("source", "remedy"),
    [
        ("#include <math.h>\n", "NVRTC has no standard headers"),
        ("__device__ int f() { return INT_MAX; }", "NVRTC has no macros of standard headers"),
        ("__device__ int64_t x;", "are in <cuda/std/cstdint>"),
        ("__device__ uint x;", "write unsigned int"),
        ("int main() { cudaDeviceSynchronize(); }", "Python launches the kernels"),
    ],
)
def test_what_nvrtc_lacks_is_explained(source, remedy):
    with pytest.raises(BuildError, match=rf"mine\.cu does not compile(.|\n)*{remedy}"):
        nvrtc.compile_cubin(source, "sm_90", filename="mine.cu")


@pytest.mark.skipif(not nvrtc.libcudacxx(), reason="libcu++ is not installed")
def test_headers_of_libcudacxx_are_found():
    """Cooperative groups need them, and the messages above recommend them."""
    source = """
    #include <cooperative_groups.h>
    #include <cuda/std/cstdint>
    #include <cuda/std/limits>
    extern "C" __global__ void f(int64_t* a, float* b) {
      auto tile = cooperative_groups::tiled_partition<32>(cooperative_groups::this_thread_block());
      a[0] = cuda::std::numeric_limits<int>::max();
      b[0] = __int_as_float(0x7f800000) + __int_as_float(0x7fffffff) + tile.shfl_down(fmaxf(b[1], b[2]), 1);
      assert(a[0] > 0);
      printf("%f", b[0]);
    }"""
    assert nvrtc.compile_cubin(source, "sm_90").kernels[0].name == "f"


def test_resources_are_read_from_the_log():
    body = "__shared__ float s[64]; s[threadIdx.x] = a[0]; __syncthreads(); a[1] = s[63 - threadIdx.x];"
    info = nvrtc.compile_cubin('extern "C" __global__ void f(float* a) {' + body + "}", "sm_80")
    assert [(kernel.name, kernel.shared_bytes, kernel.stack_bytes) for kernel in info.kernels] == [
        ("f", 256, 0)
    ]
