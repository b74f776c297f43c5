"""`gpuprop report`: a training as a page, or live in the terminal."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer

from ..training.curves import PlotError
from ..training.report import write_report
from ..training.report.watch import watch
from .support import EXIT_CODES, command, say, use_device

REPORT_HELP = f"""Show what happened inside a training: curves, gradients, slow operations.

RUN is the --out of a training. The report is one HTML page that opens without a network, and PNG files of its
figures: losses and scores; for every layer over time the norms of activations, gradients and updates, dead
units and clipped steps; the model with the gradient that flows back through it; the slowest operations, from
one batch of the training file if that is still there and unchanged; a GPU's power, energy and memory.

With --watch a run in progress is shown in the terminal until it ends.

{EXIT_CODES}
"""
REPORT_EXAMPLES = r"""Examples:

  gpuprop report runs/mine
  gpuprop report runs/mine --out mine.html
  gpuprop report runs/mine --watch
"""


@dataclass(kw_only=True)
class ReportOptions:
    """gpuprop report"""

    run: Annotated[Path, typer.Argument(metavar="RUN", help="The run folder.", show_default=False)]
    out: Annotated[
        Path | None,
        typer.Option(
            "--out",
            metavar="FILE",
            help="The page; PNG files stand beside it. (default: RUN/report.html)",
        ),
    ] = None
    watch: Annotated[bool, typer.Option("--watch", help="Show a run in progress, in the terminal.")] = False
    no_measure: Annotated[
        bool, typer.Option("--no-measure", help="Leave out the slowest operations: run no batch.")
    ] = False
    device: Annotated[
        str | None, typer.Option("--device", metavar="NAME", help="Where operations are measured.")
    ] = None


@command(ReportOptions)
def report(options: ReportOptions) -> None:
    """Show what happened inside a training."""
    if options.watch:
        watch(options.run)
        return
    use_device(options.device)
    try:
        files = write_report(options.run, options.out, measure=not options.no_measure)
    except PlotError as error:  # the page is written
        say(str(error))
        return
    for file in files:
        print(file)
