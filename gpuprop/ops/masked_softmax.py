"""Softmax over the keys that a query sees, and its gradient, on plain arrays and in place."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from ..backend.arrays import Array, get_xp
from ..backend.gemm import matmul as product
from ..backend.gemm import rows
from .rowwise import row_dots

LARGEST = 60.0  # e^±60 is far from both ends of float32, also when thousands of them are added
FEW = 1 << 12  # elements


def hide(mask: Array | None, dtype: Any) -> Array | None:
    """What is added to the energies: 0 for a real key (True in the mask), -∞ for any other."""
    if mask is None:
        return None
    number = np.dtype(dtype).type
    return get_xp(mask).where(mask, number(0), number(-math.inf))


def softmax_over_keys(energy: Array, hidden: Array | None) -> None:
    """Softmax of energy + hidden (see `hide`) over the last axis, into `energy`; 0 where all is hidden."""
    xp = get_xp(energy)
    if energy.size == 0:
        return
    moderate = _moderate(energy)
    if hidden is not None:
        energy += hidden
    if not moderate:  # the largest is taken out, so that no exponential overflows
        top = energy.max(axis=-1, keepdims=True)
        if hidden is not None:
            xp.copyto(top, 0, where=top == -math.inf)  # by an index a GPU would have to be waited for
        energy -= top
    xp.exp(energy, out=energy)
    ones = xp.ones((energy.shape[-1], 1), energy.dtype)
    total = product(rows(energy), ones).reshape(*energy.shape[:-1], 1)  # faster than a sum
    xp.copyto(total, 1, where=total == 0)
    energy /= total


def _moderate(energy: Array) -> bool:
    """Whether a look shows that no e^energy overflows or vanishes. It costs less than each row's largest,
    except where there are few; a GPU would have to wait for it."""
    if not isinstance(energy, np.ndarray) or energy.dtype.itemsize < 4 or energy.size < FEW:
        return False
    return bool(energy.max() <= LARGEST and energy.min() >= -LARGEST)


def softmax_gradient(weights: Array, dweights: Array, out: Array | None = None) -> Array:
    """A (dA - Σ A dA), in a new array or in `out`, which may be dA."""
    denergy = get_xp(weights).subtract(dweights, row_dots(weights, dweights), out=out)
    denergy *= weights
    return denergy
