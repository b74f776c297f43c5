"""When a batch does not fit into memory: which does, and what holds the memory."""

from __future__ import annotations

import contextlib
import dataclasses
import traceback
from collections.abc import Callable, Iterator, Sequence
from typing import Any, TypeVar

import numpy as np

from ..backend import random
from ..backend.arrays import get_xp
from ..backend.device import Device
from ..backend.memory import memory_use, release_memory
from ..errors import DataError, TrainingError
from ..nn.module import Module
from ..tensors import Tensor
from ..text.batches import PairBatch, TextBatch

LARGEST = 4096  # rows that --batch-size auto tries at most

Batch = TypeVar("Batch", bound=TextBatch | PairBatch)
Loss = Callable[[Any], Tensor]


@contextlib.contextmanager
def memory_explained(batches: Sequence[Any], loss: Loss, model: Module, device: Device) -> Iterator[None]:
    """Inside, a MemoryError (CuPy's is one) becomes a TrainingError that says which batch did not fit, who
    holds the memory, and how many of its rows fit."""
    try:
        yield
    except MemoryError as error:
        use = memory_use(device)
        traceback.clear_frames(error.__traceback__)  # their arrays are in the way
        message = f"not enough memory on {device} for {described(batches)}"
        message += f": {use}. " if use is not None else f" ({error}). " if str(error) else ". "
        raise TrainingError(message + _remedy(batches, loss, model, device)) from error


def described(batches: Sequence[Any]) -> str:
    """A step's batches in words: "a batch of 64 rows, (64, 30) and (64, 28)"."""
    largest = max(batches, key=lambda batch: getattr(batch, "size", 0))
    if not isinstance(largest, (TextBatch, PairBatch)):
        return "a batch"
    if isinstance(largest, TextBatch):
        shape = f"{largest.ids.shape[1]} tokens"
    else:
        shape = f"{largest.source.shape[1]} source and {largest.target_in.shape[1]} target tokens"
    return f"a batch of {largest.size} rows of {shape}"


def _remedy(batches: Sequence[Any], loss: Loss, model: Module, device: Device) -> str:
    largest = max(batches, key=lambda batch: getattr(batch, "size", 0))
    if not isinstance(largest, (TextBatch, PairBatch)):
        return "Make the batches smaller"
    rows = largest.size // 2
    while rows and not fits(loss, first_rows(largest, rows), model, device):
        rows //= 2
    if not rows:
        return "Not even one of its rows fits: cut the texts (--max-length) or make the model smaller"
    return (
        f"A batch of {rows} rows fits: --batch-size {rows} --accumulate {-(-largest.size // rows)} takes the "
        "same steps; --batch-size auto finds the largest that fits"
    )


def first_rows(batch: Batch, rows: int) -> Batch:
    """The first rows of a batch, as wide as it is."""
    kind: Any = type(batch)
    parts = {f.name: getattr(batch, f.name) for f in dataclasses.fields(batch)}
    part: Batch = kind(**{name: None if array is None else array[:rows] for name, array in parts.items()})
    return part


def fits(loss: Loss, batch: Any, model: Module, device: Device) -> bool:
    """Whether forward and backward of a batch find memory. Leaves no gradients and no trace in the random
    streams."""
    calls = random.state.calls.copy()
    try:
        loss(batch).backward()
    except MemoryError as error:
        traceback.clear_frames(error.__traceback__)
        return False
    finally:
        random.state.calls = calls
        model.zero_grad()
        release_memory(device)
    return True


def fitting_rows(
    loss: Loss, largest_batch: Callable[[int], Any], rows: int, model: Module, device: Device
) -> int:
    """The largest power of two of rows, at most `rows` and `LARGEST`, whose longest batch fits beside what an
    optimizer keeps, gradients and two moments. largest_batch(n): the n longest rows. Raises TrainingError
    where not even one row fits."""
    was_training, _ = model.training, model.train()
    kept = [get_xp(p.data).empty_like(p.data) for p in model.parameters() for _ in range(3)]
    found = 0
    try:
        while (size := max(1, 2 * found)) <= min(rows, LARGEST):
            if not fits(loss, largest_batch(size), model, device):
                break
            found = size
    finally:
        del kept
        model.train(was_training)
    if not found:
        raise TrainingError(
            f"not enough memory on {device} for one row: cut the texts (--max-length) or make the model "
            "smaller"
        )
    return found


def longest_first(lengths: Sequence[int]) -> np.ndarray[Any, Any]:
    """The numbers of the rows, the longest first."""
    if not len(lengths):
        raise DataError("there are no rows to make batches of")
    return np.argsort(-np.asarray(lengths), kind="stable")
