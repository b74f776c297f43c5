"""Rows of matrices (N, C): sums, numbers against rows, exponentials that do not overflow, in the forms that
NumPy is fastest with."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from ..backend.arrays import Array, get_xp, is_cupy
from ..backend.gemm import matmul as product
from ..backend.half import is_half, total
from ..backend.threads import host_size, over_rows

ROW_BLOCK = 1 << 17  # elements at a time: what stays in a core's cache
NARROW = 5  # columns up to which a column at a time is faster than a row at a time
LONG = 512  # columns from which a row at a time is faster than a buffer of several
WIDE = 32  # columns from which a row's products are summed as they are made
FEW = 1 << 13  # elements of at most 64 rows up to which the number of calls is what counts
LEAST, MOST = 1e-18, 1e18  # of sums of exponentials: quotients of two of them are numbers in float32 too

_vecdot: Any = getattr(np, "vecdot", None)  # since NumPy 2


def row_blocks(x: Array, start: int, stop: int) -> Iterator[slice]:
    """Blocks of the rows start..stop of x (N, C); on a GPU all of them at once."""
    size = max(1, ROW_BLOCK // max(1, x.shape[1])) if isinstance(x, np.ndarray) else max(1, stop - start)
    for i in range(start, stop, size):
        yield slice(i, min(i + size, stop))


def over_row_blocks(work: Callable[[slice], None], x: Array) -> None:
    """work(part) for blocks of the rows of x (N, C), over the threads there are."""
    if x.size <= ROW_BLOCK:
        if x.size:
            work(slice(0, len(x)))
        return

    def piece(start: int, stop: int) -> None:
        for part in row_blocks(x, start, stop):
            work(part)

    over_rows(piece, len(x), 2 * host_size(x), products=True)


def row_sums(x: Array) -> Array:
    """Σ over the columns of x (N, C) as (N, 1): a product with ones, which is faster than a sum."""
    if few(x):
        return np.add.reduce(x, axis=1, keepdims=True)
    return product(x, get_xp(x).ones((x.shape[1], 1), x.dtype))


def few(x: Array) -> bool:
    """Whether NumPy rows x (N, C) are so few that calls cost more than what they compute."""
    return isinstance(x, np.ndarray) and x.size <= FEW and len(x) <= 64


def row_dots(a: Array, b: Array) -> Array:
    """Σ a b over the last axis, which stays as 1."""
    if is_half(a.dtype) or is_cupy(a):  # einsum does not know bfloat16, nor may CuPy's be captured
        return total(a * b, -1, keepdims=True)
    if a.ndim == 2 and a.shape[1] < WIDE:
        return row_sums(a * b)
    if _vecdot is not None:
        return _vecdot(a, b)[..., None]
    return np.einsum("...i,...i->...", a, b)[..., None]


class RowAtATime:
    """Inside, NumPy broadcasts against rows (N, C) a row at a time. By itself it copies what is broadcast to
    fill a buffer of 8192 elements, which takes twice as long as the operation where C >= `LONG`."""

    __slots__ = ("before",)

    def __enter__(self) -> None:
        self.before = np.setbufsize(16)

    def __exit__(self, *_: object) -> None:
        np.setbufsize(self.before)


def against_rows(f: Callable[..., Any], x: Array, numbers: Array, out: Array) -> None:
    """f(x, numbers, out) for an element-wise f of x (N, C) and a number a row, (N, 1)."""
    if not isinstance(x, np.ndarray):
        f(x, numbers, out)
    elif 1 < x.shape[1] <= NARROW:
        for c in range(x.shape[1]):
            f(x[:, c], numbers[:, 0], out[:, c])
    elif x.shape[1] >= LONG and x.dtype == numbers.dtype == out.dtype:
        with RowAtATime():
            f(x, numbers, out)
    else:
        f(x, numbers, out)


def exponentials(x: Array, out: Array) -> tuple[Array, Array | None]:
    """e^(x - m) of NumPy rows x (N, C) into `out`; their sums, and m, both (N, 1).

    m is the largest of a row where there are few; else it is 0, which saves two passes, except in rows whose
    sum would overflow or vanish. None in place of m where it is 0 everywhere.
    """
    if few(x) and x.size:
        m = np.maximum.reduce(x, axis=1, keepdims=True)
        np.subtract(x, m, out, dtype=out.dtype)
        np.exp(out, out)
        return row_sums(out), m
    source = x if x.dtype == out.dtype else out
    if source is out:
        out[...] = x
    with np.errstate(over="ignore"):
        np.exp(source, out)
        sums = row_sums(out)
    if x.size == 0 or (np.minimum.reduce(sums, None) > LEAST and np.maximum.reduce(sums, None) < MOST):
        return sums, None
    rows = np.flatnonzero(~((sums > LEAST) & (sums < MOST)))
    large = x[rows].astype(out.dtype, copy=False)
    m = np.zeros_like(sums)
    m[rows] = large.max(axis=1, keepdims=True)
    out[rows] = np.exp(large - m[rows])
    sums[rows] = row_sums(out[rows])
    return sums, m


def cross_entropy_rows(
    z: Array, labels: Array, factor: float | Array, out: Array, wants_gradient: bool
) -> Array:
    """The losses -ln p_it (N,), p = softmax(z), of NumPy rows z (N, C) with classes t = labels (N,).

    factor: of each row's loss in what is differentiated, (N,) or one for all; where the gradient is wanted,
    out_ic = factor_i (p_ic - [c = t]). out (N, C), contiguous, is overwritten in any case.
    """
    n, classes = z.shape
    places = np.arange(0, n * classes, classes)
    places += labels
    flat = out.reshape(-1)
    if few(z):  # as in `exponentials`, and of the labels before they are exponentials
        np.subtract(z, np.maximum.reduce(z, axis=1, keepdims=True), out, dtype=out.dtype)
        shifted = flat.take(places)
        np.exp(out, out)
        sum_of = np.matmul(out, np.ones(classes, out.dtype))
        losses = np.log(sum_of) - shifted
        of_label = flat.take(places)
    else:
        sums, m = exponentials(z, out)
        of_label, sum_of = flat.take(places), sums[:, 0]
        if of_label.min() > LEAST:
            losses = np.log(sum_of / of_label)
        else:  # some labels have a probability near 0
            losses = np.log(sum_of) - (z if m is None else z - m)[np.arange(n), labels]
    if wants_gradient:
        scale = factor / sum_of
        against_rows(np.multiply, out, scale[:, None], out)
        flat[places] = of_label * scale - factor
    return losses
