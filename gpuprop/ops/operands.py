"""What operations accept beside tensors: numbers, NumPy or CuPy arrays, lists."""

from __future__ import annotations

from typing import Any

import numpy as np

from ..backend.arrays import Array, device_of, to_device
from ..backend.staging import on_device
from ..tensors import Tensor


def is_array(x: Any) -> bool:
    """True for NumPy and CuPy arrays (and NumPy scalars), False for Python numbers."""
    return hasattr(x, "dtype") and hasattr(x, "shape")


def data_of(x: Any) -> Any:
    """The array behind a tensor; anything else unchanged."""
    return x.data if isinstance(x, Tensor) else x


def beside(x: Any, other: Any) -> Array:
    """The array behind `x`, moved to where `other` lives: masks, ids and targets may come from the host."""
    array, device = data_of(x), device_of(data_of(other))
    if not is_array(array):
        array = np.asarray(array)
    there = on_device(array, device.index) if device.type == "cuda" else None
    return to_device(array, device) if there is None else there
