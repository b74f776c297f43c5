"""Two layers with GELU between, forward and backward: a row of the GPU bench."""

from __future__ import annotations

from typing import Any

import gpuprop as gp

from .floors import Cost
from .gpu_case import GpuCase
from .gpu_data import Normal, Sizes
from .gpu_operation import Form, Named, Operation


def _weights(s: Sizes) -> Named:
    """As Linear keeps them: w and u (out, in), b and c (out,)."""
    d, hidden = s["D"], s["H"]
    return {
        "w": Normal((hidden, d), 0, d**-0.5), "u": Normal((d, hidden), 1, hidden**-0.5),
        "b": Normal((hidden,), 2), "c": Normal((d,), 3),
    }  # fmt: skip


def _theirs(torch: Any, weights: Named) -> Any:
    f, (w, u, b, c) = torch.nn.functional, (weights[n] for n in "wubc")
    return lambda t: f.linear(f.gelu(f.linear(t["x"], w, b), approximate="tanh"), u, c)


def _cost(s: Sizes, b: int) -> Cost:
    """x, dy, y and dx, and twice what is kept of the hidden layer, h and what went into GELU; each weight
    three times, read twice and its gradient written."""
    rows, hidden, products = s["B"] * s["D"], s["B"] * s["H"], s["D"] * s["H"]
    return Cost(float(b * (4 * rows + 4 * hidden + 6 * products)), 12.0 * s["B"] * products)


def feed_forward_case() -> GpuCase:
    """Of a Transformer of 1024; it is bound by its products, as PyTorch's is."""
    operation = Operation(
        lambda s, seed: {n: Normal((s["B"], s["D"]), seed + i) for i, n in enumerate(("x", "dy"))},
        lambda t: gp.ops.feed_forward(t["x"], t["w"], t["b"], t["u"], t["c"], activation="gelu"),
        Form(_theirs), weights=_weights, orders={"w": (1, 0), "u": (1, 0)},
    )  # fmt: skip
    return GpuCase(
        "feed_forward_gelu", "two layers and GELU f+b", "8192 x 1024 -> 4096 -> 1024 bf16", "bf16",
        {"B": 8192, "D": 1024, "H": 4096}, {"B": 64, "D": 256, "H": 1024}, lambda s: _cost(s, 2),
        operation.our_work, operation.their_work, passing={"eager": 1.0},
    )  # fmt: skip
