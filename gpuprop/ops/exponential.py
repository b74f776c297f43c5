"""e^x and the logistic function on plain arrays, in the forms that NumPy is fastest with."""

from __future__ import annotations

import functools
import importlib
import math
from typing import Any

import numpy as np

from ..backend.arrays import Array, get_xp

FEW = 1 << 14  # numbers up to which calls cost more than they save


def exponential(x: Array, out: Array, factor: float) -> Array:
    """e^(factor · x) into `out`, which may be x, for numbers of which few overflow or vanish.

    In float32 on processors with AVX-512 as 2^(factor x log₂ e), for which NumPy has a function twice as fast
    (but for infinities, zeros and subnormals six times as slow: not for softmax, where keys are masked). That
    rounds the exponent, as if x had been off in its last place.
    """
    if by_powers_of_two(x, out):
        return np.exp2(np.multiply(x, factor * math.log2(math.e), out), out)
    xp = get_xp(x)
    return xp.exp(xp.multiply(x, factor, out), out)


def by_powers_of_two(x: Array, out: Array) -> bool:
    """Whether 2^x is the faster way to the exponentials of x."""
    if not isinstance(x, np.ndarray) or x.size <= FEW:
        return False
    return x.dtype == np.float32 == out.dtype and _is_exp2_vectorized()


@functools.cache
def _is_exp2_vectorized() -> bool:
    """What NumPy (2.2 and later) says of itself: its exp2 is either vectorized for AVX-512 or one number at a
    time, three times as slow as exp."""
    try:
        told: Any = importlib.import_module("numpy.lib.introspect").opt_func_info("^exp2$", "float32")
        return not told["exp2"]["ff"]["current"].startswith("baseline")
    except (ImportError, KeyError):
        return False


def logistic(x: Array, out: Array | None = None) -> Array:
    """1 / (1 + e^-x), or (1 + tanh(x / 2)) / 2, into `out` (x itself, say) or a new array, for any |x|."""
    xp = get_xp(x)
    y = xp.empty_like(x) if out is None else out
    if by_powers_of_two(x, y):
        with np.errstate(over="ignore"):
            exponential(x, y, -1.0)
        y += 1.0
        return np.divide(1.0, y, y)
    xp.multiply(x, 0.5, out=y)
    xp.tanh(y, y)
    xp.multiply(y, 0.5, y)
    return xp.add(y, 0.5, y)
