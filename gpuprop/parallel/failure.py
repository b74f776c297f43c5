"""When a rank fails the others must not wait for it: it says why, then ends all of them."""

from __future__ import annotations

import os
import sys
import time
import traceback
from types import TracebackType
from typing import Any, NoReturn

from .group import Group

PATIENCE = 3.0  # seconds in which the other ranks may fail too, of the same
_watched: Group | None = None


def watch_over(group: Group) -> None:
    """From now on an error that this process does not catch ends all ranks of the group."""
    global _watched
    if _watched is None and group.size > 1:
        _watched = group
        before = sys.excepthook

        def hook(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> Any:
            if is_to_tell(error, 1):
                before(kind, error, trace)

        sys.excepthook = hook


def is_to_tell(error: BaseException, code: int) -> bool:
    """Whether this process is the one that tells of an error: in one process always, among ranks that all
    failed (a wrong option, say) rank 0. Where only some failed this does not return: the rank prints its
    traceback and ends all ranks with exit code `code`."""
    group = _watched
    if group is None:
        return True
    if not _all_failed(group):
        end_all(group, error, code)
    return group.rank == 0


def end_all(group: Group, error: BaseException, code: int) -> NoReturn:
    """Print the traceback, and end every rank."""
    told = "".join(traceback.format_exception(type(error), error, error.__traceback__))
    sys.stderr.write(f"gpuprop: {group.name} failed, which ends all:\n{told}")
    sys.stderr.flush()
    sys.stdout.flush()
    for transport in (group.device, group.host):
        if transport is not None:
            transport.end_all(code)
    os._exit(code)


def _all_failed(group: Group) -> bool:
    start = getattr(group.host, "start_failing_together", None)
    if start is None:
        return False
    pending, until = start(), time.monotonic() + PATIENCE
    while not pending.done():
        if time.monotonic() > until:
            return False
        time.sleep(0.01)
    return True
