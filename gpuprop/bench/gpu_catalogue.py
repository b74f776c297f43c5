"""All rows of the GPU bench, in the order of the tables of targets."""

from __future__ import annotations

from .gpu_case import GpuCase
from .gpu_operations import operation_cases
from .gpu_step_cases import step_cases


def gpu_cases() -> dict[str, GpuCase]:
    """Every row by its name: operations, then training steps."""
    return {case.name: case for case in (*operation_cases(), *step_cases())}
