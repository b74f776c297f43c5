"""float16 and bfloat16: types in which values are stored. What adds up many of them does so in float32.

NumPy has no products of half types worth the name: on a CPU their results, computed in float32 and rounded,
stand for what a GPU's tensor cores give, so that training in half precision can be tested anywhere.
"""

from __future__ import annotations

import functools
import importlib
from typing import Any

import numpy as np

from .arrays import Array


@functools.cache
def is_half(dtype: Any) -> bool:
    """True for float16 and bfloat16."""
    return bool(dtype.itemsize == 2 and (dtype.kind == "f" or dtype.name == "bfloat16"))


def wide(x: Array) -> Array:
    """Half types as float32; anything else as it is."""
    return x.astype(np.float32) if is_half(x.dtype) else x


def total(x: Array, axis: Any = None, keepdims: bool = False) -> Array:
    """Σ x over `axis` in the type of x, added up in float32 where that is a half type."""
    if not is_half(x.dtype):
        return x.sum(axis=axis, keepdims=keepdims)
    return x.sum(axis=axis, keepdims=keepdims, dtype=np.float32).astype(x.dtype)


def kept(y: Array, *inputs: Any) -> Array:
    """y in bfloat16 where all floating-point arrays of `inputs` are: NumPy would make float32 of a bfloat16
    array and a Python number."""
    if y.dtype.char != "f":
        return y
    bfloat16 = None
    for a in inputs:
        if hasattr(a, "dtype"):
            if a.dtype.kind == "f":  # float32 is right
                return y
            bfloat16 = a.dtype if a.dtype.name == "bfloat16" else bfloat16
    return y if bfloat16 is None else y.astype(bfloat16)


def lowest(dtype: Any) -> float:
    """The smallest finite number of a floating-point type."""
    if dtype.name == "bfloat16":  # NumPy's finfo does not know it
        return float(importlib.import_module("ml_dtypes").finfo(dtype).min)
    return float(np.finfo(dtype).min)
