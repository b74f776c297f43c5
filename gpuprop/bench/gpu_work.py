"""What a GPU bench times, in either library: a step, the inputs it takes in turn, and the values it computes.

An operation keeps each set of inputs where it is and gets its number: a graph is then for one set, and
nothing is copied. A training step gets its batch, which a graph copies to where it reads.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

import gpuprop as gp

ROTATED = 180e6  # bytes of inputs that are taken in turn: more than the L2 cache of any GPU so far
MOST_SETS = 64  # of an operation, each with a graph of its own
MOST_VALUES = 1 << 20  # elements of a result that are compared at full size
Run = Callable[[int], Any]


@dataclass
class Work:
    """step(*inputs[i]) does the work once. values(run, most): what run(0), run(1), ... compute, on the host,
    by name; at most `most` elements of each, evenly spread."""

    step: Callable[..., Any]
    inputs: Sequence[tuple[Any, ...]]
    values: Callable[[Run, int], dict[str, Any]]

    def run(self, i: int) -> Any:
        """The step on set i, which begins again after the last."""
        return self.step(*self.inputs[i % len(self.inputs)])

    @property
    def warm_up(self) -> int:
        """Runs that compile what is needed and have memory for every set."""
        return max(3, min(len(self.inputs), MOST_SETS))

    def captured(self) -> tuple[Run, Any]:
        """(run by `gp.capture`, what that returned)."""
        step = gp.capture(self.step, graphs=MOST_SETS)
        return lambda i: step(*self.inputs[i % len(self.inputs)]), step


def sets_for(size: float, most: int) -> int:
    """How many sets of `size` bytes come to more than `ROTATED`, at most `most`."""
    return int(min(most, max(1, -(-ROTATED // max(1.0, size)))))


def to_host(x: Any, most: int = MOST_VALUES) -> np.ndarray[Any, Any]:
    """An array, or a tensor of either library, in float64 on the host: at most `most` elements of it."""
    if hasattr(x, "detach") and hasattr(x, "dim"):  # PyTorch's
        x = x.detach()
        flat = x if x.numel() <= most else x.reshape(-1)[:: -(-x.numel() // most)]
        return flat.double().cpu().numpy()
    x = getattr(x, "data", x) if isinstance(x, gp.Tensor) else x
    flat = x if x.size <= most else x.reshape(-1)[:: -(-x.size // most)]
    host = flat.get() if hasattr(flat, "get") else np.asarray(flat)
    return host.astype(np.float64)
