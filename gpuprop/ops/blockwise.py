"""Element-wise work in blocks that stay in a core's cache, over the threads there are."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import numpy as np

from ..backend.arrays import Array, get_xp
from ..backend.buffers import empty
from ..backend.half import is_half, wide
from ..backend.threads import over_rows

BLOCK = 1 << 17  # elements at a time: they, and what is computed on the way, stay in a core's cache
ROW = 1 << 14


def blockwise(f: Callable[..., Any], *arrays: Any, one_pass: bool = False) -> Array:
    """What f(*arrays, out) writes to `out`, an array like the first, for an f that works element by element.

    arrays: NumPy or CuPy arrays of one shape; half types are computed as `computed` says.
    one_pass: see `in_blocks`.
    """
    one_pass = one_pass or isinstance(f, np.ufunc)
    first = computed(arrays[0])
    y = empty(get_xp(first), first.shape, first.dtype)
    if first is arrays[0]:
        in_blocks(f, *arrays, y, one_pass=one_pass)
        return y
    others = (a if a.dtype == bool else computed(a) for a in arrays[1:])
    in_blocks(f, first, *others, y, one_pass=one_pass)
    return kept_type(y, arrays[0])


def computed(x: Any) -> Array:
    """x in the type in which functions of it are computed: float32 for bfloat16, and for float16 on a CPU;
    float64 for integers, as in NumPy; else its own."""
    if not hasattr(x, "dtype"):
        return np.asarray(x, np.float64)
    if x.dtype.kind in "biu":
        return x.astype(np.float64)
    on_cpu = isinstance(x, np.ndarray | np.generic)
    return wide(x) if is_half(x.dtype) and (on_cpu or x.dtype.kind != "f") else x


def kept_type(y: Array, x: Any) -> Array:
    """y, which was computed from `computed(x)`, in the type of x where that is floating-point."""
    return y.astype(x.dtype, copy=False) if hasattr(x, "dtype") and x.dtype.kind not in "biu" else y


def in_blocks(f: Callable[..., Any], *arrays: Array, one_pass: bool = False) -> None:
    """f(*arrays), some of which f writes to; large NumPy arrays, of one shape, in blocks.

    one_pass: f reads each element once, as a ufunc does, so that blocks save nothing.
    """
    first = arrays[0]
    if first.size <= BLOCK or not isinstance(first, np.ndarray):
        f(*arrays)
        return
    flat = all(a.flags.c_contiguous for a in arrays)
    parts: list[Any] = [a.reshape(-1) if flat else a for a in arrays]
    count = parts[0].shape[0]
    step = count if one_pass else max(1, BLOCK * count // first.size)

    def work(start: int, stop: int) -> None:
        for i in range(start, stop, step):
            f(*(p[i : min(i + step, stop)] for p in parts))

    over_rows(work, count, first.size)


def alike(a: Any, b: Any) -> bool:
    """Whether both are arrays of one shape and one floating-point type."""
    known = hasattr(a, "dtype") and hasattr(b, "dtype")
    return known and a.shape == b.shape and a.dtype == b.dtype and a.dtype.kind not in "biu"


def maximum_with_zero(x: Array, out: Array) -> None:
    """max(x, 0) into `out`, which may be x. NumPy compares two arrays three times as fast as an array and a
    number: zeros stand for the number."""
    if isinstance(x, np.ndarray) and x.flags.c_contiguous and out.flags.c_contiguous:
        zeros = _zeros(x.dtype)
        x, out = x.reshape(-1), out.reshape(-1)
        whole = x.size - x.size % ROW
        if whole:
            np.maximum(x[:whole].reshape(-1, ROW), zeros, out=out[:whole].reshape(-1, ROW))
        if whole < x.size:
            np.maximum(x[whole:], zeros[: x.size - whole], out=out[whole:])
    else:
        get_xp(x).maximum(x, 0, out=out)


@functools.cache
def _zeros(dtype: Any) -> Array:
    return np.zeros(ROW, dtype)
