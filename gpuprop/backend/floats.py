"""Two settings of the process that training on a CPU needs: subnormal floats count as zero, freed pages stay.

**Subnormals.** The moments of idle weights decay into numbers under 1.2e-38, on which a CPU is up to ten
times slower. `flushed()` makes the calling thread treat them as zero while a backward pass or an optimizer
step runs, through the C library's floating-point environment (x86-64 Linux; elsewhere `CAN_FLUSH` is False
and the optimizers clear tiny moments now and then). GPUPROP_FLUSH_SUBNORMALS=0 switches it off.

**Pages.** glibc hands large freed arrays back to the system, and each new one then costs a page fault every
4 KB: several times the work of an element-wise operation. `keep_freed_pages()` tells it to keep them; the
first optimizer calls it. GPUPROP_KEEP_PAGES=0 switches it off.
"""

from __future__ import annotations

import ctypes
import functools
import os
import platform
import sys
from typing import Any

FTZ_AND_DAZ = 0x8040  # bits of MXCSR: results, and operands, that are subnormal become zero
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # from glibc's malloc.h
KEPT = 1 << 30  # bytes: arrays up to this size are reused


class _Environment(ctypes.Structure):
    """glibc's fenv_t on x86-64."""

    _fields_ = (("x87", ctypes.c_uint32 * 7), ("mxcsr", ctypes.c_uint32))


def _switched_on(variable: str) -> bool:
    return os.environ.get(variable, "1") != "0"


def _glibc() -> bool:
    return sys.platform == "linux" and platform.libc_ver()[0] == "glibc"


def _library() -> Any:
    """The C library's floating-point functions, or None where their environment is laid out otherwise."""
    wanted = _switched_on("GPUPROP_FLUSH_SUBNORMALS") and platform.machine() == "x86_64"
    if not wanted or not sys.platform.startswith("linux") or sys.maxsize < 2**32 or not _glibc():
        return None
    try:
        library = ctypes.PyDLL("libm.so.6")  # PyDLL: a call keeps the GIL, which costs less than giving it up
        for function in (library.fegetenv, library.fesetenv):
            function.argtypes, function.restype = (ctypes.POINTER(_Environment),), ctypes.c_int
    except (OSError, AttributeError):
        return None
    return library


_libm = _library()
CAN_FLUSH = _libm is not None


def flush_this_thread() -> None:
    """Subnormals are zero in this thread from now on."""
    _Flushed().__enter__()


class _Flushed:
    """What `flushed` gives: a class, since a generator costs a small backward pass a tenth of its time."""

    __slots__ = ("before", "environment")

    def __enter__(self) -> None:
        self.environment: _Environment | None = None
        if _libm is None:
            return
        environment = _Environment()
        _libm.fegetenv(environment)
        self.before = environment.mxcsr
        if self.before & FTZ_AND_DAZ != FTZ_AND_DAZ:
            environment.mxcsr = self.before | FTZ_AND_DAZ
            _libm.fesetenv(environment)
            self.environment = environment

    def __exit__(self, *_: object) -> None:
        if self.environment is not None:
            assert _libm is not None
            self.environment.mxcsr = self.before
            _libm.fesetenv(self.environment)


def flushed() -> _Flushed:
    """Subnormals are zero in this thread inside a `with` block."""
    return _Flushed()


@functools.cache
def keep_freed_pages() -> bool:
    """Let the C library keep the memory of freed arrays of up to 1 GiB; True where that can be done."""
    if not _switched_on("GPUPROP_KEEP_PAGES") or not _glibc():
        return False
    mallopt = ctypes.CDLL(None).mallopt
    return bool(mallopt(M_MMAP_THRESHOLD, KEPT)) and bool(mallopt(M_TRIM_THRESHOLD, 2**31 - 1))
