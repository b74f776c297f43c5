"""Ctrl-C while the command `gpuprop` is still being imported: exit code 130, no traceback.

Importing this module is enough, as early as possible.
"""

from __future__ import annotations

import os
import signal
import sys
from types import FrameType


def leave_quietly() -> None:
    """If this process is the command `gpuprop`, or `python -m gpuprop`, Ctrl-C ends it at once from here on:
    nothing has been done yet that could be lost. Any other program keeps its way with Ctrl-C."""
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler and is_command():
        signal.signal(signal.SIGINT, _leave)


def raise_again() -> None:
    """From here on Ctrl-C raises KeyboardInterrupt again, which commands handle."""
    if signal.getsignal(signal.SIGINT) is _leave:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def is_command() -> bool:
    """Whether the program that runs is the command line of gpuprop."""
    name = os.path.basename(sys.argv[0]) if getattr(sys, "argv", None) else ""
    if name == "-m":  # Python is still looking for the module
        options = sys.orig_argv
        return "-m" in options and options[options.index("-m") + 1 :][:1] == ["gpuprop"]
    return name in ("gpuprop", "gpuprop.exe")


def _leave(number: int, frame: FrameType | None) -> None:
    os._exit(128 + number)


leave_quietly()
