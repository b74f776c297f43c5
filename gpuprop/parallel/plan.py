"""How well more ranks would pay: a model of data-parallel training, computed, not measured.

One rank takes `step` seconds, a third forward and two thirds backward (one product for each output, two for
each gradient). The gradients leave in buckets of equal size as backward comes to them. A bucket of b bytes
takes N ranks
    t(b) = 2 ceil(log2 N) latency + 2 (N - 1) / N b / bandwidth
(Thakur, Rabenseifner and Gropp 2005, section 4.3: reduce-scatter by halving, all-gather by doubling), one
bucket after the other; the update waits for the last. The batch of a rank stays the same.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from ..errors import DataError
from .data_parallel import BUCKET_BYTES

RANKS = tuple(2**k for k in range(11))  # 1 to 1024
FORWARD = 1.0 / 3.0  # of a step


@dataclass(frozen=True)
class Plan:
    """A number of ranks under the model. communication: seconds of all buckets; step: seconds a step, what
    is hidden behind backward counted once; efficiency: of one rank's speed, for each rank; speedup: in rows
    a second, over one rank."""

    ranks: int
    communication: float
    step: float
    efficiency: float

    @property
    def speedup(self) -> float:
        return self.ranks * self.efficiency


def efficiency(
    parameters: float,
    step: float,
    bandwidth: float,
    latency: float = 1e-5,
    ranks: Sequence[int] = RANKS,
    gradient_bytes: int = 4,
    bucket_bytes: int = BUCKET_BYTES,
) -> list[Plan]:
    """The model for each number of ranks. step: measured seconds of one rank's step; bandwidth: bytes a
    second that a rank sends while it receives as much; latency: seconds of one message."""
    for name, value in (("parameters", parameters), ("step", step), ("bandwidth", bandwidth)):
        if not 0 < value < math.inf:
            raise DataError(f"{name} must be a finite number above 0, not {value}")
    if not 0 <= latency < math.inf or not all(n >= 1 for n in ranks):
        raise DataError(f"latency is at least 0 and ranks at least 1, not {latency} and {list(ranks)}")
    size = parameters * gradient_bytes
    count = max(1, math.ceil(size / bucket_bytes))
    return [_plan(n, step, count, bucket_time(size / count, n, bandwidth, latency)) for n in ranks]


def bucket_time(size: float, ranks: int, bandwidth: float, latency: float) -> float:
    """Seconds of an all-reduce of `size` bytes."""
    return 2 * math.ceil(math.log2(ranks)) * latency + 2 * (ranks - 1) / ranks * size / bandwidth


def _plan(ranks: int, step: float, buckets: int, each: float) -> Plan:
    over = 0.0
    for k in range(1, buckets + 1):
        ready = step * (FORWARD + (1 - FORWARD) * k / buckets)
        over = max(over, ready) + each
    return Plan(ranks, buckets * each, max(step, over), step / max(step, over))
