"""`gpuprop predict`: one line out for each line in, as they come."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, BinaryIO

import typer

from .cli_support import EXIT_CODES, command, say, use_device
from .errors import DataError
from .training.classify import Classification
from .training.rows import LONGEST, check_lengths
from .training.tasks import Task, load_run

CHUNK = 1 << 16  # bytes read at a time, where so many are there already
MOST_LINES = 512  # predicted at a time

PREDICT_HELP = f"""Predict one line for each line of standard input.

RUN is the --out of a training. The input is UTF-8, a text a line. A classifier answers
label<TAB>probability, an encoder-decoder the decoded target. Lines are answered as they come, in their order.

A line that cannot be read (empty, not UTF-8, endless) gets an empty line and a message on standard error, and
the exit code is 1 at the end.

{EXIT_CODES}
"""
PREDICT_EXAMPLES = """Examples:

  gpuprop predict runs/mine < lines.txt > labels.tsv
  echo "a moving and funny film" | gpuprop predict runs/mine
  gpuprop predict runs/g2p --beam 5 < words.txt
"""


@dataclass(kw_only=True)
class PredictOptions:
    """gpuprop predict"""

    run: Annotated[
        Path, typer.Argument(metavar="RUN", help="The run folder of the model.", show_default=False)
    ]
    beam: Annotated[
        int, typer.Option("--beam", min=1, metavar="N", help="Encoder-decoders: width of the beam.")
    ] = 1
    device: Annotated[
        str | None, typer.Option("--device", metavar="DEVICE", help="auto, cpu, cuda or cuda:N.")
    ] = None


@command(PredictOptions)
def predict(options: PredictOptions) -> None:
    """Predict one line for each line of standard input."""
    use_device(options.device)
    task = load_run(options.run)
    if isinstance(task, Classification):
        if options.beam != 1:
            raise DataError(f"--beam is for encoder-decoders; {options.run} is a classifier")
        answer: Callable[[list[str]], list[str]] = task.predict_lines
    else:
        decoder = task
        answer = lambda texts: decoder.predict_lines(texts, options.beam)  # noqa: E731
    if answer_all(task, answer, sys.stdin.buffer, sys.stdout.buffer):
        raise typer.Exit(1)


def answer_all(task: Task, answer: Callable[[list[str]], list[str]], source: BinaryIO, sink: BinaryIO) -> int:
    """Answer every line of `source` on `sink`; returns how many could not be answered."""
    failed, number = 0, 0
    for lines in arriving(source):
        texts: list[str | None] = []
        for line in lines:
            number += 1
            texts.append(readable(task, line, number))
        answers = iter(answer([text for text in texts if text is not None]))
        out = ["" if text is None else next(answers) for text in texts]
        failed += texts.count(None)
        sink.write("".join(f"{line}\n" for line in out).encode("utf-8"))
        sink.flush()
    return failed


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


def readable(task: Task, line: bytes, number: int) -> str | None:
    """The text of a line, or None after a message that says what is wrong with it."""
    try:
        text = line.removesuffix(b"\r").decode("utf-8-sig" if number == 1 else "utf-8")
        if not text.strip():
            raise DataError("is empty: nothing to predict")
        field = task.field if isinstance(task, Classification) else task.source
        if len(line) * field.ngram > LONGEST:  # only then can it have so many tokens
            check_lengths([field.ids(text)], field)
    except UnicodeDecodeError as error:
        byte = f"byte 0x{line[error.start]:02x}"
        say(f"standard input, line {number}: is not UTF-8 ({byte}); convert it, for example with iconv")
    except DataError as error:
        say(f"standard input, line {number}: {error}")
    else:
        return text
    return None
