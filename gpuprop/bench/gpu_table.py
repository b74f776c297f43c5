"""The README's table of the GPU bench, from a result of `gpuprop bench --suite gpu`, or of `make gpu`.

python -m gpuprop.bench.gpu_table [FILE.json]            print it
python -m gpuprop.bench.gpu_table [FILE.json] README.md  write it between the marks in README.md

Without a file it is that of the newest result in gpuprop/bench/results; while there is none, the table holds
the targets and says that no GPU has run them.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from .gpu_case import VARIANTS, GpuCase
from .gpu_catalogue import gpu_cases
from .gpu_suite import RESULTS
from .gpu_targets import UNKNOWN, in_words
from .readme_table import put

START, END = "<!-- bench-gpu: start -->", "<!-- bench-gpu: end -->"
NOT_YET = "not measured on a GPU yet"
SHOWN = ("eager", "compiled", "reduce_overhead", "graph")


def newest(folder: Path = RESULTS) -> Path | None:
    """The result of the last date; None where there is none."""
    found = sorted(folder.glob("*.json"), key=lambda path: path.stem[-10:])
    return found[-1] if found else None


def markdown(result: Mapping[str, Any] | None) -> str:
    """The rows as a Markdown table; with a result, the machine and the speeds below it."""
    known = {row["name"]: row for row in result["rows"]} if result else {}
    head = ["", "work", "pass", "stretch"]
    if result:
        own = ["ours ms", "of floor", "launches", "Python calls"]
        head += [*own, *(f"{VARIANTS[v]} / ours" for v in SHOWN), "memory", ""]
    else:
        head += ["result"]
    lines = [f"| {' | '.join(head)} |", f"| --- | --- | --- | --- |{' ---: |' * (len(head) - 4)}"]
    for name, case in gpu_cases().items():
        targets = [name, case.work, in_words(case.passing), in_words(case.stretch)]
        cells = _cells(case, known.get(name)) if result else [NOT_YET]
        lines.append(f"| {' | '.join([*targets, *cells])} |")
    return "\n".join([*lines, *(["", *_below(result)] if result else [])]) + "\n"


def _cells(case: GpuCase, row: Mapping[str, Any] | None) -> list[str]:
    """What was measured of a row; dashes where nothing was."""
    if row is None or "ours" not in row:
        word = UNKNOWN if row is None else "**wrong**" if "wrong" in row else "**failed**"
        return ["-"] * (5 + len(SHOWN)) + [word]
    ours, ratios = row["ours"], dict(row["ratios"])
    best_eager = [ratios[v] for v in ("eager", "channels_last") if v in ratios]
    cells = [f"{ours[ours['best']]['ms']:.3f}", percent(row.get("of_floor")), str(ours["launches"] or "-")]
    cells.append(python_of(ours))
    for variant in SHOWN:
        found = best_eager if variant == "eager" else [ratios[v] for v in (variant,) if v in ratios]
        cells.append(" / ".join(f"{ratio:.2f}" for ratio in found) or "-")
    return [*cells, megabytes(row["memory"]), row["verdict"]]


def percent(share: float | None) -> str:
    """A share in per cent, or a dash."""
    return "-" if share is None else f"{100 * share:.0f} %"


def python_of(ours: Mapping[str, Any]) -> str:
    """Calls of Python functions on the host, eager and captured."""
    calls = ours.get("python_calls")
    return "-" if calls is None else f"{calls['eager']} / {calls['captured']}"


def megabytes(memory: Mapping[str, Any]) -> str:
    """Ours and PyTorch's."""
    return " / ".join(
        "-" if memory.get(name) is None else f"{memory[name] / 1e6:,.0f} MB"
        for name in ("gpuprop_pool", "torch_allocated")
    )


def _below(result: Mapping[str, Any]) -> list[str]:
    machine, speeds = result["machine"], result["speeds"]
    versions = ", ".join(f"{name} {version}" for name, version in result["versions"].items())
    peaks = ", ".join(f"{flops / 1e12:.0f} TFLOP/s {name}" for name, flops in speeds["flops_per_s"].items())
    lines = [
        f"{machine['gpu']}, driver {machine['driver']}; {versions}; {result['date']}. Copy "
        f"{speeds['copy_bytes_per_s'] / 1e12:.2f} TB/s, products {peaks}. Medians by CUDA's clock, ours the "
        "faster of eager and captured; ratios above 1 are faster than PyTorch (two of a convolution: conv1d "
        "/ channels-last conv2d)."
    ]
    if result["left_out"]:
        lines.append(f"No time for {', '.join(result['left_out'])}.")
    return lines


def main(arguments: list[str]) -> int:
    """The script: prints the table, or writes it into a file."""
    sources = [Path(name) for name in arguments if name.endswith(".json")]
    targets = [Path(name) for name in arguments if not name.endswith(".json")]
    if len(sources) > 1 or len(targets) > 1 or any(name.startswith("-") for name in arguments):
        print(__doc__, file=sys.stderr)
        return 2
    source = sources[0] if sources else newest()
    found = None if source is None else json.loads(source.read_text(encoding="utf-8"))
    table = markdown(found["bench"]["results"] if found and "bench" in found else found)
    if not targets:
        print(table, end="")
        return 0
    text = targets[0].read_text(encoding="utf-8")
    targets[0].write_text(put(text, table, START, END), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
