"""Inputs and results of a captured step: where a graph reads and writes."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from dataclasses import fields, is_dataclass, replace
from functools import partial
from typing import Any, Protocol

import numpy as np

from .arrays import Array, is_cupy

ALIGNMENT = 512  # bytes, as of CuPy's own memory


class Pinned(Protocol):
    """Pinned memory; see `staging.PinnedRing`."""

    def next(self, size: int) -> Array: ...

    def send(self, block: Array, stream: Any) -> Any: ...


class Sent(Protocol):
    """What is on its way; see `staging.Staged`."""

    arrays: list[Array]

    def copy_to(self, block: Array) -> None: ...


class Leaf:
    """The place of array number `index` in a tree; `wrap` makes what stood there of an array."""

    def __init__(self, index: int, wrap: Callable[[Array], Any]) -> None:
        self.index, self.wrap = index, wrap


def flatten(tree: Any) -> tuple[Any, list[Array]]:
    """(the tree with a `Leaf` in place of each array and tensor, the arrays)."""
    arrays: list[Array] = []
    return _taken_out(arrays, tree), arrays


def _taken_out(arrays: list[Array], x: Any) -> Any:
    """See `flatten`. No function within it that calls itself: it would keep the arrays until the collector
    of garbage runs."""
    if isinstance(x, np.ndarray) or is_cupy(x):
        arrays.append(x)
        return Leaf(len(arrays) - 1, lambda a: a)
    if _is_tensor(x):
        arrays.append(x.data)
        return Leaf(len(arrays) - 1, type(x))
    return _mapped(partial(_taken_out, arrays), x)


def unflatten(tree: Any, arrays: list[Array]) -> Any:
    """The tree with these arrays."""
    if isinstance(tree, Leaf):
        return tree.wrap(arrays[tree.index])
    return _mapped(partial(unflatten, arrays=arrays), tree)


def signature(inputs: Any) -> tuple[Hashable, ...]:
    """Of a tree: its structure, the shapes and types of its arrays, and all other values."""

    found: list[Hashable] = []

    def visit(x: Any) -> None:
        if isinstance(x, np.ndarray) or is_cupy(x):
            found.append(("array", tuple(x.shape), x.dtype.str if x.dtype.kind != "V" else x.dtype.name))
        elif _is_tensor(x):
            found.append(("tensor", tuple(x.shape), x.dtype.name))
        elif isinstance(x, (tuple, list)):
            found.append((type(x).__name__, len(x)))
            for y in x:
                visit(y)
        elif isinstance(x, dict):
            found.append(("dict", tuple(x)))
            for y in x.values():
                visit(y)
        elif is_dataclass(x) and not isinstance(x, type):
            found.append(type(x))
            for field in fields(x):
                visit(getattr(x, field.name))
        else:
            try:
                hash(x)
            except TypeError:
                raise TypeError(
                    f"a captured step takes arrays, tensors, numbers and text, not {type(x).__name__}"
                ) from None
            found.append((type(x), x))

    visit(inputs)
    return tuple(found)


def _mapped(visit: Callable[[Any], Any], x: Any) -> Any:
    if isinstance(x, tuple) and hasattr(x, "_fields"):
        return type(x)(*map(visit, x))
    if isinstance(x, (tuple, list)):
        return type(x)(map(visit, x))
    if isinstance(x, dict):
        return {key: visit(value) for key, value in x.items()}
    if is_dataclass(x) and not isinstance(x, type):
        return replace(x, **{field.name: visit(getattr(x, field.name)) for field in fields(x)})
    return x


def _is_tensor(x: Any) -> bool:
    return hasattr(x, "edge") and hasattr(x, "data")  # this layer does not know the class


class Inputs:
    """Memory for the inputs of one signature, in one block. `values` is the tree that the step reads."""

    def __init__(self, xp: Any, inputs: tuple[Any, ...], pinned: Pinned) -> None:
        self.xp, self._pinned = xp, pinned
        tree, arrays = flatten(inputs)
        starts, size = offsets(arrays, ALIGNMENT)
        self._block = xp.empty(max(1, size), np.uint8)
        self._places = [(start, part(self._block, start, a)) for start, a in zip(starts, arrays, strict=True)]
        self.values: tuple[Any, ...] = unflatten(tree, [place for _, place in self._places])

    def fill(self, inputs: tuple[Any, ...], staged: Sent | None = None) -> None:
        """Copy the inputs of a call to their places: those of the host in one transfer. staged: the first
        input, where it is on its way already."""
        if staged is None:
            arrays, first = flatten(inputs)[1], 0
        else:
            arrays, first = [*staged.arrays, *flatten(inputs[1:])[1]], len(staged.arrays)
            staged.copy_to(self._block)
        placed = list(zip(arrays, self._places, strict=True))[first:]
        self._transfer([(start, a, place) for a, (start, place) in placed if isinstance(a, np.ndarray)])
        for a, (_, place) in placed:
            if not isinstance(a, np.ndarray):
                place[...] = a

    def _transfer(self, given: list[tuple[int, Array, Array]]) -> None:
        """Arrays of the host to their places, and whatever to the places between them."""
        if not given:
            return
        begin, (last, _, place) = given[0][0], given[-1]
        end = last + int(place.nbytes)
        host = self._pinned.next(end - begin)
        for start, a, place in given:
            part(host, start - begin, place)[...] = a
        self._pinned.send(self._block[begin:end], self.xp.cuda.get_current_stream())


class Outputs:
    """The results of one signature's step, several of them gathered into one block by its last launch."""

    def __init__(self, xp: Any, results: Any) -> None:
        self.tree, arrays = flatten(results)
        hosts = [a for a in arrays if isinstance(a, np.ndarray) and not is_cupy(a)]
        if hosts:
            raise TypeError(f"a captured step gives arrays of the device, not NumPy {hosts[0].dtype}")
        order = sorted(range(len(arrays)), key=lambda i: -arrays[i].dtype.itemsize)
        self._like = [(i, arrays[i].shape, arrays[i].dtype) for i in order]
        parts = [xp.ascontiguousarray(arrays[i]).reshape(-1).view(np.uint8) for i in order]
        self._block = None if not parts else parts[0] if len(parts) == 1 else xp.concatenate(parts)

    def copied(self) -> Any:
        """The results as new arrays, which the next replay leaves as they are."""
        if self._block is None:
            return unflatten(self.tree, [])
        block, start = self._block.copy(), 0
        found: list[Any] = [None] * len(self._like)
        for i, shape, dtype in self._like:
            found[i] = _view(block, start, shape, dtype)
            start += found[i].nbytes
        return unflatten(self.tree, found)


def offsets(arrays: list[Array], alignment: int) -> tuple[list[int], int]:
    """(where each array begins, bytes in all) when they lie one after another."""
    starts, size = [], 0
    for a in arrays:
        starts.append(size)
        size += -(-int(a.nbytes) // alignment) * alignment
    return starts, size


def part(block: Array, start: int, like: Array) -> Array:
    """The bytes of `block` from `start` on as an array of this shape and type."""
    return _view(block, start, like.shape, like.dtype)


def _view(block: Array, start: int, shape: tuple[int, ...], dtype: Any) -> Array:
    size = int(np.prod(shape, dtype=np.int64)) * dtype.itemsize
    return block[start : start + size].view(dtype).reshape(shape)
