"""A training's state in one file: nested dicts of JSON values and arrays, with a checksum over all of it.

The file is in the safetensors format. An array stands under its place ("optimizer/arrays/0.m.3"); the rest is
JSON text in the header. The checksum finds what the format does not: a byte that changed on the disk.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import CheckpointError, DataError
from ..tensors import Tensor
from . import checkpoint
from .safetensors_file import check_json

FORMAT = "gpuprop-checkpoint-1"
_PLACE = 300  # bytes of memory of an array without its elements, and of each dictionary around it


def write_state(path: str | Path, state: Mapping[str, Any]) -> None:
    """Write nested dicts, whose leaves are JSON values and arrays, atomically.

    Raises TrainingError where the disk is full (the file before is then untouched), and DataError for a value
    that JSON does not have.
    """
    arrays: dict[str, np.ndarray[Any, Any]] = {}
    rest = _without_arrays(state, "", arrays)
    try:
        text = json.dumps(rest, allow_nan=False, default=_plain_number)
    except (TypeError, ValueError) as error:
        raise DataError(f"{path}: this state cannot be saved: {error}") from error
    metadata = {"format": FORMAT, "state": text, "sha256": digest(text, arrays)}
    checkpoint.save(arrays, path, metadata)


def read_state(path: str | Path) -> dict[str, Any]:
    """What `write_state` wrote, arrays on the host. Raises CheckpointError, naming the file, where it is
    missing, cut off, changed, or something else."""
    arrays, texts = checkpoint.load_with_metadata(path)
    if texts.get("format") != FORMAT:
        raise CheckpointError(f"{path}: is no checkpoint of a training of this gpuprop ({FORMAT})")
    text = texts.get("state", "")
    _check_cost(path, text, arrays)
    if texts.get("sha256") != digest(text, arrays):
        raise CheckpointError(f"{path}: damaged: its content and its checksum differ")
    try:
        state = json.loads(text, parse_constant=_refuse_constant)
        for place, array in arrays.items():
            _put(state, place, array)
    except (ValueError, TypeError, AttributeError, RecursionError) as error:
        raise CheckpointError(f"{path}: damaged: {error}") from error
    if not isinstance(state, dict):
        raise CheckpointError(f"{path}: damaged: its state is no dictionary")
    return state


def _without_arrays(value: Any, place: str, arrays: dict[str, Any]) -> Any:
    """`value` without its arrays, which go to `arrays` by their place."""
    if not isinstance(value, Mapping):
        return value
    rest = {}
    for name, entry in value.items():
        if not isinstance(name, str) or "/" in name:
            raise DataError(f"a state's names are texts without a slash, not {name!r} (in {place or 'it'})")
        inside = f"{place}/{name}" if place else name
        if isinstance(entry, Tensor) or hasattr(entry, "__cuda_array_interface__"):
            arrays[inside] = checkpoint.host_array(inside, entry)
        elif isinstance(entry, np.ndarray):
            arrays[inside] = entry
        else:
            rest[name] = _without_arrays(entry, inside, arrays)
    return rest


def _check_cost(path: str | Path, text: str, arrays: Mapping[str, np.ndarray[Any, Any]]) -> None:
    """Of the JSON inside the header's JSON, whose letters may be spelled otherwise there, and of places."""
    size = len(text) + sum(array.nbytes - _PLACE * (1 + name.count("/")) for name, array in arrays.items())
    try:
        check_json(text.encode("utf-8", "surrogatepass"), size)
    except ValueError as error:
        raise CheckpointError(f"{path}: damaged: {error}") from error


def _put(state: Any, place: str, array: np.ndarray[Any, Any]) -> None:
    *folders, name = place.split("/")
    for folder in folders:
        state = state.setdefault(folder, {})
    if name in state:
        raise ValueError(f"{place} stands there twice")
    state[name] = array


def digest(text: str, arrays: Mapping[str, np.ndarray[Any, Any]]) -> str:
    """SHA-256 (hex) of the JSON text and of the arrays' names, types, shapes and bytes."""
    found = hashlib.sha256(text.encode("utf-8", "surrogatepass"))
    for name in sorted(arrays):
        array = np.ascontiguousarray(arrays[name])
        shape = arrays[name].shape
        found.update(f"\n{len(name)} {name} {array.dtype} {shape}\n".encode("utf-8", "surrogatepass"))
        found.update(array.reshape(-1).view(np.uint8).data)
    return found.hexdigest()


def _plain_number(value: Any) -> Any:
    if isinstance(value, np.generic):
        return value.item()
    raise TypeError(f"{type(value).__name__} {value!r}")


def _refuse_constant(name: str) -> Any:
    raise ValueError(f"{name} is no JSON")
