"""A plugin for pytest: the fixture `device` runs its "cuda" tests on the fake GPU.

pytest -p fake_device tests/ops -k cuda
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import pytest

from gpuprop import testing
from gpuprop.backend.device import use_device

_unavailable = testing.unavailable


@contextlib.contextmanager
def _use(name: str) -> Iterator[Any]:
    if name != "cuda":
        with use_device(name) as device:
            yield device
        return
    from fake_cuda import installed

    with installed(pytest.MonkeyPatch()):
        yield


testing.use_device = _use  # type: ignore[assignment]
testing.unavailable = lambda name: None if name == "cuda" else _unavailable(name)
