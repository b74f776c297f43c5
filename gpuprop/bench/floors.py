"""The least time that a bench can take: its bytes at the speed of a copy, or its products at the speed of a
large one, whichever is longer. Both speeds are measured in the same run."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class Cost:
    """What cannot be left out: bytes read and written, and floating-point operations of products."""

    moved: float
    flops: float = 0.0


@dataclass(frozen=True)
class Speeds:
    """Measured: bytes a second of a copy (read and written), FLOP/s of products by precision."""

    copy: float
    peaks: Mapping[str, float]


def seconds(cost: Cost, speeds: Speeds, precision: str) -> float | None:
    """The floor; None where the speed that decides it was not measured."""
    peak = speeds.peaks.get(precision, 0.0)
    if not speeds.copy or (cost.flops and not peak):
        return None
    return max(cost.moved / speeds.copy, cost.flops / peak if cost.flops else 0.0)
