"""What the recurrent operations share: the time axis in front while they run, and steps that padding skips.

Inside, sequences are (L, B, ...), so that a step is one contiguous block; outside they are (B, L, ...).
"""

from __future__ import annotations

from ..backend.arrays import Array, get_xp
from ..backend.buffers import contiguous, copy, empty, zeros
from ..backend.threads import host_size

MOST_ROWS_AT_ONCE = 16  # a product with fewer rows wastes more than a second thread brings
SATURATED = 1e4  # added to a gate, its sigmoid is exactly 0 or 1 in every type


def swap_time(x: Array) -> Array:
    """(B, L, ...) to (L, B, ...) or back, contiguous."""
    return contiguous(get_xp(x), x.swapaxes(0, 1))


def padding(mask: Array | None) -> Array | None:
    """mask (B, L), True at real tokens -> (L, B, 1), True at padding."""
    return None if mask is None else ~swap_time(mask)[..., None]


def steps(length: int, reverse: bool) -> list[int]:
    """The times in the order in which they are visited."""
    return list(range(length - 1, -1, -1) if reverse else range(length))


def states(h: Array, reverse: bool) -> tuple[Array, Array]:
    """Views of h (L + 1, B, H): the states before and after each time, both (L, B, H). Forward, h[0] is the
    initial state and h[t + 1] follows time t; in reverse h[L] is the initial one and h[t] follows time t."""
    return (h[1:], h[:-1]) if reverse else (h[:-1], h[1:])


def without_padding(x: Array, pad: Array | None) -> Array:
    """x (L, B, H) with zeros at padding, as (B, L, H)."""
    return swap_time(x) if pad is None else _at_real(x.swapaxes(0, 1), pad.swapaxes(0, 1))


def _at_real(x: Array, pad: Array) -> Array:
    """x with zeros at padding, in C order."""
    xp = get_xp(x)
    return xp.multiply(x, ~pad, out=empty(xp, x.shape, x.dtype))


def gradient_of_output(dy: Array | None, pad: Array | None) -> Array | None:
    """dy (B, L, H) as (L, B, H), zero at padding, whose output is 0 whatever the state."""
    if dy is None:
        return None
    dy = dy.swapaxes(0, 1)
    return dy if pad is None else _at_real(dy, pad)


def gradient_of_state(dh: Array | None, like: Array) -> Array:
    """A buffer of our own that starts with the gradient of the last state, 0 where nobody used it."""
    xp = get_xp(like)
    return zeros(xp, like.shape, like.dtype) if dh is None else copy(xp, dh)


def cost(gates: Array) -> int:
    """How much a walk over gates (L, B, n H) is worth to the threads: its products count most. Each of a few
    threads then walks over all times with its part of the rows."""
    return host_size(gates) * min(4, gates.shape[1] // MOST_ROWS_AT_ONCE) if gates.ndim == 3 else 0
