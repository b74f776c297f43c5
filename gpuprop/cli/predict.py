"""`gpuprop predict`: one line out for each line in, as they come."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Annotated, Any, BinaryIO

import typer

from ..errors import DataError
from ..models.decoding import STEEPEST
from ..training.classify import Classification
from ..training.decoding import LENGTH_PENALTY, Decoding
from ..training.rows import check_lengths, most_tokens
from ..training.tasks import Task, load_run
from .answers import Answers, LabelAnswers, Pictures, WrittenAnswers
from .support import EXIT_CODES, check_beam, check_number, command, say, use_device

CHUNK = 1 << 16  # bytes read at a time, where so many are there already
MOST_LINES = 512  # predicted at a time

PREDICT_HELP = f"""Predict one line for each line of standard input.

RUN is the --out of a training. The input is UTF-8, a text a line. A classifier answers
label<TAB>probability, an encoder-decoder the decoded target. Lines are answered as they come, in their order.

With --n-best N an encoder-decoder answers exactly N lines a line, text<TAB>score, best first (empty ones
where the beam found fewer): every N-th line is a best one, as in `awk 'NR % 3 == 1'`. The score is the
log-probability over the length penalty. With --sample the texts are drawn by chance, in the order of drawing;
the score is then the log-probability.

With --json each line is an object: input and label, probability; or input, unknown (tokens that did not occur
in training) and outputs, a list of text, score, log_probability, finished (false where --max-length cut it
off).

A line that cannot be read (empty, not UTF-8, too long for the model) gets empty lines (with --json: error)
and a message on standard error, and the exit code is 1 at the end. So it is for characters and symbols that
did not occur in training, but such a line is answered; of unknown words there is one message at the end.

{EXIT_CODES}
"""
PREDICT_EXAMPLES = """Examples:

  gpuprop predict runs/mine < lines.txt > labels.tsv
  echo "a moving and funny film" | gpuprop predict runs/mine
  gpuprop predict runs/g2p --beam 5 --n-best 3 < words.txt
  gpuprop predict runs/headline --sample --temperature 0.7 < texts.txt
  echo "ein Hund" | gpuprop predict runs/de-en --beam 5 --attention dog.png
"""

_DECODING = "Encoder-decoders"


def option(flag: str, help: str, metavar: str | None = None, least: int | None = None) -> Any:
    """An option of decoding."""
    return typer.Option(flag, help=help, metavar=metavar, min=least, rich_help_panel=_DECODING)


@dataclass(kw_only=True)
class PredictOptions:
    """gpuprop predict"""

    run: Annotated[
        Path, typer.Argument(metavar="RUN", help="The run folder of the model.", show_default=False)
    ]
    beam: Annotated[int, option("--beam", "Width of the beam, at most 1000.", "N", 1)] = 1
    n_best: Annotated[int, option("--n-best", "Answer N lines text<TAB>score a line.", "N", 1)] = 1
    max_length: Annotated[
        int | None,
        option(
            "--max-length",
            "The most tokens to write. (default: half as many again as the longest target in training)",
            "N",
            1,
        ),
    ] = None
    length_penalty: Annotated[
        float,
        option("--length-penalty", "0: none, which prefers short texts; above 1: prefer long ones.", "X"),
    ] = LENGTH_PENALTY
    sample: Annotated[bool, option("--sample", "Draw texts by the model's probabilities.")] = False
    temperature: Annotated[
        float | None,
        option("--temperature", "--sample: below 1 likely tokens become likelier. (default 1)", "T"),
    ] = None
    top_k: Annotated[int | None, option("--top-k", "--sample: only of the K likeliest tokens.", "K", 1)] = (
        None
    )
    seed: Annotated[
        int | None,
        option("--seed", "--sample: same seed, same texts, on every device. (default 0)", "N", 0),
    ] = None
    attention: Annotated[
        Path | None,
        option(
            "--attention",
            "Draw what the model attended to, as a PNG; of several lines FILE-1.png, FILE-2.png, ...",
            "FILE.png",
        ),
    ] = None
    json: Annotated[bool, typer.Option("--json", help="Answer JSON, an object a line.")] = False
    device: Annotated[
        str | None, typer.Option("--device", metavar="DEVICE", help="auto, cpu, cuda or cuda:N.")
    ] = None


@command(PredictOptions)
def predict(options: PredictOptions) -> None:
    """Predict one line for each line of standard input."""
    how = decoding(options)
    pictures = None if options.attention is None else Pictures(options.attention)
    use_device(options.device)
    task = load_run(options.run)
    if isinstance(task, Classification):
        refuse_decoding(options)
        answers: Answers = LabelAnswers(task, options.json)
    else:
        answers = WrittenAnswers(task, how, options.json, pictures)
    if sys.stdin.isatty():
        say("a text a line, please; Ctrl-D ends")
    if answer_all(task, answers, sys.stdin.buffer, sys.stdout.buffer):
        raise typer.Exit(1)


def decoding(options: PredictOptions) -> Decoding:
    """How to write, or DataError for options that do not go together."""
    chance = {"--temperature": options.temperature, "--top-k": options.top_k, "--seed": options.seed}
    check_beam(options.beam)
    given = [name for name, value in chance.items() if value is not None]
    if given and not options.sample:
        raise DataError(f"{given[0]} is about drawing by chance: add --sample")
    if options.sample and options.beam != 1:
        raise DataError("--beam searches and --sample draws by chance: leave one out")
    if not options.sample and options.n_best > options.beam:
        raise DataError(f"--n-best {options.n_best} needs a beam as wide: add --beam {options.n_best}")
    check_number("--length-penalty", options.length_penalty, 0.0, STEEPEST)
    check_number("--temperature", options.temperature, 0.0, strict=True)
    if options.seed is not None and options.seed >= 1 << 64:
        raise DataError(f"--seed must be below 2^64, not {options.seed}")
    return Decoding(
        beam=options.beam,
        n_best=options.n_best,
        max_length=options.max_length,
        length_penalty=options.length_penalty,
        sample=options.sample,
        temperature=1.0 if options.temperature is None else options.temperature,
        top_k=options.top_k,
        seed=options.seed or 0,
    )


def refuse_decoding(options: PredictOptions) -> None:
    """Raise DataError for options that mean nothing to a classifier."""
    for field in fields(options):
        name = f"--{field.name.replace('_', '-')}"
        if field.name not in ("run", "json", "device") and getattr(options, field.name) != field.default:
            raise DataError(f"{name} is for encoder-decoders; {options.run} is a classifier: leave it out")


def answer_all(task: Task, answers: Answers, source: BinaryIO, sink: BinaryIO) -> int:
    """Answer every line of `source` on `sink`; returns how many could not be answered."""
    failed, number = 0, 0
    for lines in arriving(source):
        texts: dict[int, str] = {}
        blocks: dict[int, str] = {}
        for line in lines:
            number += 1
            try:
                texts[number] = readable(task, line, number)
            except DataError as error:
                say(f"standard input, line {number}: {error}")
                blocks[number] = answers.refused(str(error))
        failed += len(blocks)
        blocks |= zip(texts, answers.answer(list(texts.values()), list(texts)), strict=True)
        sink.write("".join(blocks[n] for n in sorted(blocks)).encode("utf-8"))
        sink.flush()
    answers.close()
    return failed + answers.failed


def arriving(source: BinaryIO) -> Iterator[list[bytes]]:
    """Lines in bunches: all that have come so far, at most `MOST_LINES`, without waiting for more."""
    begun: list[bytes] = []  # parts of a line whose end has not come
    read: Callable[[int], bytes] = getattr(source, "read1", source.read)
    while chunk := read(CHUNK):
        first, *others = chunk.split(b"\n")
        begun.append(first)
        if not others:
            continue
        lines = [b"".join(begun), *others[:-1]]
        begun = [others[-1]]
        for start in range(0, len(lines), MOST_LINES):
            yield lines[start : start + MOST_LINES]
    if any(begun):
        yield [b"".join(begun)]


def readable(task: Task, line: bytes, number: int) -> str:
    """The text of a line. Raises DataError saying what is wrong with it."""
    try:
        text = line.removesuffix(b"\r").decode("utf-8-sig" if number == 1 else "utf-8")
    except UnicodeDecodeError as error:
        byte = f"byte 0x{line[error.start]:02x}"
        raise DataError(f"is not UTF-8 ({byte}); convert it, for example with iconv") from error
    if not text.strip():
        raise DataError("is empty: nothing to predict")
    if isinstance(task, Classification):
        field, positions = task.field, None
    else:
        field, positions = task.source, task.model.longest_source
    if len(line) * field.ngram > most_tokens(field, positions):  # only then can it have so many tokens
        check_lengths([field.ids(text)], field, positions=positions)
    return text
