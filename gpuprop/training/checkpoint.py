"""Weights on the disk: safetensors files, saved atomically and read strictly. Never pickle.

gp.save(model, "model.safetensors")
model.load_state_dict(gp.load("model.safetensors"))
"""

from __future__ import annotations

import importlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from ..backend.arrays import bfloat16, to_host
from ..errors import CheckpointError
from ..nn.module import Module
from ..tensors import Tensor
from .files import atomic_write

_DTYPES = {
    "F64": "<f8", "F32": "<f4", "F16": "<f2", "I64": "<i8", "I32": "<i4", "I16": "<i2", "I8": "i1",
    "U64": "<u8", "U32": "<u4", "U16": "<u2", "U8": "u1", "BOOL": "?",
}  # fmt: skip
HEADER_ALLOWANCE = 16 << 20  # bytes of memory that any header may take


def save(
    model: Module | Mapping[str, Any], path: str | Path, metadata: Mapping[str, str] | None = None
) -> None:
    """Write a model's weights (or a dict of arrays or tensors) to `path` in the safetensors format.

    metadata: texts kept in the file's header. Atomic: TrainingError (a full disk, say) leaves the old file.
    """
    values = model.state_dict() if isinstance(model, Module) else model
    arrays = {name: host_array(name, value) for name, value in values.items()}
    header = {name: str(value) for name, value in (metadata or {}).items()}
    package = importlib.import_module(
        "safetensors.numpy"
    )  # on first use, so that `import gpuprop` stays quick
    atomic_write(path, package.save(arrays, metadata=header or None))


def load(path: str | Path) -> dict[str, np.ndarray[Any, Any]]:
    """The arrays of a safetensors file, on the host. Raises CheckpointError when it is missing or damaged."""
    return load_with_metadata(path)[0]


def load_with_metadata(path: str | Path) -> tuple[dict[str, np.ndarray[Any, Any]], dict[str, str]]:
    """`load`, and the texts of the header."""
    content = _read(Path(path))
    package = importlib.import_module("safetensors")
    try:
        _check_cost(content)
        arrays = {name: _array(entry) for name, entry in package.deserialize(content)}
        return arrays, _header_texts(content)
    except (package.SafetensorError, ValueError, KeyError, TypeError, UnicodeDecodeError) as error:
        raise CheckpointError(
            f"{path}: damaged, cut off, or not a safetensors file ({error}); copy it again or train again"
        ) from error


def load_into(model: Module, path: str | Path) -> None:
    """Read weights into a model. Raises CheckpointError, naming the file, when they are not this model's."""
    arrays = load(path)
    try:
        model.load_state_dict(arrays)
    except CheckpointError as error:
        raise CheckpointError(
            f"{path}: {error}. The file belongs to another model: use the model.safetensors of this run"
        ) from error
    bad = next((n for n, a in arrays.items() if a.dtype.kind == "f" and not np.isfinite(a).all()), None)
    if bad is not None:
        raise CheckpointError(f"{path}: {bad} holds values that are not finite; train again")


def host_array(name: str, value: Any) -> np.ndarray[Any, Any]:
    """An array or tensor on the host, its rows one after another in memory."""
    if not isinstance(name, str):
        raise TypeError(f"names of arrays are texts, not {name!r}")
    array = to_host(value.data if isinstance(value, Tensor) else value)
    # The format wants rows one after another, and the package does not look.
    return np.ascontiguousarray(array).reshape(array.shape)


def _read(path: Path) -> bytes:
    if path.is_dir():
        raise CheckpointError(f"{path}: is a folder; name the file, for example {path / 'model.safetensors'}")
    try:
        if path.exists() and not path.is_file():  # reading a pipe would wait for ever
            raise CheckpointError(f"{path}: is a pipe or a device, not a file; name a safetensors file")
        return path.read_bytes()
    except FileNotFoundError as error:
        raise CheckpointError(f"{path}: no such file; check the name, or train the model first") from error
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read: {error.strerror or error}") from error


def _check_cost(content: bytes) -> None:
    """Raise ValueError for a header that would become far larger in memory than the file is: a hostile one.

    Estimated are 384 bytes for a dictionary, 64 for a list and 24 for an entry.
    """
    header = memoryview(content)[8 : 8 + int.from_bytes(content[:8], "little")].tobytes()
    cost = 384 * header.count(b"{") + 64 * header.count(b"[") + 24 * header.count(b",")
    if cost > 2 * len(content) + HEADER_ALLOWANCE:
        raise ValueError(f"its header of {len(header)} bytes would take {cost} bytes of memory")


def _array(entry: Mapping[str, Any]) -> np.ndarray[Any, Any]:
    dtype = bfloat16() if entry["dtype"] == "BF16" else np.dtype(_DTYPES[entry["dtype"]])
    return np.frombuffer(entry["data"], dtype=dtype).reshape(entry["shape"])


def _header_texts(content: bytes) -> dict[str, str]:
    """The header is JSON behind its length in 8 bytes; the package checked it before."""
    header = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])
    return {str(key): str(value) for key, value in header.get("__metadata__", {}).items()}
