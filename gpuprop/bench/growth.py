"""How the cost of a training step grows with the rows of its batch: t = c rows^e, with e fitted.

An e of 1 is growth in proportion; below 1, what a step costs whatever its size (Adam on all weights, the
tape) still shows; above 1, something is worse than linear.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

import gpuprop as gp

from .cases import Work, cnn_case, mlp_case
from .measure import machine, versions
from .seq2seq_cases import SPECS, ours

STEPS: dict[str, tuple[Callable[[int], Work], tuple[int, ...]]] = {
    "mlp": (lambda rows: mlp_case(rows).ours(), (256, 512, 1024, 2048, 4096)),
    "cnn": (lambda rows: cnn_case(rows).ours(), (25, 50, 100, 200, 400)),
    "gru_luong": (lambda rows: ours(SPECS["gru_luong"] | {"batch": rows}), (16, 32, 64, 128, 256)),
    "gru_bahdanau": (lambda rows: ours(SPECS["gru_bahdanau"] | {"batch": rows}), (16, 32, 64, 128, 256)),
    "transformer": (lambda rows: ours(SPECS["transformer"] | {"batch": rows}), (16, 32, 64, 128, 256)),
}


def exponent(rows: Sequence[float], costs: Sequence[float]) -> float:
    """e of cost = c rows^e: the slope of the line of least squares through the logarithms."""
    return float(np.polyfit(np.log(rows), np.log(costs), 1)[0])


def least_cpu_time(work: Work, rounds: int) -> float:
    """The least CPU time of one call, in milliseconds, after two that warm up."""
    found = []
    for _ in range(2 + rounds):
        start = time.process_time()
        work()
        found.append(time.process_time() - start)
    return min(found[2:]) * 1e3


def growth(name: str, make: Callable[[int], Work], rows: Sequence[int], rounds: int) -> dict[str, Any]:
    """{"name", "rows", "cpu_ms" of a step for each, "exponent"}."""
    costs = [least_cpu_time(make(n), rounds) for n in rows]
    return {"name": name, "rows": list(rows), "cpu_ms": costs, "exponent": exponent(rows, costs)}


def run(names: Sequence[str], rounds: int) -> dict[str, Any]:
    """The growth of each step named, with the machine and the versions that were measured."""
    found = [growth(name, *STEPS[name], rounds) for name in names]
    return {"machine": machine(), "versions": versions(), "threads": gp.num_threads(), "growth": found}
