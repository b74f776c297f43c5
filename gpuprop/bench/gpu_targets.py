"""What each row of the GPU bench has to reach, and whether it did."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from .gpu_case import FLOOR, VARIANTS, GpuCase, Target

UNKNOWN, BELOW, PASS, STRETCH = "not measured", "below", "pass", "stretch"


def reached(row: Mapping[str, Any]) -> dict[str, float]:
    """What a row has of what targets ask for: the floor over our time, and PyTorch's times over ours."""
    found = dict(row.get("ratios", {}))
    if row.get("of_floor") is not None:
        found[FLOOR] = row["of_floor"]
    return found


def verdict(case: GpuCase, row: Mapping[str, Any]) -> str:
    """ "stretch", "pass", "below", or "not measured" where what is measured does not decide."""
    found = reached(row)
    if any(name in found and found[name] < least for name, least in case.passing.items()):
        return BELOW
    if not case.passing or any(name not in found for name in case.passing):
        return UNKNOWN
    beyond = case.stretch and all(found.get(name, 0.0) >= least for name, least in case.stretch.items())
    return STRETCH if beyond else PASS


def in_words(target: Target) -> str:
    """Such as "0.90 of the floor, 3x eager"."""
    parts = [
        f"{least:.2f} of the floor" if name == FLOOR else f"{least:g}x {VARIANTS[name]}"
        for name, least in target.items()
    ]
    return ", ".join(parts) or "-"
