"""The greatest resident size of this process in a block, which the kernel keeps and forgets on request."""

import os
from contextlib import contextmanager
from pathlib import Path

import pytest

STATUS, FORGET = Path("/proc/self/status"), Path("/proc/self/clear_refs")
NOISE = 2 << 20  # what the kernel counts late, and the interpreter's own
needs_peak = pytest.mark.skipif(not os.access(FORGET, os.W_OK), reason="the kernel does not tell the peak")


@contextmanager
def peak():
    """A list that gets the bytes by which the process grew inside the block, at most."""
    grown = []
    FORGET.write_text("5", encoding="utf-8")
    before = _kilobytes("VmRSS")
    yield grown
    grown.append(1024 * (_kilobytes("VmHWM") - before))


def _kilobytes(name: str) -> int:
    return int(STATUS.read_text(encoding="utf-8").split(f"{name}:")[1].split()[0])
