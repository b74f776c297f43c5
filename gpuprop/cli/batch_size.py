"""`--batch-size auto`: as many rows as memory holds."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, TypeVar

from ..backend.device import get_device
from ..training.memory import fitting_rows, longest_first
from .options import AUTO, CommonOptions
from .prepare import Prepared
from .support import say

Options = TypeVar("Options", bound=CommonOptions)


def with_batch_size(options: Options, prepared: Prepared) -> tuple[Options, Prepared]:
    """Options and settings in which `--batch-size auto` is a number: on a GPU the largest power of two whose
    longest rows fit, on a CPU, which has memory for more than is good, the default."""
    if options.batch_size != AUTO:
        return options, prepared
    device, task, data = get_device(), prepared.task, prepared.train
    if device.type == "cuda":
        order = longest_first(data.lengths())

        def largest_batch(rows: int) -> Any:
            return next(iter(task.batches(data.take(order[:rows]), rows, 0, None)))

        rows, why = fitting_rows(task.loss, largest_batch, len(data), task.model, device), f"fit on {device}"
    else:
        rows = prepared.settings.batch_size or 1
        why = f"the default, as {device} has memory for more than is good"
    if not options.quiet:
        say(f"--batch-size auto: {rows} rows, {why}")
    settings = replace(prepared.settings, batch_size=rows)
    return replace(options, batch_size=rows), replace(prepared, settings=settings)
