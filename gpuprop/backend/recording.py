"""What a step that is captured as a CUDA graph needs of the host, and what it may not keep of it.

A graph repeats launches with the arguments they were made with. So while a step is captured, or runs once to
warm up for it, a `Recording` is current in this thread and knows

    numbers     of the host that change from step to step: kept in device memory, set before each replay
    before      what else brings the device up to date before each replay
    constants   arrays of the host that do not change: copied to the device once
    again       what the host itself does in each step: done after each replay
    conditions  values of the host that the launches depend on: a change makes the graph invalid
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from contextvars import ContextVar
from typing import Any

import numpy as np

from ..errors import CaptureError

Array = Any
_current: ContextVar[Recording | None] = ContextVar("gpuprop_recording_of_graph", default=None)


class Recording:
    """Of one graph. xp: the module cupy. capturing: launches are written down instead of done."""

    def __init__(self, xp: Any) -> None:
        self.xp = xp
        self.capturing = False
        self.again: list[Callable[[], None]] = []
        self.before: dict[Any, Callable[[], None]] = {}
        self._numbers: dict[str, tuple[Array, Callable[[], float]]] = {}
        self._constants: dict[int, tuple[Any, Array]] = {}
        self._ones: dict[Any, Array] = {}
        self._conditions: dict[Any, tuple[Callable[[], Any], Any]] = {}

    def number(self, name: str, read: Callable[[], float], dtype: Any) -> Array:
        """An array (1,) in device memory that holds what `read()` gave when the step began."""
        known = self._numbers.get(name)
        if known is None:
            if self.capturing:
                raise CaptureError(
                    f"the step reads {name} while it is captured, but did not when it ran before: a step has "
                    "to do the same each time"
                )
            known = self._numbers[name] = (self.xp.full(1, read(), dtype), read)
        return known[0]

    def constant(self, host: Any) -> Array:
        """A copy in device memory of an array that the step uses each time without making it."""
        known = self._constants.get(id(host))
        if known is not None:
            return known[1]
        if self.capturing:
            raise CaptureError(
                f"the step copies an array {host.dtype} {tuple(host.shape)} from the host, which it makes "
                "anew each time: give it to the step as an input"
            )
        device = self.xp.asarray(host)
        self._constants[id(host)] = (host, device)  # kept, so that the id stays its own
        return device

    def ones(self, shape: tuple[int, ...], dtype: Any) -> Array:
        """Ones in device memory, which nobody changes: made once, not in each step."""
        key = (shape, dtype)
        if key not in self._ones:
            self._ones[key] = self.xp.ones(shape, dtype)
        return self._ones[key]

    def is_ones(self, array: Any) -> bool:
        """Whether it is one of those that `ones` made."""
        return any(array is known for known in self._ones.values())

    def depends(self, name: Any, read: Callable[[], Any]) -> None:
        """The launches are right as long as read() gives what it gives now."""
        self._conditions[name] = (read, read())

    def holds(self) -> bool:
        """Whether all that the launches depend on is as it was."""
        return all(read() == value for read, value in self._conditions.values())

    def refresh(self) -> None:
        """Bring the device up to date: before a replay."""
        for action in self.before.values():
            action()
        for array, read in self._numbers.values():
            array.fill(read())

    @contextlib.contextmanager
    def current(self) -> Iterator[None]:
        """Inside, this thread's step is recorded here."""
        token = _current.set(self)
        try:
            yield
        finally:
            _current.reset(token)


def recording() -> Recording | None:
    """The recording of the step that runs now in this thread, or None."""
    return _current.get()


def before(key: Any, action: Callable[[], None]) -> None:
    """Do `action` before each replay of the step that runs now, if it is recorded; once a key."""
    now = _current.get()
    if now is not None:
        now.before[key] = action


def again(action: Callable[[], None]) -> None:
    """Do `action` after each replay of the step that is captured now, if one is."""
    now = _current.get()
    if now is not None and now.capturing:
        now.again.append(action)


def capturing() -> bool:
    """Whether launches are written down now, in this thread, instead of done."""
    now = _current.get()
    return now is not None and now.capturing


def number(name: str, value: Callable[[], float], like: Array, dtype: Any = None) -> Any:
    """value() as a number, or where a step is captured as an array (1,) that holds it in device memory."""
    now = _current.get()
    if now is None or isinstance(like, np.ndarray):
        return value()
    return now.number(name, value, like.dtype if dtype is None else dtype)


def ones(xp: Any, like: Array) -> Array:
    """An array of ones like `like`, as the gradient that a backward pass starts from."""
    now = _current.get()
    if now is None or xp is np:
        return xp.ones_like(like)
    return now.ones(tuple(like.shape), like.dtype)


def known_ones(array: Array) -> bool:
    """Whether an array is sure to hold ones, without a look at it: `ones` made it for a recorded step."""
    now = _current.get()
    return now is not None and now.is_ones(array)


def depends(name: Any, read: Callable[[], Any]) -> None:
    """See `Recording.depends`; nothing where no step is captured."""
    now = _current.get()
    if now is not None:
        now.depends(name, read)
