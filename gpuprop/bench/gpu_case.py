"""A row of the GPU bench: what it works on, what it costs at least, and what it has to reach."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from .floors import Cost
from .gates import Bounds, bounds
from .gpu_data import Sizes, Store
from .gpu_work import Work

FLOOR = "floor"
VARIANTS = {
    "eager": "eager",
    "channels_last": "channels-last conv2d",
    "compiled": "torch.compile",
    "reduce_overhead": "reduce-overhead",
    "graph": "hand-captured",
}
Target = Mapping[str, float]


def as_it_is(function: Callable[..., Any]) -> Callable[..., Any]:
    """For `Peer.wrap`: no compilation."""
    return function


@dataclass(frozen=True)
class Peer:
    """PyTorch on a device. precision: of numbers; wrap: what is done to a forward pass, to compile it say."""

    torch: Any
    device: str
    precision: str
    wrap: Callable[[Callable[..., Any]], Callable[..., Any]] = as_it_is


@dataclass(frozen=True)
class GpuCase:
    """row: of the table of targets. sizes: what is timed; gate: those that differ where it is compared with
    float64, so that a CPU can do it; "sets", the most sets of inputs, may be among them. precision: "fp32",
    "tf32" or "bf16".

    ours, theirs: make the work; usual: as most write it in PyTorch, where that is not the fastest.
    passing, stretch: the least of `FLOOR` (the floor over our time) and of variants' times over ours.
    step: it trains a model. repeatable: it computes the same each time.
    """

    name: str
    row: str
    work: str
    precision: str
    sizes: Sizes
    gate: Sizes
    cost: Callable[[Sizes], Cost]
    ours: Callable[[Sizes, Store], Work]
    theirs: Callable[[Peer, Sizes], Work]
    usual: Callable[[Peer, Sizes], Work] | None = None
    passing: Target = field(default_factory=dict)
    stretch: Target = field(default_factory=dict)
    step: bool = False
    repeatable: bool = True

    @property
    def bounds(self) -> Bounds:
        """The largest relative errors that are right."""
        return bounds(self.precision, self.step)

    @property
    def gate_sizes(self) -> Sizes:
        """Of the comparison with float64, which looks at one set of inputs."""
        return {**self.sizes, **self.gate, "sets": 1}

    def maker(self, variant: str) -> Callable[[Peer, Sizes], Work]:
        """What makes the work of one of `VARIANTS`."""
        return self.usual if self.usual is not None and variant == "eager" else self.theirs

    @property
    def variants(self) -> list[str]:
        """Those of PyTorch, in the order in which they are made: what takes long to compile last, and what no
        target is about at the very end."""
        best = ["channels_last"] if self.usual is not None else []
        slow = sorted(("compiled", "reduce_overhead"), key=lambda name: name not in self.passing)
        return ["eager", *best, "graph", *slow]
