"""Checks of shapes and constructor arguments, with messages that say what was expected and what came."""

from __future__ import annotations

from typing import Any

from ..errors import ShapeError


def positive(layer: str, name: str, value: int) -> int:
    """`value` as an int of at least 1, or ValueError."""
    if isinstance(value, bool) or not hasattr(value, "__index__") or int(value) < 1:
        raise ValueError(f"{layer}: {name} must be an integer of at least 1, not {value!r}")
    return int(value)


def probability(layer: str, p: float) -> float:
    """`p` in [0, 1), or ValueError."""
    if not 0.0 <= p < 1.0:
        raise ValueError(f"{layer}: a dropout probability is at least 0 and below 1, not {p!r}")
    return float(p)


def require_last_axis(layer: str, x: Any, features: int, form: str = "...") -> None:
    """Raise ShapeError unless x is (..., features)."""
    shape = tuple(x.shape)
    if not shape or shape[-1] != features:
        raise ShapeError(f"{layer} expects ({form}, {features}) but got {shape}")


def require_text(layer: str, x: Any, channels: int) -> None:
    """Raise ShapeError unless x is (batch, length, channels)."""
    shape = tuple(x.shape)
    if len(shape) == 3 and shape[2] == channels:
        return
    hint = ""
    if len(shape) == 3 and shape[1] == channels:
        hint = ": text is channels last; use x.swapaxes(1, 2)"
    elif len(shape) == 2:
        hint = ": the batch axis is missing; use x[None]" if shape[1] == channels else ""
    raise ShapeError(f"{layer} expects (batch, length, {channels}) but got {shape}{hint}")
