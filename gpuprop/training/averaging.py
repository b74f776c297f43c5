"""The weights of the last epochs, kept beside a run's model, and their average.

Averaging the end of one training gives what a falling learning rate gives, and often a little more
(Polyak and Juditsky 1992; for networks Vaswani et al. 2017, section 6.1, who average the last 5 checkpoints).
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import CheckpointError, DataError
from ..nn.module import Module
from .checkpoint import load, save
from .files import write_error

EPOCHS = "epochs"  # the folder inside the run's
_NAME = re.compile(r"epoch-(\d{4,})\.safetensors")


def kept_epochs(run: str | Path) -> dict[int, Path]:
    """Epoch -> its file, in the order of the epochs; empty where a run keeps none."""
    folder = Path(run) / EPOCHS
    try:
        names = [file.name for file in folder.iterdir()] if folder.is_dir() else []
    except OSError as error:
        raise CheckpointError(f"{folder}: cannot be read: {error.strerror or error}") from error
    found = {int(match[1]): folder / match[0] for name in names if (match := _NAME.fullmatch(name))}
    return dict(sorted(found.items()))


def keep_epoch(run: str | Path, model: Module | Mapping[str, Any], epoch: int, last: int) -> None:
    """Save the model as it is after `epoch`, and let go of all but the last so many epochs."""
    folder = Path(run) / EPOCHS
    try:
        folder.mkdir(exist_ok=True)
    except OSError as error:
        raise write_error(folder, error) from error
    save(model, folder / f"epoch-{epoch:04d}.safetensors", {"epoch": str(epoch)})
    _remove(run, epoch - last)


def forget_epochs(run: str | Path) -> None:
    """Remove all kept epochs: another training begins in this folder."""
    _remove(run, max(kept_epochs(run), default=0))
    with contextlib.suppress(OSError):  # not there, or it holds files of the user's
        (Path(run) / EPOCHS).rmdir()


def _remove(run: str | Path, up_to: int) -> None:
    for epoch, file in kept_epochs(run).items():
        if epoch <= up_to:
            try:
                file.unlink(missing_ok=True)
            except OSError as error:
                raise write_error(file, error) from error


def average_checkpoints(paths: Sequence[str | Path]) -> dict[str, np.ndarray[Any, Any]]:
    """The mean of each array over several safetensors files of one model, summed in float64.

    model.load_state_dict(gp.training.average_checkpoints(["8.safetensors", "9.safetensors"]))

    Returns name -> host array in the files' type. Raises CheckpointError, naming the file, where one is
    missing or damaged, holds other arrays than the first, or values that are not finite.
    """
    files = [Path(path) for path in paths]
    if not files:
        raise DataError("average_checkpoints needs at least one file")
    first = load(files[0])
    sums = {name: np.zeros(array.shape, np.float64) for name, array in first.items()}
    for file in files:
        arrays = first if file == files[0] else load(file)
        _check_alike(first, arrays, files[0], file)
        for name, array in arrays.items():
            sums[name] += array.astype(np.float64)
    return {name: (total / len(files)).astype(first[name].dtype) for name, total in sums.items()}


def _check_alike(first: dict[str, Any], arrays: dict[str, Any], first_path: Path, path: Path) -> None:
    for name in [*first, *arrays]:
        mine, other = (
            f"{a[name].dtype} {a[name].shape}" if name in a else "nothing" for a in (arrays, first)
        )
        if mine != other:
            raise CheckpointError(
                f"{path}: {name} is {mine}, in {first_path} it is {other}; average files of one training"
            )
        if not np.isfinite(arrays[name].astype(np.float64)).all():
            raise CheckpointError(f"{path}: {name} holds values that are not finite; leave this file out")
