"""The one door for every matrix product, so that its precision, its library and its threads are chosen in one
place.

On a CPU, OpenBLAS shares a product over its own threads, which wait for each other by spinning: on a quiet
machine that is fast, but where cores are shared a step takes fifty times as long. Large products are
therefore cut into one piece a thread here, and each piece is computed by one thread of the library.
"""

from __future__ import annotations

import contextlib
import importlib
import sys
from collections.abc import Iterator

import numpy as np

from .arrays import Array, get_xp
from .buffers import empty
from .half import is_half
from .threads import at_once, blas_on_one_thread, can_hold_blas, pieces

LIBRARY_SPLITS = 1 << 18  # multiplications up to which OpenBLAS uses one thread anyway
LEAST = 1 << 22  # multiplications a piece below which handing it to another thread does not pay


def matmul(a: Array, b: Array, out: Array | None = None) -> Array:
    """a @ b for stacks of matrices: (..., M, K) @ (..., K, N) -> (..., M, N), into `out` if given.

    Half types are multiplied and added up in float32, and the result is rounded once.
    """
    if isinstance(a, np.ndarray) and (is_half(a.dtype) or is_half(b.dtype)):
        return _half(a, b, out)
    if not isinstance(a, np.ndarray) or a.ndim < 2 or b.ndim < 2 or a.size * b.shape[-1] <= LIBRARY_SPLITS:
        return a @ b if out is None else get_xp(a).matmul(a, b, out=out)
    if out is None:
        lead = np.broadcast_shapes(a.shape[:-2], b.shape[:-2])
        out = empty(np, (*lead, a.shape[-2], b.shape[-1]), np.result_type(a, b))
    if a.shape[-1] == 1:  # an outer product: OpenBLAS takes three times as long as the multiplications
        return np.multiply(a, b, out=out)
    if not can_hold_blas():
        return np.matmul(a, b, out=out)
    if a.ndim > 2 or b.ndim > 2:
        return _stacks(a, b, out)
    (rows, inner), columns = a.shape, b.shape[1]
    by_rows = rows >= columns
    cut = pieces(rows if by_rows else columns, rows * inner * columns, LEAST)
    if len(cut) == 1:
        with blas_on_one_thread():
            return np.matmul(a, b, out=out)

    def work(start: int, stop: int) -> None:
        part = slice(start, stop)
        if by_rows:
            np.matmul(a[part], b, out=out[part])
        else:
            np.matmul(a, b[:, part], out=out[:, part])

    at_once(work, cut, products=True)
    return out


@contextlib.contextmanager
def tf32_products() -> Iterator[None]:
    """Inside, float32 products on a GPU use its tensor cores: 10 bits of each factor's fraction, float32
    sums. Nothing changes on a CPU."""
    if "cupy" not in sys.modules:
        yield
        return
    core = importlib.import_module("cupy._core")
    before = core.get_compute_type(np.float32)
    core.set_compute_type(np.float32, core._routines_linalg.COMPUTE_TYPE_TF32)
    try:
        yield
    finally:
        core.set_compute_type(np.float32, before)


def _half(a: Array, b: Array, out: Array | None) -> Array:
    y = matmul(a.astype(np.float32), b.astype(np.float32))
    if out is None:
        return y.astype(a.dtype if a.dtype == b.dtype else np.float32, copy=False)
    out[...] = y
    return out


def _stacks(a: Array, b: Array, out: Array) -> Array:
    """Stacks of matrices: cut along the first axis where both have it."""
    alike = a.ndim == b.ndim and a.shape[0] == b.shape[0]
    cut = pieces(a.shape[0], a.size * b.shape[-1], LEAST) if alike else []
    if len(cut) < 2:
        with blas_on_one_thread():
            return np.matmul(a, b, out=out)

    def work(start: int, stop: int) -> None:
        np.matmul(a[start:stop], b[start:stop], out=out[start:stop])

    at_once(work, cut, products=True)
    return out


def rows(x: Array) -> Array:
    """x (..., N) as a matrix of rows (-1, N): one large product instead of a batch of small ones."""
    return x.reshape(-1, x.shape[-1])
