"""Reading safetensors files, whoever wrote them, in memory that is bounded by their size.

A file is the length of its header in 8 bytes, the header as JSON, and the arrays one after another:

    {"__metadata__": {"made": "by"}, "w": {"dtype": "F32", "shape": [2, 3], "data_offsets": [0, 24]}, ...}

The header can be hostile: 3 bytes of JSON ("[],") become 64 bytes of memory, and an array without elements
costs 60 bytes of the file and ten times that once it is read. What it would take is therefore estimated
before it is parsed. Arrays are read straight into their places: nothing is held twice.
"""

from __future__ import annotations

import json
import math
from typing import Any, BinaryIO

import numpy as np

from ..backend.arrays import bfloat16

Arrays = dict[str, np.ndarray[Any, Any]]

ALLOWANCE = 32 << 20  # bytes beside the file's size that its JSON may take: a history of 12,000 epochs
_DTYPES = {
    "F64": "<f8", "F32": "<f4", "F16": "<f2", "I64": "<i8", "I32": "<i4", "I16": "<i2", "I8": "i1",
    "U64": "<u8", "U32": "<u4", "U16": "<u2", "U8": "u1", "BOOL": "?",
}  # fmt: skip
_METADATA = "__metadata__"
_ENTRY = {"dtype", "shape", "data_offsets"}
# Bytes of memory that a letter of JSON brings, at most, in CPython: a dictionary, a list, a number and its
# place in a list, a place in a dictionary, half a text.
_COSTS = {b"{": 200, b"[": 80, b",": 40, b":": 70, b'"': 28}


def read_safetensors(file: BinaryIO, size: int) -> tuple[Arrays, dict[str, str]]:
    """The arrays and the texts of a file of `size` bytes, opened for reading bytes.

    Raises ValueError, KeyError, TypeError, OverflowError or RecursionError where it is damaged or hostile.
    Takes at most twice the size and ALLOWANCE.
    """
    length = int.from_bytes(file.read(8), "little")
    if size < 8 or length > size - 8:
        raise ValueError(f"a header of {length} bytes in a file of {size}")
    header = _read_header(file.read(length), size)
    texts = header.pop(_METADATA, {})
    if not isinstance(texts, dict) or not all(isinstance(text, str) for text in texts.values()):
        raise ValueError(f"{_METADATA} holds more than texts")
    places = sorted((_place(name, entry) for name, entry in header.items()), key=lambda place: place[1:3])
    ends = [0, *(end for _, _, end, _, _ in places)]
    if (
        any(place[1] != end for place, end in zip(places, ends, strict=False))
        or ends[-1] != size - 8 - length
    ):
        raise ValueError("its arrays do not lie one after another up to its end")
    return {
        name: _read_array(file, end - start, dtype, shape) for name, start, end, dtype, shape in places
    }, texts


def check_json(text: bytes, size: int) -> None:
    """Raise ValueError for JSON that could become more in memory than `size` bytes and ALLOWANCE."""
    if cost_of(text) > size + ALLOWANCE:
        raise ValueError(f"its header of {len(text)} bytes could take {cost_of(text)} bytes of memory")


def cost_of(text: bytes) -> int:
    """Bytes of memory that JSON takes, at most, while it is parsed and afterwards."""
    # Texts of ASCII take a byte a letter, others up to four, each while it is read and afterwards.
    letters = (2 if text.isascii() and b"\\u" not in text else 9) * len(text)
    return letters + sum(each * text.count(letter) for letter, each in _COSTS.items())


def _read_header(content: bytes, size: int) -> dict[str, Any]:
    check_json(content, size)
    header = json.loads(content.decode("utf-8"))
    if not isinstance(header, dict):
        raise ValueError("its header is no dictionary")
    return header


def _place(name: str, entry: Any) -> tuple[str, int, int, np.dtype[Any], list[int]]:
    """(name, first byte, byte behind the last, type, shape) of an array."""
    if not isinstance(entry, dict) or set(entry) != _ENTRY:
        raise ValueError(f"its header does not say where {name!r} is")
    (start, end), shape = entry["data_offsets"], entry["shape"]
    if not all(type(n) is int and n >= 0 for n in (start, end, *shape)):
        raise ValueError(f"the place of {name!r} is no whole numbers")
    kind = entry["dtype"]
    if kind != "BF16" and kind not in _DTYPES:
        raise ValueError(f"{name!r} is of type {kind!r}, which is none of {', '.join([*_DTYPES, 'BF16'])}")
    dtype = bfloat16() if kind == "BF16" else np.dtype(_DTYPES[kind])
    if end - start != dtype.itemsize * math.prod(shape):
        raise ValueError(f"{name!r} of shape {shape} and type {kind} has {end - start} bytes")
    return name, start, end, dtype, shape


def _read_array(file: BinaryIO, count: int, dtype: np.dtype[Any], shape: list[int]) -> np.ndarray[Any, Any]:
    content = np.empty(count, np.uint8)
    if file.readinto(content.data) != count:  # type: ignore[attr-defined]
        raise ValueError("it is shorter than a moment ago")
    return content.view(dtype).reshape(shape)
