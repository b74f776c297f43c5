"""`gpuprop kernels`: what kernels compile to, and whether they are right, without a GPU."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from ..backend import device, kernels, nvrtc
from ..backend.emulator import ORDERS
from ..backend.occupancy import LIMITS, occupancy
from ..backend.signatures import parse_kernels
from ..errors import DataError, DeviceError
from .kernel_check import Check, check_ours, check_theirs
from .support import say

app = typer.Typer(no_args_is_help=True)
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")]


File = Annotated[
    Path | None,
    typer.Argument(
        metavar="FILE.cu", help="A file of your own; without it, the project's.", show_default=False
    ),
]
Archs = Annotated[
    list[str] | None,
    typer.Option(
        "--arch",
        metavar="SM",
        help=f"An architecture, e.g. sm_90; may be repeated. [all of: {', '.join(nvrtc.ARCHITECTURES)}]",
    ),
]
Names = Annotated[
    list[str] | None,
    typer.Option(
        "--name",
        metavar="KERNEL",
        help='A template with its arguments, e.g. "scale<float>"; may be repeated.',
    ),
]
Flags = Annotated[
    list[str] | None,
    typer.Option(
        "--option", metavar="FLAG", help="A flag for the compiler, e.g. -DTILE=32; may be repeated."
    ),
]
Threads = Annotated[
    int,
    typer.Option(
        "--threads", metavar="N", min=1, max=1024, help="Threads a block, which the column warps supposes."
    ),
]
Files = Annotated[
    list[Path] | None,
    typer.Argument(
        metavar="FILE.cu", help="Files of your own; without any, the project's kernels.", show_default=False
    ),
]
Driver = Annotated[
    Path | None,
    typer.Option(
        "--driver", metavar="FILE.py", help="Python that launches them: see above.", show_default=False
    ),
]
Orders = Annotated[
    list[str] | None,
    typer.Option(
        "--order", metavar="ORDER", help=f"A thread order: {', '.join(ORDERS)}; may be repeated. [all]"
    ),
]
Seed = Annotated[int, typer.Option("--seed", help="The seed of the random order.")]
TimeLimit = Annotated[
    float, typer.Option("--time-limit", metavar="SECONDS", help="The longest a launch may take.")
]


@app.callback()
def group() -> None:
    """CUDA kernels, ours or your own: list them, compile them, run them under a checker. None needs a GPU."""


@app.command("list")
def list_command(as_json: AsJson = False) -> None:
    """List the project's kernel files, their kernels, and the types they are launched with."""
    files = kernels.kernel_files()
    if as_json:
        rows = [
            {
                "file": f.path.name,
                "path": str(f.path),
                "kernels": f.kernels,
                "instantiations": f.instantiations,
            }
            for f in files
        ]
        print(json.dumps(rows, indent=2))
        return
    table = _table(("file", "kernels", "types"))
    for file in files:
        table.add_row(file.path.name, Text("\n".join(file.kernels)), Text("\n".join(file.instantiations)))
    Console(highlight=False).print(table)


@app.command("compile")
def compile_command(
    file: File = None,
    arch: Archs = None,
    name: Names = None,
    option: Flags = None,
    threads: Threads = 256,
    as_json: AsJson = False,
) -> None:
    """Compile kernels with NVRTC and show the registers, shared memory, stack and spills of each, and how
    many warps a multiprocessor holds at once.

    Needs no GPU and no driver. Exit code 1 when something does not compile.
    """
    rows: list[nvrtc.CompiledKernel] = []
    for one in arch or nvrtc.ARCHITECTURES:
        for path, names in _sources(file, name or []):
            folders = [f"-I{path.resolve().parent}", f"-I{kernels.folder()}"]
            compiled = nvrtc.compile_cubin(_text(path), one, names, [*(option or []), *folders], path.name)
            rows += compiled.kernels
    if as_json:
        print(json.dumps([{**asdict(row), "warps": _warps(row, threads)} for row in rows], indent=2))
        return
    counts = ("registers", "shared", "warps", "stack", "spill\nstores", "spill\nloads")
    table = _table(("kernel", "arch"), counts)
    for row in rows:
        used = (row.registers, row.shared_bytes, _warps(row, threads))
        numbers = (*used, row.stack_bytes, row.spill_stores, row.spill_loads)
        table.add_row(Text(row.name), row.arch, *("?" if n is None else str(n) for n in numbers))
    Console(highlight=False).print(table)


def _warps(kernel: nvrtc.CompiledKernel, threads: int) -> int | None:
    """That a multiprocessor holds, without dynamic shared memory; None where its limits are unknown."""
    if kernel.arch not in LIMITS:
        return None
    return occupancy(kernel.arch, threads, kernel.registers, kernel.shared_bytes).warps


@app.command("check")
def check_command(
    files: Files = None,
    driver: Driver = None,
    order: Orders = None,
    seed: Seed = 1,
    time_limit: TimeLimit = 60.0,
    as_json: AsJson = False,
) -> None:
    """Run kernels on the CPU under the checker, in every thread order: bounds, races, barriers, values.

    The project's kernels are compared with their formulas. For your own, the driver has functions whose names
    begin with "check": each gets the loaded file (gp.kernels.Module), makes NumPy arrays, launches kernels
    and compares with assert. A list NAMES in it names the template kernels to load, OPTIONS the compiler's
    flags.

    Exit code 1 when something was found.
    """
    unknown = [one for one in order or () if one not in ORDERS]
    if unknown:
        raise DataError(f"--order must be one of {', '.join(ORDERS)}, not {unknown[0]!r}")
    reason = device.emulated_reason()
    if reason is not None:
        raise DeviceError(reason)
    results = _checks(files or [], driver, tuple(order or ORDERS), seed, time_limit)
    if as_json:
        print(json.dumps([asdict(check) for check in results], indent=2))
    else:
        _print_checks(results)
    failed = sum(not check.ok for check in results)
    if failed:
        say(f"gpuprop: {failed} of {len(results)} checks failed")
    raise typer.Exit(1 if failed else 0)


def _checks(
    files: list[Path], driver: Path | None, orders: Sequence[str], seed: int, time_limit: float
) -> list[Check]:
    if not files:
        if driver is not None:
            raise DataError("--driver launches kernels of your own: name their file too")
        return check_ours(orders, seed, time_limit)
    if driver is None:
        raise DataError(
            f"{files[0]}: say how to launch its kernels with --driver FILE.py (gpuprop kernels check --help)"
        )
    return [check for file in files for check in check_theirs(file, driver, orders, seed, time_limit)]


def _sources(file: Path | None, names: list[str]) -> list[tuple[Path, list[str]]]:
    """The files to compile, each with the kernels wanted of it."""
    if file is None:
        if names:
            raise DataError("--name is for a file of your own: name the file too")
        return [
            (one.path, [n for group in one.instantiations.values() for n in group])
            for one in kernels.kernel_files()
        ]
    declared = parse_kernels(_text(file))
    plain = [kernel.name for kernel in declared.values() if not kernel.template]
    if not plain and not names:
        if not declared:
            raise DataError(f"{file} defines no __global__ function")
        what = ", ".join(declared)
        raise DataError(f'{file} defines {what}: name templates with their arguments, --name "scale<float>"')
    return [(file, [*plain, *names])]


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"cannot be read: {error}", path) from error


def _table(left: Sequence[str], right: Sequence[str] = ()) -> Table:
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="bold")
    for name in left:
        table.add_column(name, overflow="fold")
    for name in right:
        table.add_column(name, justify="right", no_wrap=True)
    return table


def _print_checks(results: list[Check]) -> None:
    table = _table(("file", "check", "order"), ("result",))
    for check in results:
        result = Text("ok", style="green") if check.ok else Text("FAIL", style="bold red")
        table.add_row(check.file, Text(check.name), check.order, result)
    console = Console(highlight=False)
    console.print(table)
    for check in results:
        for line in check.findings:
            console.print(Text(f"\n{check.file}, {check.name}, {check.order}: {line}"), soft_wrap=True)
