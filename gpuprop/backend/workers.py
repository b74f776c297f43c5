"""Threads that take pieces of work from a queue, at half of what `concurrent.futures` costs for each: a piece
often takes a tenth of a millisecond, so waking a thread has to be all that handing it over costs."""

from __future__ import annotations

from collections.abc import Callable
from queue import SimpleQueue
from threading import Thread
from typing import Any

Work = Callable[..., None]


class Team:
    """`count` threads that wait for work. Several threads may give it some.

    begin: what each of them does first.
    """

    def __init__(self, count: int, begin: Callable[[], None]) -> None:
        self.pieces: SimpleQueue[Any] = SimpleQueue()
        self.threads = [
            Thread(target=_serve, args=(self.pieces, begin), name=f"gpuprop-{i}", daemon=True)
            for i in range(count)
        ]
        for thread in self.threads:
            thread.start()

    def run(self, work: Work, arguments: list[tuple[Any, ...]]) -> None:
        """work(*a) for each a, the first in this thread and the others in the team's. All are waited for,
        also when one fails; then the first error is raised."""
        ended: SimpleQueue[BaseException | None] = SimpleQueue()
        for a in arguments[1:]:
            self.pieces.put((work, a, ended))
        try:
            work(*arguments[0])
        finally:
            errors = _wait(ended, len(arguments) - 1)
        for error in errors:
            if error is not None:
                raise error

    def end(self) -> None:
        """The threads end when they have done what they were given."""
        for _ in self.threads:
            self.pieces.put(None)


def _serve(pieces: SimpleQueue[Any], begin: Callable[[], None]) -> None:
    """A thread's life. It refers to nothing of a piece that it has ended: the memory is used again."""
    begin()
    while (piece := pieces.get()) is not None:
        work, arguments, ended = piece
        error = None
        try:
            work(*arguments)
        except BaseException as raised:
            error = raised
        del piece, work, arguments
        ended.put(error)
        del ended, error


def _wait(ended: SimpleQueue[BaseException | None], count: int) -> list[BaseException | None]:
    """The outcomes of `count` pieces; Ctrl-C is raised when all have ended, since they write into arrays."""
    errors: list[BaseException | None] = []
    interrupt = None
    while len(errors) < count:
        try:
            errors.append(ended.get())
        except BaseException as raised:
            interrupt = raised
    if interrupt is not None:
        raise interrupt
    return errors
