"""cuBLAS on handles of our own: the library that CuPy brings, called through ctypes.

CuPy refuses products on its own handle while a stream is captured. cuBLAS itself allows them as long as it
need not allocate: the handle's stream is set before every call and then, as setting it takes the workspace
away, the workspace (NVIDIA, cuBLAS documentation, sections on CUDA graphs and cublasSetWorkspace).
"""

from __future__ import annotations

import ctypes
import functools
import importlib
import threading
from typing import Any

from ..errors import DeviceError, KernelError
from . import cuda_setup
from .gemm_layout import Plan

WORKSPACE = 32 << 20  # bytes a stream, what NVIDIA recommends for compute capability 9
DEFAULT_ALGORITHM = -1
# cudaDataType_t (library_types.h) and cublasComputeType_t (cublas_api.h)
DATA_TYPES = {"float32": 0, "float64": 1, "float16": 2, "bfloat16": 14}
COMPUTE_32F, COMPUTE_64F, COMPUTE_32F_FAST_TF32 = 68, 70, 77
STATUS = {
    1: "NOT_INITIALIZED", 3: "ALLOC_FAILED", 7: "INVALID_VALUE", 8: "ARCH_MISMATCH", 11: "MAPPING_ERROR",
    13: "EXECUTION_FAILED", 14: "INTERNAL_ERROR", 15: "NOT_SUPPORTED", 16: "LICENSE_ERROR",
}  # fmt: skip
NOT_SUPPORTED = 15

_P, _I, _L, _SIZE = ctypes.c_void_p, ctypes.c_int, ctypes.c_int64, ctypes.c_size_t
_GEMM = (_P, _I, _I, _L, _L, _L, _P)
SIGNATURES: dict[str, dict[str, tuple[Any, ...]]] = {
    "cublas": {
        "cublasCreate_v2": (ctypes.POINTER(_P),),
        "cublasSetStream_v2": (_P, _P),
        "cublasSetWorkspace_v2": (_P, _P, _SIZE),
        "cublasGemmEx_64": (*_GEMM, _P, _I, _L, _P, _I, _L, _P, _P, _I, _L, _I, _I),
        "cublasGemmStridedBatchedEx_64": (
            *_GEMM, _P, _I, _L, _L, _P, _I, _L, _L, _P, _P, _I, _L, _L, _L, _I, _I,
        ),
    },
    "cublasLt": {
        "cublasLtCreate": (ctypes.POINTER(_P),),
        "cublasLtMatmulDescCreate": (ctypes.POINTER(_P), _I, _I),
        "cublasLtMatmulDescSetAttribute": (_P, _I, _P, _SIZE),
        "cublasLtMatrixLayoutCreate": (ctypes.POINTER(_P), _I, ctypes.c_uint64, ctypes.c_uint64, _L),
        "cublasLtMatrixLayoutSetAttribute": (_P, _I, _P, _SIZE),
        "cublasLtMatmulPreferenceCreate": (ctypes.POINTER(_P),),
        "cublasLtMatmulPreferenceSetAttribute": (_P, _I, _P, _SIZE),
        "cublasLtMatmulPreferenceDestroy": (_P,),
        "cublasLtMatmulDescDestroy": (_P,), "cublasLtMatrixLayoutDestroy": (_P,),
        "cublasLtMatmulAlgoGetHeuristic": (_P, _P, _P, _P, _P, _P, _P, _I, _P, ctypes.POINTER(_I)),
        "cublasLtMatmul": (_P, _P, _P, _P, _P, _P, _P, _P, _P, _P, _P, _P, _P, _P, _SIZE, _P),
    },
}  # fmt: skip


@functools.cache
def library(name: str) -> Any:
    """The shared library "cublas" or "cublasLt", its functions with their argument types."""
    found = _load(name)
    for function, arguments in SIGNATURES[name].items():
        getattr(found, function).argtypes = arguments
        getattr(found, function).restype = ctypes.c_int
    return found


def _load(name: str) -> Any:
    reasons = []
    try:
        pathfinder = importlib.import_module("cuda.pathfinder")  # which CuPy needs, too
        return ctypes.CDLL(pathfinder.load_nvidia_dynamic_lib(name).abs_path)
    except Exception as error:
        reasons.append(str(error).splitlines()[0])
    for version in (13, 12):
        try:
            return ctypes.CDLL(f"lib{name}.so.{version}")
        except OSError as error:
            reasons.append(str(error))
    raise DeviceError(
        f"{name}, which multiplies matrices, does not load: {'; '.join(reasons)}. "
        "Fix: pip install 'cupy-cuda13x[ctk]' (or cupy-cuda12x[ctk])"
    )


def check(status: int, what: str) -> None:
    """KernelError with cuBLAS's name for a status that is not 0."""
    if status:
        raise KernelError(f"{what}: CUBLAS_STATUS_{STATUS.get(status, status)}")


class Handle:
    """A cuBLAS handle of one thread and GPU, with a workspace for each stream it was used on."""

    def __init__(self) -> None:
        self.value = ctypes.c_void_p()
        check(library("cublas").cublasCreate_v2(ctypes.byref(self.value)), "cublasCreate")
        self._workspaces: dict[int, Any] = {}

    def on_current_stream(self) -> Handle:
        """Point the handle at CuPy's current stream; returns self."""
        stream = current_stream()
        check(library("cublas").cublasSetStream_v2(self.value, stream), "cublasSetStream")
        pointer = self.workspace(stream).ptr
        check(library("cublas").cublasSetWorkspace_v2(self.value, pointer, WORKSPACE), "cublasSetWorkspace")
        return self

    def workspace(self, stream: int) -> Any:
        """Memory that products on this stream may scribble on. It is outside every pool and stays until
        `forget`."""
        memory = self._workspaces.get(stream)
        if memory is None:
            cuda = cuda_setup.import_cupy().cuda
            memory = self._workspaces[stream] = cuda.MemoryPointer(cuda.Memory(WORKSPACE), 0)
        return memory

    def forget(self, stream: int) -> None:
        """Free the workspace of a stream that is used no more."""
        self._workspaces.pop(stream, None)


class _Handles(threading.local):
    def __init__(self) -> None:
        self.of: dict[int, Handle] = {}


_handles = _Handles()


def handle(device: int) -> Handle:
    """This thread's handle for GPU `device`, which has to be the current one."""
    found = _handles.of.get(device)
    if found is None:
        found = _handles.of[device] = Handle()
    return found


def prepare(device: int, stream: int) -> None:
    """Make the workspace that products on a stream need, before it is captured, where there are products."""
    if device in _handles.of:
        _handles.of[device].workspace(stream)


def forget(stream: int) -> None:
    """Free the workspaces of a stream that is used no more."""
    for of in _handles.of.values():
        of.forget(stream)


def current_stream() -> int:
    """The address of CuPy's current stream."""
    return int(cuda_setup.import_cupy().cuda.get_current_stream().ptr)


def compute_type(dtype: Any, tf32: bool) -> int:
    """What sums are held in: float64 for float64, else float32. tf32: of float32, 10 bits of each factor's
    fraction count."""
    if dtype.name == "float64":
        return COMPUTE_64F
    return COMPUTE_32F_FAST_TF32 if tf32 and dtype.name == "float32" else COMPUTE_32F


@functools.cache
def number(value: float, dtype: Any) -> Any:
    """alpha or beta, in the type of the sums."""
    return (ctypes.c_double if dtype.name == "float64" else ctypes.c_float)(value)


def gemm(device: int, plan: Plan, p: Any, q: Any, d: Any, compute: int) -> None:
    """D = op(P) op(Q) on CuPy arrays of GPU `device`, the current one, as `plan` describes them."""
    of = handle(device).on_current_stream()
    one, zero = number(1.0, p.dtype), number(0.0, p.dtype)
    first, second, third = (
        (x.data.ptr, DATA_TYPES[x.dtype.name], at.ld)
        for x, at in ((p, plan.p), (q, plan.q), (d, plan.d))
    )  # fmt: skip
    head = (of.value, int(plan.p.transposed), int(plan.q.transposed), plan.m, plan.n, plan.k)
    if plan.batch == 1:
        status = library("cublas").cublasGemmEx_64(
            *head, ctypes.byref(one), *first, *second, ctypes.byref(zero), *third, compute, DEFAULT_ALGORITHM
        )
    else:
        status = library("cublas").cublasGemmStridedBatchedEx_64(
            *head, ctypes.byref(one), *first, plan.p.stride, *second, plan.q.stride, ctypes.byref(zero),
            *third, plan.d.stride, plan.batch, compute, DEFAULT_ALGORITHM,
        )  # fmt: skip
    if status:
        check(status, f"cuBLAS product of {plan}")
