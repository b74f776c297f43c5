"""`gpuprop evaluate`: scores of a trained model on a file."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.table import Table
from rich.text import Text

from .cli_support import EXIT_CODES, command, say, table_console, use_device
from .errors import DataError
from .training.classify import Classification
from .training.tasks import Task, load_run

EVALUATE_HELP = f"""Score a trained model on a file.

RUN is the --out of a training. FILE has lines of label<TAB>text for a classifier and source<TAB>target for an
encoder-decoder, in UTF-8; every label must be one that the model knows.

Classifiers: accuracy, loss (mean cross-entropy), macro F1, precision, recall and F1 of each class, the
confusion matrix (rows: the right label, columns: the predicted one) and n.
Encoder-decoders: loss (a target token, the tokens before it given), exact_match (share of targets entirely
right), token_error_rate (edit distance over tokens, divided by the tokens of the targets) and n.

With --json standard output is one JSON object of these and nothing else.

{EXIT_CODES}
"""
EVALUATE_EXAMPLES = """Examples:

  gpuprop evaluate runs/mine test.tsv
  gpuprop evaluate runs/g2p test.tsv --json --beam 5 --multi-reference
"""


@dataclass(kw_only=True)
class EvaluateOptions:
    """gpuprop evaluate"""

    run: Annotated[
        Path, typer.Argument(metavar="RUN", help="The run folder of the model.", show_default=False)
    ]
    file: Annotated[Path, typer.Argument(metavar="FILE", help="The rows to score it on.", show_default=False)]
    json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False
    beam: Annotated[
        int, typer.Option("--beam", min=1, metavar="N", help="Encoder-decoders: width of the beam.")
    ] = 1
    multi_reference: Annotated[
        bool,
        typer.Option(
            "--multi-reference",
            help="Encoder-decoders: lines with one source are several right answers; the closest counts, and "
            "n counts sources.",
        ),
    ] = False
    device: Annotated[
        str | None, typer.Option("--device", metavar="DEVICE", help="auto, cpu, cuda or cuda:N.")
    ] = None


@command(EvaluateOptions)
def evaluate(options: EvaluateOptions) -> None:
    """Score a trained model on a file."""
    use_device(options.device)
    task = load_run(options.run)
    if isinstance(task, Classification) and (options.beam != 1 or options.multi_reference):
        raise DataError(
            f"--beam and --multi-reference are for encoder-decoders; {options.run} is a classifier"
        )
    scores = score(task, options)
    if options.json:
        print(json.dumps(scores, allow_nan=False), flush=True)
        return
    console = table_console()
    for part in tables(scores):
        console.print(part)


def score(task: Task, options: EvaluateOptions) -> dict[str, Any]:
    """The scores of a file, ready for JSON."""
    if isinstance(task, Classification):
        return task.evaluate(task.read(options.file))
    data = task.read(options.file)
    if not options.multi_reference and len({tuple(row) for row in data.sources}) < len(data):
        say(
            f"{options.file}: some sources have several targets; --multi-reference counts the closest of them"
        )
    return task.evaluate(data, options.beam, options.multi_reference)


def tables(scores: dict[str, Any]) -> list[Any]:
    """The scores for a reader: numbers first, then classes and the confusion matrix."""
    top = Table.grid(padding=(0, 2))
    for name, value in scores.items():
        if isinstance(value, (int, float)):
            top.add_row(name.replace("_", " "), f"{value:.4f}" if isinstance(value, float) else f"{value:,}")
    if "per_class" not in scores:
        return [top]
    classes = Table(box=None, padding=(0, 2, 0, 0), header_style="bold")
    classes.add_column("label", overflow="fold")
    for name in ("precision", "recall", "f1", "support"):
        classes.add_column(name, justify="right")
    for label, row in scores["per_class"].items():
        numbers = [f"{row[name]:.4f}" for name in ("precision", "recall", "f1")]
        classes.add_row(Text(label), *numbers, f"{row['support']:,}")
    parts: list[Any] = [top, "", classes]
    if len(scores["labels"]) <= 12:
        parts += ["", "confusion (rows: right label, columns: predicted)", _confusion(scores)]
    return parts


def _confusion(scores: dict[str, Any]) -> Table:
    matrix = Table(box=None, padding=(0, 2, 0, 0), header_style="bold")
    matrix.add_column("", overflow="fold")
    for label in scores["labels"]:
        matrix.add_column(Text(label), justify="right", overflow="ellipsis")
    for label, row in zip(scores["labels"], scores["confusion_matrix"], strict=True):
        matrix.add_row(Text(label), *[f"{count:,}" for count in row])
    return matrix
