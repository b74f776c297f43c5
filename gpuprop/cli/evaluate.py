"""`gpuprop evaluate`: scores of a trained model on a file."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.table import Table
from rich.text import Text

from ..errors import DataError
from ..models.decoding import STEEPEST
from ..training.classify import Classification
from ..training.decoding import LENGTH_PENALTY, Decoding
from ..training.seq2seq import SequenceToSequence
from ..training.tasks import load_run
from ..training.text_metrics import GROUPING, POINTS, metric_names
from .support import EXIT_CODES, check_beam, check_number, command, say, table_console, use_device

EVALUATE_HELP = f"""Score a trained model on a file.

RUN is the --out of a training. FILE has lines of label<TAB>text for a classifier and source<TAB>target for an
encoder-decoder, in UTF-8; every label must be one that the model knows.

Classifiers: accuracy, loss (mean cross-entropy), macro F1, precision, recall and F1 of each class, the
confusion matrix (rows: the right label, columns: the predicted one) and n.
Encoder-decoders: loss (a target token, the tokens before it given), perplexity (e^loss), exact_match (share
of targets entirely right), token_error_rate (edit distance over tokens, divided by the tokens of the targets)
and n. With --metric also, of the texts that the model writes:

  bleu    BLEU of sacrebleu, in points, against the lines as they stand
  chrf    chrF2 of sacrebleu, in points
  rouge   ROUGE-1, 2 and L of rouge-score, F1 in points; Latin letters only
  wer     word error: the share of sources whose output is none of the targets
  per     phoneme error: edit distance to the closest target, over its length

bleu, chrf and rouge need the extra text (pip install "gpuprop[text]"). wer and per take the lines of one
source together, as --multi-reference does.

With --json standard output is one JSON object and nothing else: loss, perplexity, exact_match,
token_error_rate, wer, per (fractions), bleu, chrf, rouge1, rouge2, rougeL (points), bleu_signature,
chrf_signature and n.

{EXIT_CODES}
"""
EVALUATE_EXAMPLES = """Examples:

  gpuprop evaluate runs/mine test.tsv
  gpuprop evaluate runs/g2p test.tsv --metric wer,per --beam 5
  gpuprop evaluate runs/de-en test.tsv --metric bleu,chrf --lowercase --json
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
    length_penalty: Annotated[
        float,
        typer.Option(
            "--length-penalty",
            metavar="X",
            help="Encoder-decoders: 0: none, which prefers short texts; above 1: prefer long ones.",
        ),
    ] = LENGTH_PENALTY
    metric: Annotated[
        str,
        typer.Option(
            "--metric",
            metavar="NAME,...",
            help="Encoder-decoders: more scores, of bleu, chrf, rouge, wer, per.",
            show_default=False,
        ),
    ] = ""
    lowercase: Annotated[
        bool, typer.Option("--lowercase", help="bleu, chrf: do not tell Word from word.")
    ] = False
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
    check_beam(options.beam)
    use_device(options.device)
    check_number("--length-penalty", options.length_penalty, 0.0, STEEPEST)
    metrics = metric_names(options.metric) if options.metric else ()
    task = load_run(options.run)
    if isinstance(task, Classification):
        refuse_decoding(options)
        scores = task.evaluate(task.read(options.file))
    else:
        scores = score(task, options, metrics)
    if options.json:
        print(json.dumps(scores, allow_nan=False), flush=True)
        return
    console = table_console()
    for part in tables(scores):
        console.print(part)


def refuse_decoding(options: EvaluateOptions) -> None:
    """Raise DataError for options that mean nothing to a classifier."""
    given = {
        "--beam": options.beam != 1,
        "--length-penalty": options.length_penalty != LENGTH_PENALTY,
        "--metric": bool(options.metric),
        "--lowercase": options.lowercase,
        "--multi-reference": options.multi_reference,
    }
    for name, used in given.items():
        if used:
            raise DataError(f"{name} is for encoder-decoders; {options.run} is a classifier: leave it out")


def score(task: SequenceToSequence, options: EvaluateOptions, metrics: Sequence[str]) -> dict[str, Any]:
    """The scores of a file, ready for JSON."""
    data = task.read(options.file)
    group = options.multi_reference or bool(set(metrics) & set(GROUPING))
    if not group and data.repeated():
        say(
            f"{options.file}: some sources have several targets; --multi-reference counts the closest of them"
        )
    how = Decoding(beam=options.beam, length_penalty=options.length_penalty)
    return task.evaluate(data, how, group, metrics, options.lowercase)


def tables(scores: dict[str, Any]) -> list[Any]:
    """The scores for a reader: numbers first, then classes and the confusion matrix."""
    top = Table.grid(padding=(0, 2))
    for name, value in scores.items():
        if isinstance(value, (int, float)):
            top.add_row(name.replace("_", " "), number(name, value))
        elif isinstance(value, str):
            top.add_row(name.replace("_", " "), Text(value))
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


def number(name: str, value: float) -> str:
    """A score as a table shows it: points with two decimals, other scores with four."""
    if isinstance(value, int):
        return f"{value:,}"
    return f"{value:.2f}" if name in (*POINTS, "perplexity") else f"{value:.4f}"


def _confusion(scores: dict[str, Any]) -> Table:
    matrix = Table(box=None, padding=(0, 2, 0, 0), header_style="bold")
    matrix.add_column("", overflow="fold")
    for label in scores["labels"]:
        matrix.add_column(Text(label), justify="right", overflow="ellipsis")
    for label, row in zip(scores["labels"], scores["confusion_matrix"], strict=True):
        matrix.add_row(Text(label), *[f"{count:,}" for count in row])
    return matrix
