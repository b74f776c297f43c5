"""Weights on the disk: safetensors files, saved atomically and read strictly. Never pickle.

gp.save(model, "model.safetensors")
model.load_state_dict(gp.load("model.safetensors"))
"""

from __future__ import annotations

import importlib
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from ..backend.arrays import to_host
from ..errors import CheckpointError
from ..nn.module import Module
from ..tensors import Tensor
from ..text.files import open_regular
from .files import atomic_write
from .safetensors_file import read_safetensors


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
    return load_with_metadata(path, "copy it again or train again")[0]


def load_with_metadata(
    path: str | Path, advice: str = ""
) -> tuple[dict[str, np.ndarray[Any, Any]], dict[str, str]]:
    """`load`, and the texts of the header. advice: what to do about a damaged file."""
    if Path(path).is_dir():
        raise CheckpointError(
            f"{path}: is a folder; name the file, for example {Path(path) / 'model.safetensors'}"
        )
    try:
        with open_regular(path) as file:
            return read_safetensors(file, os.fstat(file.fileno()).st_size)
    except FileNotFoundError as error:
        raise CheckpointError(f"{path}: no such file; check the name, or train the model first") from error
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read: {error.strerror or error}") from error
    except (ValueError, KeyError, TypeError, OverflowError, RecursionError) as error:
        told = f"{path}: damaged, cut off, or not a safetensors file ({error})"
        raise CheckpointError(f"{told}; {advice}" if advice else told) from error


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
