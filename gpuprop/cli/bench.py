"""The command `gpuprop bench`: how fast operations and training steps are, beside PyTorch when installed."""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Collection
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from ..backend.threads import num_threads, set_num_threads
from ..bench import growth
from ..bench.catalogue import all_cases
from ..bench.gpu_catalogue import gpu_cases
from ..bench.measure import run
from ..bench.readme_table import ratio, time_of
from ..errors import DataError
from .bench_gpu import bench_gpu

BENCH_HELP = """Time operations (forward and backward) and whole training steps on this machine's CPU or GPU.

NAMES: what to measure; all of it without any, and an unknown one lists those that there are.

With --peer torch, PyTorch does the same work in turns with us, and the ratio of the times is shown: on a CPU
ours over PyTorch's, on a GPU PyTorch's over ours.

With --growth, training steps on more and more rows, and the exponent with which their cost grows.

With --device cuda, each row is compared with float64 first: a wrong one has no time, and the exit code is 1.
--suite gpu measures all of them beside PyTorch within 8 minutes, into gpuprop/bench/results/GPU-DATE.json.
"""


def bench(
    names: Annotated[
        list[str] | None,
        typer.Argument(metavar="NAMES", help="Operations and steps.", show_default=False),
    ] = None,
    device: Annotated[str, typer.Option(help="cpu, cuda or cuda:N.")] = "cpu",
    peer: Annotated[str, typer.Option(help="torch or none.")] = "none",
    threads: Annotated[int, typer.Option(min=0, help="0: GPUPROP_THREADS, or all cores.")] = 0,
    rounds: Annotated[int, typer.Option(min=1, help="Turns of each peer; medians are shown.")] = 3,
    seconds: Annotated[float, typer.Option(min=0.0, help="Length of a turn.")] = 0.5,
    grow: Annotated[bool, typer.Option("--growth", help="How cost grows with the rows of a batch.")] = False,
    suite: Annotated[str | None, typer.Option(help="gpu: all rows of the GPU, with PyTorch.")] = None,
    limit: Annotated[float | None, typer.Option(min=0.0, help="Seconds for a GPU's rows.")] = None,
    json_file: Annotated[Path | None, typer.Option("--json", help="Write the result here too.")] = None,
) -> None:
    if peer not in ("torch", "none"):
        raise DataError(f"bench: the peer is torch or none, not {peer!r}")
    if suite is not None or device.partition(":")[0] == "cuda":
        if grow:
            raise DataError("bench: --growth measures the CPU: leave --device and --suite out")
        bench_gpu(names, "cuda" if device == "cpu" else device, peer, suite, limit, json_file)
        return
    known: Collection[str] = growth.STEPS if grow else all_cases()
    chosen = names or list(known)
    unknown = [name for name in chosen if name not in known]
    if unknown:
        fix = "" if set(unknown) - set(gpu_cases()) else "; what you name is measured on a GPU: --device cuda"
        raise DataError(f"bench: no {', '.join(unknown)}; there is {', '.join(known)}{fix}")
    if device != "cpu":
        raise DataError(f"bench measures cpu, cuda and cuda:N, not {device!r}")
    if peer == "torch" and importlib.util.find_spec("torch") is None:
        raise DataError("bench: PyTorch is not installed: pip install torch, or leave --peer out")
    if threads:
        set_num_threads(threads)
    if grow:
        result = growth.run(chosen, rounds)
    else:
        cases = all_cases()
        result = run([cases[name] for name in chosen], peer if peer != "none" else None, rounds, seconds)
    if json_file is not None:
        json_file.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    Console().print(render_growth(result) if grow else render(result))


def render_growth(result: dict[str, Any]) -> Table:
    """The result of `growth.run` as a table."""
    table = _table(result, "the least CPU time of a step")
    table.add_column("rows: ms", overflow="fold")
    table.add_column("exponent", justify="right", no_wrap=True)
    for row in result["growth"]:
        pairs = zip(row["rows"], row["cpu_ms"], strict=True)
        table.add_row(row["name"], "  ".join(f"{n}: {ms:.1f}" for n, ms in pairs), f"{row['exponent']:.2f}")
    return table


def render(result: dict[str, Any]) -> Table:
    """The result of `measure.run` as a table."""
    time = time_of(result["threads"])
    kind = "milliseconds" if time == "wall_ms" else "milliseconds of CPU time"
    table = _table(result, f"{kind}, medians")
    table.add_column("work", overflow="fold")
    for name in ("gpuprop", "PyTorch", "ratio"):
        table.add_column(name, justify="right", no_wrap=True)
    for row in result["rows"]:
        torch = (f"{row['torch'][time]:.2f}", f"{ratio(row, time):.2f}") if "torch" in row else ("-", "-")
        table.add_row(row["name"], row["shape"], f"{row['gpuprop'][time]:.2f}", *torch)
    return table


def _table(result: dict[str, Any], figures: str) -> Table:
    """An empty table with a column of names, under which the machine stands and what the figures are."""
    table = Table(
        box=None, padding=(0, 2, 0, 0), header_style="bold", caption_justify="left",
        caption=f"{result['machine']['processor']}, {num_threads()} threads; {figures}",
    )  # fmt: skip
    table.add_column("name", no_wrap=True)
    return table
