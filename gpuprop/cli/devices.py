"""The commands `gpuprop devices` and `gpuprop doctor`."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import Annotated, Any

import typer
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from gpuprop.backend.diagnose import CUDA, EMULATED, Step, diagnose, usable
from gpuprop.backend.inventory import devices_report

from .support import table_console

AsJson = Annotated[bool, typer.Option("--json", help="Print JSON instead of tables.")]
_MARKS = {True: ("ok", "green"), False: ("FAIL", "bold red"), None: ("-", "dim")}


def devices(as_json: AsJson = False) -> None:
    """List the CPU and every GPU: memory, compute capability, utilization, power; CUDA and CuPy versions."""
    report = devices_report()
    if as_json:
        typer.echo(json.dumps(report, indent=2))
    else:
        table_console().print(render_devices(report))


def doctor(as_json: AsJson = False) -> None:
    """Say why a GPU can or cannot be used: each step tried, the original error, the command that fixes it.

    Exit code 0 when a GPU can be used, 1 otherwise.
    """
    steps = diagnose()
    if as_json:
        answer = {"cuda": usable(steps), "emulated": usable(steps, EMULATED)}
        typer.echo(json.dumps(answer | {"steps": [asdict(step) for step in steps]}, indent=2))
    else:
        table_console().print(render_steps(steps))
    raise typer.Exit(0 if usable(steps) else 1)


def render_devices(report: dict[str, Any]) -> RenderableType:
    """The report of `devices_report` as tables; fits 80 columns."""
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="bold")
    for name in ("device", "name"):
        table.add_column(name, overflow="fold")
    for name in ("free/total\nGiB", "compute", "busy", "power"):
        table.add_column(name, justify="right", no_wrap=True)
    cpu = report["cpu"]
    table.add_row("cpu", Text(f"{cpu['model']}, {cpu['cores']} cores"), _memory(cpu), "", "", "")
    for gpu in report["gpus"]:
        table.add_row(
            gpu["device"] or "hidden",
            Text(gpu["name"] or "?"),
            _memory(gpu),
            gpu["compute_capability"] or "-",
            "-" if gpu["utilization"] is None else f"{gpu['utilization']} %",
            _power(gpu),
        )
    if report["emulated_problem"] is None:
        table.add_row("emulated", "kernels on the CPU, checked", "", "", "", "")
    parts: list[RenderableType] = [table, Text(), Text(_versions(report))]
    if any(gpu["device"] is None for gpu in report["gpus"]):
        visible = report["cuda_visible_devices"]
        parts += [
            Text(),
            Text(f"hidden: NVML lists it, CUDA does not show it (CUDA_VISIBLE_DEVICES={visible})"),
        ]
    for name, problem in (("GPU", report["gpu_problem"]), ("emulated", report["emulated_problem"])):
        if problem:
            parts += [Text(), Text.assemble((f"{name}: ", "bold"), problem)]
    return Group(*parts)


def render_steps(steps: list[Step]) -> RenderableType:
    """The steps of `diagnose` as a list, with the error and the fix under those that failed."""
    grid = Table.grid(padding=(0, 1))
    grid.add_column(width=4)
    grid.add_column(no_wrap=True)
    grid.add_column(overflow="fold")
    for step in steps:
        mark, style = _MARKS[step.ok]
        detail = Text(step.detail, style="dim" if step.ok is None else "")
        if step.ok is False:
            detail = Text.assemble(step.error, ("\nfix: ", "bold"), step.fix)
        grid.add_row(Text(mark, style=style), step.name, detail)
    return Group(grid, Text(), Text(_verdict(steps)))


def _verdict(steps: list[Step]) -> str:
    if usable(steps):
        return 'A GPU can be used: --device cuda, or gp.set_device("cuda").'
    first = next(
        (step.name for step in steps if step.device == CUDA and step.ok is False and step.needed), ""
    )
    return f"No GPU can be used; the CPU works. Start with the fix of: {first}."


def _memory(place: dict[str, Any]) -> str:
    free, total = place["memory_free"], place["memory_total"]
    return f"{_gib(free)}/{_gib(total)}"


def _gib(size: int | None) -> str:
    if size is None:
        return "?"
    return f"{size / 2**30:.0f}" if size >= 100 * 2**30 else f"{size / 2**30:.1f}"


def _power(gpu: dict[str, Any]) -> str:
    if gpu["power"] is None:
        return "-"
    return (
        f"{gpu['power']:.0f} W"
        if gpu["power_limit"] is None
        else f"{gpu['power']:.0f}/{gpu['power_limit']:.0f} W"
    )


def _versions(report: dict[str, Any]) -> str:
    cupy = ", ".join(f"{name} {version}" for name, version in report["cupy"].items()) or "CuPy not installed"
    cuda = f"CUDA runtime {report['cuda_runtime'] or 'none'}, driver {report['cuda_driver'] or 'none'}"
    own = f"gpuprop {report['gpuprop'] or '(not installed)'}"
    return f"{own}, Python {report['python']}, NumPy {report['numpy']}, {cupy}, {cuda}"
