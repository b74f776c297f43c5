"""The README's table from results of `gpuprop bench --json FILE`, one for each number of threads.

python -m gpuprop.bench.readme_table FILE...            print it
python -m gpuprop.bench.readme_table FILE... README.md  write it between the marks in README.md

A result of `gpuprop bench --growth --json FILE` among the files adds the exponents below the table.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from gpuprop.errors import DataError

START, END = "<!-- bench: start -->", "<!-- bench: end -->"


def markdown(*results: dict[str, Any]) -> str:
    """The rows as a Markdown table, with the machine and the versions below it."""
    timed = [result for result in results if "rows" in result]
    peer = any("torch" in row for result in timed for row in result["rows"])
    head = ["", "work"]
    for result in timed:
        named = f"{_threads(result)}: gpuprop ms"
        head += [named] + (["PyTorch ms", "ratio"] if peer else [])
    lines = [f"| {' | '.join(head)} |", f"| --- | --- |{' ---: |' * (len(head) - 2)}"]
    for row in timed[0]["rows"]:
        lines.append(f"| {row['name']} | {row['shape']} | {' | '.join(_cells(row['name'], timed, peer))} |")
    host = timed[0]["machine"]
    versions = ", ".join(f"{name} {version}" for name, version in timed[0]["versions"].items())
    lines += ["", f"{host['processor']}, {host['system']}; {versions}. Medians; CPU time with one thread."]
    for result in results:
        if "growth" in result:
            found = ", ".join(f"{row['name']} {row['exponent']:.2f}" for row in result["growth"])
            lines.append(f"A step's cost grows with its rows to the power of: {found}.")
    return "\n".join(lines) + "\n"


def _threads(result: dict[str, Any]) -> str:
    return "1 thread" if result["threads"] == 1 else f"{result['threads']} threads"


def _cells(name: str, results: Sequence[dict[str, Any]], peer: bool) -> list[str]:
    """What each result has of the row `name`: ours, and where there is a peer its time and the ratio."""
    cells = []
    for result in results:
        row: dict[str, Any] = next((r for r in result["rows"] if r["name"] == name), {})
        time = time_of(result["threads"])
        cells.append(f"{row['gpuprop'][time]:.2f}" if row else "")
        if peer:
            there = "torch" in row
            cells += [f"{row['torch'][time]:.2f}", f"{ratio(row, time):.2f}"] if there else ["", ""]
    return cells


def time_of(threads: int) -> str:
    """Which time counts: with one thread that of the CPU, which other load on the machine hardly changes."""
    return "cpu_ms" if threads == 1 else "wall_ms"


def ratio(row: dict[str, Any], time: str = "wall_ms") -> float:
    """Our time over PyTorch's: below 1 is faster."""
    return float(row["gpuprop"][time] / row["torch"][time])


def put(text: str, table: str, first: str = START, last: str = END) -> str:
    """`text` with the table between the marks `first` and `last`. Raises DataError where they are missing."""
    before, start, rest = text.partition(first)
    _, end, after = rest.partition(last)
    if not start or not end:
        raise DataError(f"the file needs the lines {first} and {last}: the table goes between them")
    return f"{before}{first}\n{table}{last}{after}"


def main(arguments: list[str]) -> int:
    """The script: prints the table, or writes it into a file."""
    sources = [name for name in arguments if name.endswith(".json")]
    targets = [name for name in arguments if not name.endswith(".json")]
    if not sources or len(targets) > 1:
        print(__doc__, file=sys.stderr)
        return 2
    table = markdown(*(json.loads(Path(name).read_text(encoding="utf-8")) for name in sources))
    if not targets:
        print(table, end="")
        return 0
    target = Path(targets[0])
    target.write_text(put(target.read_text(encoding="utf-8"), table), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
