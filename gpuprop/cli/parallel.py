"""`gpuprop parallel plan`: whether more ranks would pay."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from typing import Annotated

import typer
from rich.table import Table

from ..errors import DataError
from ..parallel.plan import RANKS, Plan, efficiency
from .support import EXIT_CODES, command, table_console, whole_numbers

app = typer.Typer(no_args_is_help=True)

PLAN_HELP = f"""Model the speed of data-parallel training on more ranks.

Computed, not measured: from the step time of one rank, which you measure, and the bandwidth and latency
between ranks. Gradients leave in buckets of 8 MiB while backward goes on; a rank's batch stays the same.

{EXIT_CODES}
"""
PLAN_EXAMPLES = r"""Examples:

  gpuprop parallel plan --params 60M --step 20ms --bandwidth 400GB/s
  gpuprop parallel plan --params 60M --step 20ms --bandwidth 25GB/s \
      --latency 20us --gradients bf16 --ranks 8,64,512
"""
_SCALES = {"": 1.0, "k": 1e3, "K": 1e3, "M": 1e6, "G": 1e9, "B": 1e9, "T": 1e12}
_SECONDS = {"s": 1.0, "ms": 1e-3, "us": 1e-6, "µs": 1e-6, "ns": 1e-9}
_RATES = {f"{prefix}{unit}": scale * part for prefix, scale in _SCALES.items() if prefix != "B"
          for unit, part in (("B/s", 1.0), ("bit/s", 0.125))}  # fmt: skip


@dataclass(kw_only=True)
class PlanOptions:
    """gpuprop parallel plan"""

    params: Annotated[str, typer.Option("--params", metavar="N", help="Parameters: 60M, 1.5G, 250k.")]
    step: Annotated[str, typer.Option("--step", metavar="TIME", help="A step on one rank: 20ms.")]
    bandwidth: Annotated[
        str,
        typer.Option("--bandwidth", metavar="RATE", help="That a rank sends at: 400GB/s, 200Gbit/s."),
    ]
    latency: Annotated[str, typer.Option("--latency", metavar="TIME", help="Of one message.")] = "10us"
    gradients: Annotated[str, typer.Option("--gradients", help="How they travel: fp32 or bf16.")] = "fp32"
    ranks: Annotated[
        str | None, typer.Option("--ranks", metavar="LIST", help="(default 1,2,4,... to 1024)")
    ] = None


@app.callback()
def parallel() -> None:
    """Training on several GPUs and machines."""


@app.command("plan", help=PLAN_HELP, epilog=PLAN_EXAMPLES)
@command(PlanOptions)
def plan(options: PlanOptions) -> None:
    """Model the speed of data-parallel training on more ranks."""
    sizes = {"fp32": 4, "bf16": 2}
    if options.gradients not in sizes:
        raise DataError(f"--gradients is fp32 or bf16, not {options.gradients!r}")
    plans = efficiency(
        amount("--params", options.params, _SCALES),
        amount("--step", options.step, _SECONDS),
        amount("--bandwidth", options.bandwidth, _RATES),
        amount("--latency", options.latency, _SECONDS),
        RANKS if options.ranks is None else whole_numbers("--ranks", options.ranks),
        sizes[options.gradients],
    )
    table_console().print(as_table(plans))
    print("a model, not a measurement: gpuprop has not run on that many")


def as_table(plans: list[Plan]) -> Table:
    """A row for each number of ranks."""
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="bold")
    for name in ("ranks", "all-reduce", "step", "efficiency", "speedup"):
        table.add_column(name, justify="right", no_wrap=True)
    for p in plans:
        table.add_row(
            f"{p.ranks}",
            duration(p.communication),
            duration(p.step),
            f"{p.efficiency:.1%}",
            f"{p.speedup:.1f}",
        )
    return table


def amount(option: str, text: str, units: dict[str, float]) -> float:
    """The number behind "60M", "20ms" or "400GB/s"."""
    match = re.fullmatch(r"([0-9]+(?:\.[0-9]*)?(?:[eE][+-]?[0-9]+)?)\s*(\D*)", text.strip())
    if match is None or match[2] not in units or not math.isfinite(float(match[1])):
        known = ", ".join(unit for unit in units if unit)
        raise DataError(f"{option} is a number with one of {known} behind it, not {text!r}")
    return float(match[1]) * units[match[2]]


def duration(seconds: float) -> str:
    """Seconds in three digits: "1.23 ms"."""
    if not seconds:
        return "0"
    unit, scale = next(
        (u, s) for u, s in (("s", 1.0), ("ms", 1e-3), ("us", 1e-6)) if seconds >= s or u == "us"
    )
    return f"{seconds / scale:.3g} {unit}"
