"""Takes the batches of the next step before the host waits for the device, so that they are on their way
when the device is done."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Generic, TypeVar

Item = TypeVar("Item")


class Ahead(Generic[Item]):
    """The items of an iterator, of which the next may be taken early. taken(item) is called with each as soon
    as it is there.

    An error of the iterator waits for the item's turn; Ctrl-C does not. waiting: whether an item, an error or
    the end was taken early, and its turn has not come.
    """

    def __init__(self, items: Iterator[Item], taken: Callable[[Item], None]) -> None:
        self.items, self.taken = items, taken
        self.waiting = False
        self._next: list[Item] = []
        self._error: Exception | None = None

    def __iter__(self) -> Iterator[Item]:
        return self

    def __next__(self) -> Item:
        self.look()
        self.waiting = False
        if self._error is not None:
            error, self._error = self._error, None
            raise error
        return self._next.pop()

    def dropped(self) -> bool:
        """Forget what was taken early; whether there was something."""
        waiting, self.waiting, self._error = self.waiting, False, None
        return waiting

    def look(self) -> None:
        """Take the next item now, unless one is waiting."""
        if self.waiting:
            return
        try:
            item = next(self.items)
            self.waiting = True
            self.taken(item)
            self._next = [item]
        except Exception as error:
            self.waiting, self._error = True, error
