"""The README's table from a result of `gpuprop bench --json FILE`.

python -m gpuprop.bench.readme_table FILE            print it
python -m gpuprop.bench.readme_table FILE README.md  write it between the marks in README.md
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from gpuprop.errors import DataError

START, END = "<!-- bench: start -->", "<!-- bench: end -->"


def markdown(result: dict[str, Any]) -> str:
    """The rows as a Markdown table, with the machine and the versions below it."""
    peer = any("torch" in row for row in result["rows"])
    head = ["", "work", "gpuprop ms"] + (["PyTorch ms", "ratio"] if peer else [])
    lines = [f"| {' | '.join(head)} |", f"| --- | --- |{' ---: |' * (len(head) - 2)}"]
    for row in result["rows"]:
        cells = [row["name"], row["shape"], f"{row['gpuprop']['wall_ms']:.2f}"]
        if "torch" in row:
            cells += [f"{row['torch']['wall_ms']:.2f}", f"{ratio(row):.2f}"]
        lines.append(f"| {' | '.join(cells)} |")
    host = result["machine"]
    versions = ", ".join(f"{name} {version}" for name, version in result["versions"].items())
    lines += ["", f"{host['processor']}, {result['threads']} threads, {host['system']}; {versions}."]
    return "\n".join(lines) + "\n"


def ratio(row: dict[str, Any]) -> float:
    """Our time over PyTorch's: below 1 is faster."""
    return float(row["gpuprop"]["wall_ms"] / row["torch"]["wall_ms"])


def put(text: str, table: str, first: str = START, last: str = END) -> str:
    """`text` with the table between the marks `first` and `last`. Raises DataError where they are missing."""
    before, start, rest = text.partition(first)
    _, end, after = rest.partition(last)
    if not start or not end:
        raise DataError(f"the file needs the lines {first} and {last}: the table goes between them")
    return f"{before}{first}\n{table}{last}{after}"


def main(arguments: list[str]) -> int:
    """The script: prints the table, or writes it into a file."""
    if len(arguments) not in (1, 2):
        print(__doc__, file=sys.stderr)
        return 2
    table = markdown(json.loads(Path(arguments[0]).read_text(encoding="utf-8")))
    if len(arguments) == 1:
        print(table, end="")
        return 0
    target = Path(arguments[1])
    target.write_text(put(target.read_text(encoding="utf-8"), table), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
