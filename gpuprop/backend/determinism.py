"""Whether operations on a GPU give the same bits every time, under PyTorch's names."""

from __future__ import annotations

_deterministic = True


def use_deterministic_algorithms(mode: bool) -> None:
    """True, the default here: every operation gives the same bits each time, on one machine. False allows
    kernels whose sums depend on which thread comes first: the gradient of an embedding in float32 and float64
    on a GPU is then added up by atomics, in one pass and without a sort. Nothing changes on a CPU."""
    global _deterministic
    if not isinstance(mode, bool):
        raise TypeError(f"use_deterministic_algorithms takes True or False, not {mode!r}")
    _deterministic = mode


def are_deterministic_algorithms_enabled() -> bool:
    """What `use_deterministic_algorithms` set."""
    return _deterministic
