"""How kernels are run: mode, thread order and time limit, from the environment or a `with` block."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from contextvars import ContextVar
from dataclasses import dataclass

from gpuprop.errors import KernelError

MODES = ("fast", "check", "asan", "ubsan")
ORDERS = ("forward", "reverse", "random")


@dataclass(frozen=True)
class Settings:
    """`mode`, thread and block `order`, `seed` of the random order, `time_limit` of a launch in seconds."""

    mode: str = "fast"
    order: str = "forward"
    seed: int = 1
    time_limit: float = 60.0


_override: ContextVar[Settings | None] = ContextVar("gpuprop_emulator", default=None)


def current() -> Settings:
    """The innermost `options`, else what GPUPROP_EMULATOR, ..._ORDER and ..._TIME_LIMIT say."""
    settings = _override.get()
    if settings is not None:
        return settings
    mode = os.environ.get("GPUPROP_EMULATOR") or "fast"
    order = os.environ.get("GPUPROP_EMULATOR_ORDER") or "forward"
    limit = os.environ.get("GPUPROP_EMULATOR_TIME_LIMIT") or "60"
    try:
        seconds = float(limit)
    except ValueError:
        raise KernelError(f"GPUPROP_EMULATOR_TIME_LIMIT is a number of seconds, not {limit!r}") from None
    return _valid(Settings(mode, order, 1, seconds), "GPUPROP_EMULATOR")


@contextlib.contextmanager
def options(
    *,
    mode: str | None = None,
    order: str | None = None,
    seed: int | None = None,
    time_limit: float | None = None,
) -> Iterator[Settings]:
    """Run the emulated kernels inside the `with` block this way; what is not given stays as it is."""
    now = current()
    settings = Settings(
        now.mode if mode is None else mode,
        now.order if order is None else order,
        now.seed if seed is None else seed,
        now.time_limit if time_limit is None else time_limit,
    )
    _valid(settings, "mode")
    token = _override.set(settings)
    try:
        yield settings
    finally:
        _override.reset(token)


def _valid(settings: Settings, name: str) -> Settings:
    if settings.mode not in MODES:
        raise KernelError(f"{name} is one of {', '.join(MODES)}, not {settings.mode!r}")
    if settings.order not in ORDERS:
        raise KernelError(f"order is one of {', '.join(ORDERS)}, not {settings.order!r}")
    if not 0 < settings.time_limit < 1e6:
        raise KernelError(f"time_limit is a positive number of seconds, not {settings.time_limit}")
    return settings
