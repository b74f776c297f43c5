"""Runs the products of `fake_cublas.cpp` as launches of the fake CuPy."""

from __future__ import annotations

import ctypes
import functools
import hashlib
import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import Any

from fake_cupy import machine_now

from gpuprop.backend import cublas

SIZES = {0: 4, 1: 8, 2: 2, 14: 2}  # bytes of an element, by cudaDataType_t
SOURCE = Path(__file__).with_name("fake_cublas.cpp")


@functools.cache
def build() -> Any:
    """The library, compiled once a content."""
    digest = hashlib.sha256(SOURCE.read_bytes()).hexdigest()[:16]
    path = Path(tempfile.gettempdir()) / f"gpuprop-fake-cublas-{digest}.so"
    if not path.exists():
        compiler = shutil.which("g++") or shutil.which("clang++")
        assert compiler is not None
        with tempfile.TemporaryDirectory(dir=path.parent) as folder:
            made = Path(folder) / "fake.so"
            subprocess.run([compiler, "-O2", "-shared", "-fPIC", "-o", str(made), str(SOURCE)], check=True)
            made.replace(path)
    found = ctypes.CDLL(str(path))
    for signatures in cublas.SIGNATURES.values():
        for name, arguments in signatures.items():
            getattr(found, name).argtypes = arguments
    found.fake_copy_description.argtypes = (ctypes.c_void_p,)
    found.fake_copy_description.restype = ctypes.c_void_p
    found.fake_sizes.argtypes = (*[ctypes.c_void_p] * 4, ctypes.POINTER(ctypes.c_int64))
    found.fake_can_multiply.argtypes = (ctypes.c_void_p,)
    found.fake_last_stream.restype = ctypes.c_void_p
    return found


class FakeCublas:
    """Both libraries. Products are launches; what they would refuse at the call, they refuse at the call."""

    def __init__(self) -> None:
        self.real = build()

    def __getattr__(self, name: str) -> Any:
        return getattr(self.real, name)

    def _product(
        self, name: str, function: Any, args: tuple[Any, ...], moved: int = 0, flops: int = 0
    ) -> int:
        def work() -> None:
            status = function(*args)
            assert status == 0, f"{name}: status {status}"

        machine_now().launch(name, work, moved, flops)
        return 0

    def cublasGemmEx_64(self, *args: Any) -> int:
        if not self.real.fake_can_multiply(args[0]):
            return 3
        m, n, k = args[3:6]
        a, b, c = (SIZES[args[i]] for i in (8, 11, 15))
        moved = m * k * a + k * n * b + m * n * c
        return self._product("gemm", self.real.cublasGemmEx_64, args, moved, 2 * m * n * k)

    def cublasGemmStridedBatchedEx_64(self, *args: Any) -> int:
        if not self.real.fake_can_multiply(args[0]):
            return 3
        (m, n, k), batch = args[3:6], args[20]
        a, b, c = (SIZES[args[i]] for i in (8, 12, 17))
        times = [batch if args[i] else 1 for i in (10, 14)]  # a stride of 0 repeats
        moved = times[0] * m * k * a + times[1] * k * n * b + batch * m * n * c
        function = self.real.cublasGemmStridedBatchedEx_64
        return self._product("gemm_batched", function, args, moved, 2 * m * n * k * batch)

    def cublasLtMatmul(self, handle: Any, description: Any, *args: Any) -> int:
        kept = self.real.fake_copy_description(description)
        found = (ctypes.c_int64 * 9)()
        self.real.fake_sizes(description, args[2], args[4], args[9], found)
        m, n, k, size, of_p, of_q, batch, sums, aux = found
        moved = (of_p * m * k + of_q * k * n + batch * m * n + sums) * size + aux
        flops = 2 * m * n * k * batch
        return self._product("gemm_epilogue", self.real.cublasLtMatmul, (handle, kept, *args), moved, flops)
