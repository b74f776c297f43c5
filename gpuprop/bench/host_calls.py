"""How much Python a piece of work takes: a number that is the same on every machine, however busy."""

from __future__ import annotations

import os
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any

PACKAGE = str(Path(__file__).resolve().parents[1]) + os.sep
EMULATOR = os.path.join(PACKAGE, "backend", "emulator") + os.sep  # it stands for a device, not for the host


def python_calls(work: Callable[[], Any]) -> Counter[str]:
    """Calls of gpuprop's own functions in this thread while work() runs: {"op.py:Op.apply": 5, ...}.

    Comprehensions do not count, as they are functions in some versions of Python only.
    """
    found: Counter[str] = Counter()

    def see(frame: FrameType, event: str, _: Any) -> None:
        code = frame.f_code
        if event != "call" or not code.co_filename.startswith(PACKAGE):
            return
        comprehension = code.co_name[0] == "<" and code.co_name != "<lambda>"
        if not comprehension and not code.co_filename.startswith(EMULATOR):
            found[f"{code.co_filename[len(PACKAGE) :]}:{code.co_qualname}"] += 1

    before = sys.getprofile()
    sys.setprofile(see)
    try:
        work()
    finally:
        sys.setprofile(before)
    return found
