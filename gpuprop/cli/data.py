"""`gpuprop data`: public data sets, as files to train on."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table
from rich.text import Text

from ..errors import DataError
from ..text import datasets
from .support import say, table_console

app = typer.Typer(no_args_is_help=True)


@app.callback()
def data() -> None:
    """Public data sets: what there is, and files of them to train on.

    Files are looked for in the folder GPUPROP_DATA, then in the cache, then at their origin; their SHA-256 is
    checked.
    """


@app.command("list")
def list_command(
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON, with citations.")] = False,
) -> None:
    """List the data sets with their task, rows and licence. Fetches nothing."""
    sets = datasets.list_datasets()
    if as_json:
        names = ("name", "task", "description", "licence", "source", "citation")
        found = [{**{n: getattr(d, n) for n in names}, "rows": dict(d.rows)} for d in sets]
        print(json.dumps(found, indent=2))
        return
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="bold")
    for name in ("name", "task", "rows", "licence"):
        table.add_column(name, no_wrap=name == "name")
    for d in sets:
        rows = " / ".join(f"{count:,}" for count in d.rows.values())
        table.add_row(d.name, d.task, rows, Text(d.licence))
    table_console().print(table)


@app.command("get")
def get_command(
    name: Annotated[
        str, typer.Argument(metavar="NAME", help="A name of `gpuprop data list`.", show_default=False)
    ],
    out: Annotated[Path, typer.Option("--out", metavar="DIR", help="The folder to write to.")],
    option: Annotated[
        list[str] | None,
        typer.Option("--option", metavar="NAME=VALUE", help="A choice that the data set offers."),
    ] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace files that exist.")] = False,
) -> None:
    """Write a data set as train.tsv, dev.tsv, test.tsv and LICENCE.txt, ready for `gpuprop train`.

    Example: gpuprop data get vader_movie --out data/movie
    """
    chosen = dict(_pair(text) for text in option or [])
    info = datasets.info(name)
    say(f"{name}: {info.description}\nlicence: {info.licence}\nsource: {info.source}")
    for path in datasets.export(name, out, overwrite, **chosen):
        print(path)


def _pair(text: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not equals:
        raise DataError(f"--option must be NAME=VALUE, not {text!r}")
    return name, value
