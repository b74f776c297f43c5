"""Masks of real tokens: True = real."""

from __future__ import annotations

from typing import Any

import numpy as np

from ..backend.arrays import Array
from .operands import beside


def real_tokens(mask: Any, other: Any) -> Array | None:
    """The mask as bool on the device of `other`; None where there is no mask, or where a look on the host
    shows that every token is real (on a GPU a look would have to wait)."""
    if mask is None:
        return None
    mask = beside(mask, other)
    if mask.dtype != bool:
        mask = mask != 0
    return None if isinstance(mask, np.ndarray) and mask.all() else mask
