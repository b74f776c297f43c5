"""The command `gpuprop bench` on a GPU: rows in turns beside PyTorch, a table, and a JSON."""

from __future__ import annotations

import importlib.util
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import typer
from rich.console import Console
from rich.table import Table

import gpuprop as gp

from ..bench import gpu_machine, gpu_suite
from ..bench.gpu_case import VARIANTS
from ..bench.gpu_catalogue import gpu_cases
from ..bench.gpu_table import megabytes, percent, python_of
from ..errors import DataError
from .support import say

SUITES = ("gpu",)
HEADS = {  # of the columns of `VARIANTS`
    "eager": "eager", "channels_last": "conv2d", "compiled": "compile", "reduce_overhead": "reduce",
    "graph": "graph",
}  # fmt: skip
WIDE = 144  # columns at least, in which no number is broken


def bench_gpu(
    names: list[str] | None, device: str, peer: str, suite: str | None, limit: float | None,
    json_file: Path | None,
) -> None:  # fmt: skip
    """Measure, print, write; exit code 1 where a row is wrong or failed."""
    known = gpu_cases()
    unknown = [name for name in names or [] if name not in known]
    if unknown:
        raise DataError(f"bench on a GPU: no {', '.join(unknown)}; there is {', '.join(known)}")
    if suite not in (None, *SUITES):
        raise DataError(f"bench --suite is {' or '.join(SUITES)}, not {suite!r}")
    if suite is not None and names:
        raise DataError(
            f"bench --suite {suite} is all rows, without names; or --device cuda --peer torch with them"
        )
    if suite is None and peer == "torch" and importlib.util.find_spec("torch") is None:
        raise DataError("bench: PyTorch is not installed: pip install torch, or leave --peer out")
    cases = [known[name] for name in names or known]
    if limit is None:
        limit = gpu_suite.SUITE_SECONDS if suite else gpu_suite.ROW_SECONDS * len(cases)
    with gp.use_device(device):
        path = json_file if json_file is not None or suite is None else _default_file()
        write = _writer(path, len(cases))
        result = gpu_suite.run(cases, bool(suite) or peer == "torch", limit, write=write)
    Console(width=max(Console().width, WIDE)).print(render(result))
    for line in remarks(result):
        typer.echo(line)
    if path is not None:
        typer.echo(f"wrote {path}")
    if not gpu_suite.is_right(result):
        raise typer.Exit(1)


def _default_file() -> Path:
    """In the package's folder of results, which has to be writable before minutes are spent."""
    today = time.strftime("%Y-%m-%d", time.gmtime())
    path = gpu_suite.default_file(gpu_machine.gpu(gpu_machine.current_cupy()), today)
    try:
        path.parent.mkdir(exist_ok=True)
    except OSError as error:
        why = f"bench cannot write {path} ({error.strerror}): say where with --json FILE"
        raise DataError(why) from error
    if not os.access(path.parent, os.W_OK):
        raise DataError(f"bench may not write into {path.parent}: say where with --json FILE")
    return path


def _writer(path: Path | None, count: int) -> Callable[[dict[str, Any]], None]:
    """Saves what there is after each row, so that a run that is cut off leaves it, and says how far it is."""
    done: list[int] = [0]

    def write(result: dict[str, Any]) -> None:
        if path is not None:
            gpu_suite.save(result, path)
        if len(result["rows"]) > done[0]:
            done[0] = len(result["rows"])
            say(f"{done[0]} of {count}: {result['rows'][-1]['name']}, {result['seconds']:.0f} s")

    return write


def render(result: dict[str, Any]) -> Table:
    """The result of `gpu_suite.run` as a table: milliseconds, and PyTorch's times over ours."""
    speeds = result["speeds"]
    peaks = ", ".join(f"{name} {flops / 1e12:.0f}" for name, flops in speeds["flops_per_s"].items())
    table = Table(
        box=None, padding=(0, 2, 0, 0), header_style="bold", caption_justify="left",
        caption=f"{result['machine']['gpu']}; copy {speeds['copy_bytes_per_s'] / 1e12:.2f} TB/s; products "
        f"{peaks} TFLOP/s; medians of CUDA's clock; the share of the floor; calls of Python functions, "
        f"eager and captured; MB of ours and PyTorch's; then PyTorch's times over ours, "
        f"above 1 is faster: {', '.join(VARIANTS.values())}",
    )  # fmt: skip
    table.add_column("name", no_wrap=True)
    own = ("eager ms", "captured", "floor", "launches", "calls", "MB")
    for name in (*own, *(HEADS[v] for v in VARIANTS), ""):
        table.add_column(name, justify="right")
    for row in result["rows"]:
        table.add_row(row["name"], *_cells(row))
    return table


def _cells(row: dict[str, Any]) -> list[str]:
    if "ours" not in row:
        return ["-"] * (6 + len(VARIANTS)) + ["wrong" if "wrong" in row else "failed"]
    ours = row["ours"]
    times = [f"{ours[name]['ms']:.3f}" for name in ("eager", "captured")]
    ratios = [f"{row['ratios'][name]:.2f}" if name in row["ratios"] else "-" for name in VARIANTS]
    own = [
        *times,
        percent(row.get("of_floor")),
        str(ours["launches"] or "-"),
        python_of(ours).replace(" ", ""),
        megabytes(row["memory"]).replace(" MB", ""),
    ]
    return [*own, *ratios, row["verdict"]]


def remarks(result: dict[str, Any]) -> list[str]:
    """What the table leaves open: rows that are wrong or failed or left out, and why a peer is not there."""
    lines = []
    for row in result["rows"]:
        lines += [f"{row['name']} {kind}: {row[kind]}" for kind in ("wrong", "failed") if kind in row]
        lines += [
            f"{row['name']}, {VARIANTS[variant]}: {peer['missing']}"
            for variant, peer in row.get("peers", {}).items()
            if "missing" in peer
        ]
    if result["left_out"]:
        lines.append(f"no time for: {', '.join(result['left_out'])}")
    return lines
