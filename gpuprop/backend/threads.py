"""The threads of a CPU: a small team for rows of work, and the matrix library's own.

NumPy gives the interpreter's lock up while it computes, so Python threads can share an element-wise
operation: `over_rows` cuts it into one piece a thread. The pieces depend on the number of threads alone, so a
result has the same bits in every run. The matrix library (OpenBLAS) is held to one thread while an operation
runs; see `gemm` for why.

The number of threads is GPUPROP_THREADS, else OMP_NUM_THREADS, else the number of cores this process may use.
"""

from __future__ import annotations

import ctypes
import os
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import DataError
from .floats import flush_this_thread
from .workers import Team

LEAST = 1 << 17  # elements below which handing pieces out costs more than it saves
_NAMES = ("scipy_openblas_{}64_", "openblas_{}64_", "openblas_{}")


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _wanted() -> int:
    for variable in ("GPUPROP_THREADS", "OMP_NUM_THREADS"):
        value = os.environ.get(variable, "").split(",")[0].strip()
        if value:
            if not value.isdigit() or int(value) < 1:
                if variable == "OMP_NUM_THREADS":
                    continue
                raise DataError(f"{variable} is a number of threads of at least 1, not {value!r}")
            return int(value)
    return _cores()


def _blas_functions() -> tuple[Callable[[], int], Callable[[int], Any]] | None:
    """What reads and sets OpenBLAS's number of threads, in the library inside NumPy's wheel."""
    package = Path(np.__file__).parent
    folders = (package.parent / "numpy.libs", package / ".dylibs")
    for path in (p for folder in folders for p in sorted(folder.glob("*openblas*"))):
        try:
            library = ctypes.CDLL(str(path))
        except OSError:
            continue
        for name in _NAMES:
            if hasattr(library, name.format("set_num_threads")):
                return tuple(getattr(library, name.format(f)) for f in ("get_num_threads", "set_num_threads"))
    return None


class _Local(threading.local):
    """inside: this thread works on a piece of something larger."""

    inside = False


class _Threads:
    """The team, made when first used, and who is inside it."""

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.local = _Local()
        self.blas: tuple[Callable[[], int], Callable[[int], Any]] | None = None
        self.looked_for_blas = False
        self.running = 0  # calls that hold the matrix library to one thread
        self.blas_before = 1
        self.restart()
        self.count = 0  # 0: not known yet

    def after_fork(self) -> None:
        """In a child process: the threads are gone, and so is the one that held the lock."""
        self.lock = threading.Lock()
        self.running = 0
        self.restart()

    def restart(self) -> None:
        """Forget the team; the next call makes one."""
        self.team: Team | None = None

    def workers(self) -> Team:
        with self.lock:
            if self.team is None:
                self.team = Team(self.count - 1, self.begin)
            return self.team

    def begin(self) -> None:
        """What each thread of the team does first."""
        flush_this_thread()
        self.local.inside = True

    def has_blas(self) -> bool:
        """True where the matrix library's number of threads can be set."""
        if not self.looked_for_blas:
            self.blas, self.looked_for_blas = _blas_functions(), True
        return self.blas is not None

    def hold_blas(self, step: int) -> None:
        """+1: a call begins that holds the matrix library to one thread; -1: it ends."""
        assert self.blas is not None
        get, put = self.blas
        with self.lock:
            if step > 0 and self.running == 0:
                self.blas_before = get()
                if self.blas_before != 1:
                    put(1)
            self.running += step
            if self.running == 0 and self.blas_before != 1:
                put(self.blas_before)


_threads = _Threads()
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_threads.after_fork)


def num_threads() -> int:
    """How many threads a CPU operation may use."""
    if _threads.count == 0:
        _threads.count = _wanted()
    return _threads.count


def set_num_threads(count: int) -> None:
    """Use `count` threads for operations on the CPU."""
    if isinstance(count, bool) or not isinstance(count, int) or count < 1:
        raise DataError(f"the number of threads is at least 1, not {count!r}")
    with _threads.lock:
        if _threads.team is not None:
            _threads.team.end()
        _threads.restart()
        _threads.count = count


def can_hold_blas() -> bool:
    """True where the matrix library's number of threads can be set: NumPy's own OpenBLAS."""
    return _threads.has_blas()


class _OneBlasThread:
    """Without a state of its own: a thread leaves `inside` as it was when it comes out."""

    def __enter__(self) -> None:
        if not _threads.local.inside and _threads.has_blas():
            _threads.hold_blas(1)

    def __exit__(self, *_: object) -> None:
        if not _threads.local.inside and _threads.has_blas():
            _threads.hold_blas(-1)


_one_blas_thread = _OneBlasThread()


def blas_on_one_thread() -> _OneBlasThread:
    """The matrix library uses one thread inside, where that can be set."""
    return _one_blas_thread


def host_size(x: Any) -> int:
    """The number of elements of a NumPy array, 0 for any other: only a CPU's work is cut into pieces."""
    return x.size if isinstance(x, np.ndarray) else 0


def pieces(rows: int, elements: int, least: int = LEAST) -> list[tuple[int, int]]:
    """How `rows` with `elements` numbers in all are cut: (start, stop) of each piece; one when it does not
    pay, or when this thread already works on a piece of something larger."""
    count = 1 if _threads.local.inside else min(num_threads(), rows, elements // least)
    if count <= 1:
        return [(0, rows)]
    return [(rows * k // count, rows * (k + 1) // count) for k in range(count)]


def over_rows(
    work: Callable[[int, int], None], rows: int, elements: int, *, products: bool = False, least: int = LEAST
) -> None:
    """Call work(start, stop) for pieces of `rows` rows, all at once, and wait for them.

    elements: how many numbers are computed in all; products: the work multiplies matrices.
    """
    cut = pieces(rows, elements, least)
    if len(cut) == 1 or (products and not _threads.has_blas()):
        work(0, rows)
        return
    at_once(work, cut, products)


def at_once(work: Callable[..., None], arguments: list[tuple[Any, ...]], products: bool = False) -> None:
    """work(*a) for each a, the first here and the others by the team; the first error is raised."""
    if products:
        _threads.hold_blas(1)
    _threads.local.inside = True
    try:
        _threads.workers().run(work, arguments)
    finally:
        _threads.local.inside = False
        if products:
            _threads.hold_blas(-1)
