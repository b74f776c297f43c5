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
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

FTZ_AND_DAZ = 0x8040  # bits of MXCSR: results, and operands, that are subnormal become zero
MXCSR = 7  # the 32-bit word of glibc's x86-64 fenv_t that holds it
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3  # from glibc's malloc.h
KEPT = 1 << 30  # bytes: arrays up to this size are reused


class _Environment(ctypes.Structure):
    _fields_ = (("words", ctypes.c_uint32 * 8),)


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
    if _libm is not None:
        environment = _Environment()
        _libm.fegetenv(environment)
        environment.words[MXCSR] |= FTZ_AND_DAZ
        _libm.fesetenv(environment)


@contextmanager
def flushed() -> Iterator[None]:
    """Subnormals are zero in this thread inside."""
    if _libm is None:
        yield
        return
    before = _Environment()
    _libm.fegetenv(before)
    flush_this_thread()
    try:
        yield
    finally:
        _libm.fesetenv(before)


@functools.cache
def keep_freed_pages() -> bool:
    """Let the C library keep the memory of freed arrays of up to 1 GiB; True where that can be done."""
    if not _switched_on("GPUPROP_KEEP_PAGES") or not _glibc():
        return False
    mallopt = ctypes.CDLL(None).mallopt
    return bool(mallopt(M_MMAP_THRESHOLD, KEPT)) and bool(mallopt(M_TRIM_THRESHOLD, 2**31 - 1))
