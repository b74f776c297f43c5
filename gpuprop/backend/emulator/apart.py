"""Checked launches run on copies of their arrays that lie far apart.

NumPy puts arrays next to each other, and slices of one buffer touch: an access past the end of one
argument would land in another and look like an access to that one. Between the copies lies nobody's memory.
"""

from __future__ import annotations

import contextlib
import ctypes
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from gpuprop.backend.emulator.arguments import Array, Packed

GAP = 64 << 10  # bytes before, between and after the copies
_ALIGNMENT = 256  # a copy's address is the array's, modulo this: what is misaligned stays so


@contextlib.contextmanager
def moved_apart(packed: Packed) -> Iterator[list[Array]]:
    """The arrays at their copies' addresses, which `packed` holds inside the `with` block; results come back.

    Arrays that overlap stay together. When an address inside the arrays is stored in an array or a struct
    (a table of pointers), nothing moves, as the kernel goes where that address says.
    """
    groups = _groups(packed.arrays)
    if not groups or _stored_addresses(packed, groups[0][0].address, max(map(_end, packed.arrays))):
        yield packed.arrays
        return
    arena = np.empty(sum(_bytes(group) + GAP + _ALIGNMENT for group in groups) + GAP, np.uint8)
    at = arena.ctypes.data + GAP
    shift: dict[int, int] = {}
    for group in groups:
        first = group[0].address
        at += (first - at) % _ALIGNMENT
        ctypes.memmove(at, first, _bytes(group))
        shift |= {array.address: at - first for array in group}
        at += _bytes(group) + GAP
    originals = [int(value[0]) for value in packed.addresses]
    for value, original in zip(packed.addresses, originals, strict=True):
        value[0] = original + shift.get(original, 0)
    try:
        yield [replace(array, address=array.address + shift[array.address]) for array in packed.arrays]
    finally:
        for value, original in zip(packed.addresses, originals, strict=True):
            value[0] = original
        for group in groups:
            if not all(array.read_only for array in group):
                first = group[0].address
                ctypes.memmove(first, first + shift[first], _bytes(group))


def _end(array: Array) -> int:
    return array.address + array.bytes


def _bytes(group: Sequence[Array]) -> int:
    return max(map(_end, group)) - group[0].address


def _groups(arrays: Sequence[Array]) -> list[list[Array]]:
    """Those that overlap together, by address; arrays that only touch are apart."""
    groups: list[list[Array]] = []
    for array in sorted((a for a in arrays if a.bytes), key=lambda a: a.address):
        if groups and array.address < max(map(_end, groups[-1])):
            groups[-1].append(array)
        else:
            groups.append([array])
    return groups


def _stored_addresses(packed: Packed, low: int, high: int) -> bool:
    """Whether a word of the arguments' contents is an address from `low` to `high`."""
    places = [(array.address, array.bytes) for array in packed.arrays]
    places += [(value.ctypes.data, value.nbytes) for value in packed.scalars]
    for address, size in places:
        skip = -address % 8
        if size - skip < 8:
            continue
        words: Any = (ctypes.c_uint64 * ((size - skip) // 8)).from_address(address + skip)
        view = np.frombuffer(words, np.uint64)
        if ((view >= low) & (view < high)).any():
            return True
    return False
