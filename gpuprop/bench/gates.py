"""How far a result may be from the same computation in float64 on the CPU."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

# Of one operation, as ‖found - exact‖ / ‖exact‖. Rounding to TF32 (10 bits) leaves 2.8e-4 of each factor of a
# product, to bfloat16 (7 bits) 1.1e-3 of every value that is stored.
BOUNDS = {"fp32": 1e-4, "tf32": 1e-3, "bf16": 1e-2}
STEP = 4.0  # times the bound for a training step, whose layers round one after the other
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


def check(found: Values, exact: Values, bound: float) -> float:
    """The largest relative error. WrongError above the bound, and where there is nothing to compare."""
    each = errors(found, exact)
    if not each:
        raise WrongError("nothing to compare with float64")
    worst = max(each, key=lambda name: each[name])
    if not each[worst] <= bound:
        raise WrongError(f"{worst} is {each[worst]:.2g} from float64, more than {bound:g}")
    return each[worst]
