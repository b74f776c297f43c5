"""Inputs and results of a captured step: where a graph reads and writes."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator
from dataclasses import fields, is_dataclass, replace
from typing import Any

import numpy as np

from .arrays import Array, is_cupy

ALIGNMENT = 512  # bytes, as of CuPy's own memory
RING = 4  # copies to the device that may be on their way


class Leaf:
    """The place of array number `index` in a tree; `wrap` makes what stood there of an array."""

    def __init__(self, index: int, wrap: Callable[[Array], Any]) -> None:
        self.index, self.wrap = index, wrap


def flatten(tree: Any) -> tuple[Any, list[Array]]:
    """(the tree with a `Leaf` in place of each array and tensor, the arrays)."""
    arrays: list[Array] = []

    def visit(x: Any) -> Any:
        if isinstance(x, np.ndarray) or is_cupy(x):
            arrays.append(x)
            return Leaf(len(arrays) - 1, lambda a: a)
        if _is_tensor(x):
            arrays.append(x.data)
            return Leaf(len(arrays) - 1, type(x))
        return _mapped(visit, x)

    return visit(tree), arrays


def unflatten(tree: Any, arrays: list[Array]) -> Any:
    """The tree with these arrays."""

    def visit(x: Any) -> Any:
        return x.wrap(arrays[x.index]) if isinstance(x, Leaf) else _mapped(visit, x)

    return visit(tree)


def signature(inputs: Any) -> tuple[Hashable, ...]:
    """Of a tree: its structure, the shapes and types of its arrays, and all other values."""

    def visit(x: Any) -> Iterator[Hashable]:
        if isinstance(x, np.ndarray) or is_cupy(x):
            yield ("array", tuple(x.shape), x.dtype.str if x.dtype.kind != "V" else x.dtype.name)
        elif _is_tensor(x):
            yield ("tensor", tuple(x.shape), x.dtype.name)
        elif isinstance(x, (tuple, list)):
            yield (type(x).__name__, len(x))
            for y in x:
                yield from visit(y)
        elif isinstance(x, dict):
            yield ("dict", tuple(x))
            for y in x.values():
                yield from visit(y)
        elif is_dataclass(x) and not isinstance(x, type):
            yield type(x)
            for field in fields(x):
                yield from visit(getattr(x, field.name))
        else:
            try:
                hash(x)
            except TypeError:
                raise TypeError(
                    f"a captured step takes arrays, tensors, numbers and text, not {type(x).__name__}"
                ) from None
            yield (type(x), x)

    return tuple(visit(inputs))


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

    def __init__(self, xp: Any, inputs: tuple[Any, ...]) -> None:
        self.xp = xp
        tree, arrays = flatten(inputs)
        starts, size = _offsets(arrays, ALIGNMENT)
        self._block = xp.empty(max(1, size), np.uint8)
        self._places = [
            (start, _part(self._block, start, a)) for start, a in zip(starts, arrays, strict=True)
        ]
        self._from_host = [i for i, a in enumerate(arrays) if isinstance(a, np.ndarray)]
        self._staging = _Staging(xp, size) if self._from_host else None
        self.values: tuple[Any, ...] = unflatten(tree, [place for _, place in self._places])

    def fill(self, inputs: tuple[Any, ...]) -> None:
        """Copy the inputs of a call to their places: those of the host in one transfer."""
        arrays = flatten(inputs)[1]
        if self._staging is not None:
            host = self._staging.next()
            for i in self._from_host:
                start, place = self._places[i]
                _part(host, start, place)[...] = arrays[i]
            self._staging.send(self._block)
        for a, (_, place) in zip(arrays, self._places, strict=True):
            if not isinstance(a, np.ndarray):
                place[...] = a


class _Staging:
    """A ring of pinned memory on the host: a copy is on its way while the next batch is written."""

    def __init__(self, xp: Any, size: int) -> None:
        self.xp, self.size, self.turn = xp, size, 0
        self.buffers = [
            np.frombuffer(xp.cuda.alloc_pinned_memory(max(1, size)), np.uint8, max(1, size))
            for _ in range(RING)
        ]
        self.sent: list[Any] = [None] * RING

    def next(self) -> Array:
        """A buffer that the device has read."""
        self.turn = (self.turn + 1) % RING
        if self.sent[self.turn] is not None:
            self.sent[self.turn].synchronize()
        return self.buffers[self.turn]

    def send(self, block: Array) -> None:
        """Copy the buffer to the device, in the order of the current stream."""
        stream = self.xp.cuda.get_current_stream()
        block.set(self.buffers[self.turn], stream=stream)
        self.sent[self.turn] = stream.record()


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


def _offsets(arrays: list[Array], alignment: int) -> tuple[list[int], int]:
    starts, size = [], 0
    for a in arrays:
        starts.append(size)
        size += -(-int(a.nbytes) // alignment) * alignment
    return starts, size


def _part(block: Array, start: int, like: Array) -> Array:
    return _view(block, start, like.shape, like.dtype)


def _view(block: Array, start: int, shape: tuple[int, ...], dtype: Any) -> Array:
    size = int(np.prod(shape, dtype=np.int64)) * dtype.itemsize
    return block[start : start + size].view(dtype).reshape(shape)
