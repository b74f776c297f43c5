"""What the time of a step goes to: `explain` on a batch of the run's own training data."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from ...errors import GpupropError
from ...explanation import Explanation, explain
from ..files import sha256
from ..tasks import load_run

PASSES = 5  # of each operation the quickest counts: in the first kernels compile, in any the clock may slip


class NotMeasured(GpupropError):
    """Why there is no table of operations."""


def explain_batch(run: str | Path, config: Mapping[str, Any]) -> Explanation:
    """The backward pass of the run's model over the first batch of its training file, on the current device.

    Raises NotMeasured where the file is gone, has changed since, or cannot be read.
    """
    described = config.get("data", {}).get("train", {})
    path = described.get("path")
    if path is None:
        raise NotMeasured("the run does not say which file it was trained on")
    try:
        if sha256(path) != described.get("sha256"):
            raise NotMeasured(f"{path} has changed since the training")
    except OSError as error:
        raise NotMeasured(f"{path} cannot be read any more: {error.strerror or error}") from error
    training = config.get("training", {})
    task: Any = load_run(run)
    batches = task.batches(
        task.read(path), training.get("batch_size"), training.get("seed", 0), training.get("batch_tokens")
    )
    batch = next(iter(batches))
    task.model.train()
    return quickest([explain(task.loss(batch), task.model) for _ in range(PASSES)])


def quickest(passes: Sequence[Explanation]) -> Explanation:
    """The last of several passes, with the least time of each operation over all of them. Where they are not
    of the same operations (a model that chooses by chance), the quickest pass."""
    kinds = [[(row.layer, row.operation, row.arrived) for row in one.rows] for one in passes]
    if any(kind != kinds[0] for kind in kinds):
        return min(passes, key=lambda one: one.seconds)
    rows = zip(*(one.rows for one in passes), strict=True)
    least = [replace(same[-1], seconds=min(row.seconds for row in same)) for same in rows]
    return Explanation(least, passes[-1].loss)
