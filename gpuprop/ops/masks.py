"""Masks of real tokens: True = real."""

from __future__ import annotations

from typing import Any

import numpy as np

from ..backend.arrays import Array, get_xp
from ..errors import ShapeError
from .operands import beside, data_of


def real_tokens(mask: Any, other: Any) -> Array | None:
    """The mask as bool on the device of `other`; None where there is no mask, or where a look on the host
    shows that every token is real (on a GPU a look would have to wait)."""
    if mask is None:
        return None
    mask = beside(mask, other)
    if mask.dtype != bool:
        mask = mask != 0
    return None if isinstance(mask, np.ndarray) and mask.all() else mask


def key_mask(mask: Any, query: Any, key: Any, causal: bool = False) -> Array | None:
    """One mask of real keys, which broadcasts to (..., T, S), on the query's device; None if all are real.

    mask: (B, S), one for all queries, or (B, T, S), or with all axes of the weights. causal: query t sees the
    keys 0..t only. With heads, (B, heads, T, D), a mask of two or three axes holds for every head.
    """
    shape = (*query.shape[:-1], key.shape[-2])
    if mask is not None:
        given = tuple(mask.shape)
        wide = _with_axes(given, len(shape))
        if len(wide) != len(shape) or any(m not in (1, n) for m, n in zip(wide, shape, strict=True)):
            raise ShapeError(
                f"attention with weights {shape}, (..., queries, keys), got a mask {given}; "
                f"give (batch, keys) or (batch, queries, keys)"
            )
        mask = real_tokens(mask, query)
        mask = mask if mask is None else mask.reshape(wide)
    return hide_later_keys(mask, query, key) if causal else mask


def hide_later_keys(mask: Array | None, query: Any, key: Any) -> Array:
    """A mask of `key_mask` without the keys s > t of each query t; with all axes of the weights."""
    seen = get_xp(data_of(query)).tri(query.shape[-2], key.shape[-2], dtype=bool)
    seen = seen.reshape((1,) * (len(query.shape) - 2) + seen.shape)
    return seen if mask is None else mask & seen


def _with_axes(mask: tuple[int, ...], ndim: int) -> tuple[int, ...]:
    """A mask's shape with axes of 1 for the queries (if it has none) and for the heads."""
    if len(mask) == 2 and ndim > 2:
        mask = (mask[0], 1, mask[1])
    return mask[:1] + (1,) * (ndim - len(mask)) + mask[1:]
