"""How far a result may be from the same computation in float64 on the CPU."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

# Of one operation, as ‖found - exact‖ / ‖exact‖. Rounding to TF32 (10 bits) leaves 2.8e-4 of each factor of a
# product, to bfloat16 (7 bits) 1.1e-3 of every value that is stored.
OPERATION = {"fp32": 1e-4, "tf32": 1e-3, "bf16": 1e-2}
# Of a training step: its losses, and its gradients, of which whole rows come or go where rounding turns a
# ReLU on or off: 1.2e-2 of them in TF32 with layers of 512.
LOSSES = {"fp32": 4e-4, "tf32": 4e-3, "bf16": 4e-2}
GRADIENTS = {"fp32": 5e-3, "tf32": 5e-2, "bf16": 2e-1}
GRADIENT = "d "  # how the names of gradients begin
Values = Mapping[str, Any]


class WrongError(Exception):
    """A result is too far from float64."""


def relative_error(found: Any, exact: Any) -> float:
    """‖found - exact‖ / ‖exact‖ over all elements; infinite where something found is not finite."""
    found, exact = np.asarray(found, np.float64), np.asarray(exact, np.float64)
    if found.shape != exact.shape or not np.isfinite(found).all():
        return float("inf")
    size = float(np.linalg.norm(exact.ravel()))
    difference = float(np.linalg.norm((found - exact).ravel()))
    return difference / size if size else difference


def errors(found: Values, exact: Values) -> dict[str, float]:
    """The relative error of each value that is in both."""
    return {name: relative_error(found[name], exact[name]) for name in exact if name in found}


@dataclass(frozen=True)
class Bounds:
    """The largest relative errors that are right, of gradients and of all else."""

    values: float
    gradients: float

    def of(self, name: str) -> float:
        """That of a value by its name."""
        return self.gradients if name.startswith(GRADIENT) else self.values

    def doubled(self) -> Bounds:
        """Of the difference between two results, each of which may be as far from exact."""
        return Bounds(2 * self.values, 2 * self.gradients)


def bounds(precision: str, step: bool) -> Bounds:
    """Of an operation, or of a training step."""
    if step:
        return Bounds(LOSSES[precision], GRADIENTS[precision])
    return Bounds(OPERATION[precision], OPERATION[precision])


def check(found: Values, exact: Values, most: Bounds) -> float:
    """The largest relative error. WrongError where one is above its bound, or there is nothing to compare."""
    each = errors(found, exact)
    if not each:
        raise WrongError("nothing to compare with float64")
    worst = max(each, key=lambda name: each[name] / most.of(name))
    if not each[worst] <= most.of(worst):
        raise WrongError(f"{worst} is {each[worst]:.2g} from float64, more than {most.of(worst):g}")
    return max(each.values())
