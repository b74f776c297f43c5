"""Ctrl-C and SIGTERM, taken between two steps of training rather than within one."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Iterator
from types import FrameType, TracebackType
from typing import Any

_DEFAULTS = {signal.SIGINT: signal.default_int_handler, signal.SIGTERM: signal.SIG_DFL}


class Interrupted(KeyboardInterrupt):
    """Training was stopped by a signal. `exit_code` is what a shell expects: 130 for Ctrl-C, 143 for
    SIGTERM."""

    def __init__(self, number: int) -> None:
        super().__init__(signal.Signals(number).name)
        self.exit_code = 128 + number


class Signals:
    """Inside the `with` block Ctrl-C and SIGTERM raise `Interrupted`; inside `hold()` they wait for its end.

    A second signal does not wait. Handlers that the program has set itself are left alone, and so is
    everything outside the main thread, where Python gives no signals.
    """

    def __init__(self) -> None:
        self._before: dict[int, Any] = {}
        self._holding = False
        self._pending: int | None = None

    def __enter__(self) -> Signals:
        self._pending = None
        if threading.current_thread() is threading.main_thread():
            for number, default in _DEFAULTS.items():
                if signal.getsignal(number) == default:
                    self._before[number] = signal.signal(number, self._receive)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    @contextlib.contextmanager
    def hold(self) -> Iterator[None]:
        """Finish what is inside before a signal is raised: an update of the weights, a save."""
        self._holding = True
        try:
            yield
        finally:
            self._holding = False
        if self._pending is not None:
            raise Interrupted(self._pending)

    def _receive(self, number: int, frame: FrameType | None) -> None:
        if self._holding and self._pending is None:
            self._pending = number
        else:
            raise Interrupted(number)
