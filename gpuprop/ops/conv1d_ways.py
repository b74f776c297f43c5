"""Which way a convolution takes where kernels can be launched. The estimates behind the choice stand with
each way, none of them measured yet; `using` takes another one, to measure it."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from contextvars import ContextVar
from typing import Any

from ..backend.arrays import Array
from . import conv1d_depthwise, conv1d_kernels, conv1d_products, conv1d_tensor_cores
from .windows import Geometry

# By name a module with suits, possible, forward and backward. The first that suits is taken.
WAYS: dict[str, Any] = {
    "products": conv1d_products,  # cuBLAS reads the windows where they lie
    "tensor_cores": conv1d_tensor_cores,  # a kernel of ours
    "depthwise": conv1d_depthwise,  # one filter a channel, at the speed of memory
    "kernels": conv1d_kernels,  # every shape, without tensor cores
}
_wanted: ContextVar[str | None] = ContextVar("gpuprop_conv1d_way", default=None)


@contextlib.contextmanager
def using(name: str) -> Iterator[None]:
    """Inside this `with` block convolutions, and their gradients later, take the way of this name in `WAYS`
    wherever it is possible. Raises ValueError for another name."""
    if name not in WAYS:
        raise ValueError(f"a convolution goes by {', '.join(WAYS)}, not {name!r}")
    token = _wanted.set(name)
    try:
        yield
    finally:
        _wanted.reset(token)


def way_of(x: Array, weight: Array, at: Geometry) -> Any:
    """The module for x (B, L, channels), for which kernels can be launched, with weight (K, C, O)."""
    wanted = WAYS.get(_wanted.get() or "")
    if wanted is not None and wanted.possible(x, weight, at):
        return wanted
    return next(way for way in WAYS.values() if way.suits(x, weight, at))
