"""What the backward pass will start from, where that is known while the loss is computed: its kernel then
makes the gradient with it, and nothing is left to do."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from contextvars import ContextVar

from .arrays import Array, device_of
from .kernel_memory import address

_start: ContextVar[Array | None] = ContextVar("gpuprop_start_of_backward", default=None)


@contextlib.contextmanager
def starting_from(gradient: Array | None) -> Iterator[None]:
    """Inside, backward passes are expected to start from `gradient`, one number in device memory: the loss
    scale of float16; None: from ones. One that starts from another is right, too, but takes longer."""
    token = _start.set(gradient)
    try:
        yield
    finally:
        _start.reset(token)


def start_beside(x: Array, dtype: object) -> Array | None:
    """What is expected, where it is of this type and on the device of x; None for ones."""
    start = _start.get()
    if start is None or start.dtype != dtype or device_of(start) != device_of(x):
        return None
    return start


def is_start(dy: Array, expected: Array | None) -> bool:
    """Whether a gradient is sure to be what was expected, without a look at its value."""
    return expected is not None and dy.dtype == expected.dtype and address(dy) == address(expected)
