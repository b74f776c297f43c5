"""What the time of a step goes to: `explain` on a batch of the run's own training data."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ...errors import GpupropError
from ...explanation import Explanation, explain
from ..files import sha256
from ..tasks import load_run

PASSES = 3  # the quickest counts: in the first kernels compile and caches fill


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
    found = [explain(task.loss(batch), task.model) for _ in range(PASSES)]
    return min(found, key=lambda explanation: explanation.seconds)
