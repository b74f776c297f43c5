"""`gpuprop train` and `resume` on several ranks: join, agree, and let rank 0 alone write and print."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from ..parallel.agreement import check_alike, on_first
from ..parallel.current import current, init
from .prepare import Prepared
from .rebuild import identity


def join(device: str | None) -> None:
    """Join the other ranks, where a launcher started some, and make the device of --device current: "auto"
    and "cuda" are the GPU of this rank."""
    init(device or os.environ.get("GPUPROP_DEVICE", "").strip() or "auto")


def first() -> bool:
    """Whether this is the rank that writes and prints."""
    return current().rank == 0


def checked_by_first(check: Callable[[], None]) -> None:
    """Let rank 0 look at the run folder before any rank changes it; what it refuses, all refuse."""
    on_first(current(), check)


def with_ranks(prepared: Prepared, ranks: int | None = None) -> Prepared:
    """Batches for so many ranks (default: as many as there are), with the smallest size that
    `--batch-size auto` found on any."""
    settings = replace(prepared.settings, ranks=ranks or current().size)
    if ranks is None and settings.batch_size is not None and current().size > 1:
        sizes = current().gather_texts(str(settings.batch_size))
        settings = replace(settings, batch_size=min(map(int, sizes)))
    return replace(prepared, settings=settings)


def trained_with(config: Mapping[str, Any]) -> int:
    """The number of ranks that a run was started with."""
    training = config.get("training")
    ranks = training.get("ranks", 1) if isinstance(training, Mapping) else 1
    return ranks if type(ranks) is int and ranks >= 1 else 1


def check_ranks(config: Mapping[str, Any]) -> None:
    """Raise DataError, on every rank, where one has other data, options or another model."""
    if current().size == 1:
        return
    data = config.get("data", {})
    facts = {f"--{role} with SHA-256": str(data[role].get("sha256")) for role in data}
    check_alike(current(), facts | {n: v for n, v in identity(config) if not n.startswith("data.")})
