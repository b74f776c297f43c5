"""`gpuprop average`: one model from the last epochs of a training."""

from __future__ import annotations

import os
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer

from ..backend.device import use_device
from ..errors import CheckpointError, DataError
from ..text.files import open_regular
from ..training.averaging import average_checkpoints, kept_epochs
from ..training.checkpoint import save
from ..training.files import atomic_write, write_error
from ..training.run import BEST, FORMAT, MODEL, OWN_FILES, check_out
from ..training.tasks import load_run
from .support import EXIT_CODES, command, say, whole_numbers

AVERAGE_HELP = f"""Average the weights of a training's last epochs.

RUN is the --out of a training with --keep-last. The average, summed in 64 bits, becomes the model.safetensors
of RUN, and what was there, the best epoch, stays as {BEST}. With --out RUN stays as it is and a
copy gets the average. Which of the two models is better only validation rows can say: see the examples.

{EXIT_CODES}
"""
AVERAGE_EXAMPLES = r"""Examples:

  gpuprop train classify --train train.tsv --valid dev.tsv --out runs/mine \
      --keep-last 5
  gpuprop average runs/mine --out runs/averaged
  gpuprop evaluate runs/mine dev.tsv
  gpuprop evaluate runs/averaged dev.tsv
"""


@dataclass(kw_only=True)
class AverageOptions:
    """gpuprop average"""

    run: Annotated[Path, typer.Argument(metavar="RUN", help="The run folder.", show_default=False)]
    last: Annotated[
        int | None,
        typer.Option("--last", metavar="K", min=1, help="The last K epochs. (default: all that were kept)"),
    ] = None
    epochs: Annotated[
        str | None, typer.Option("--epochs", metavar="N,...", help="These epochs, such as 7,8,9.")
    ] = None
    out: Annotated[
        Path | None, typer.Option("--out", metavar="FOLDER", help="A new run folder for the average.")
    ] = None


@command(AverageOptions)
def average(options: AverageOptions) -> None:
    """Average the weights of a training's last epochs."""
    if options.last is not None and options.epochs is not None:
        raise DataError("--last and --epochs both choose epochs: give one of them")
    if options.out is not None:
        check_out(options.out, overwrite=False)
    with use_device("cpu"):
        model = load_run(options.run).model
    files = chosen(options.run, options.last, options.epochs)
    try:
        model.load_state_dict(average_checkpoints(list(files.values())))
    except CheckpointError as error:
        raise CheckpointError(f"{options.run}: the kept epochs cannot be averaged: {error}") from error
    numbers = ", ".join(map(str, files))
    metadata = {"format": FORMAT, "averaged_epochs": numbers}
    if options.out is None:
        _keep_best(options.run)
        save(model, options.run / MODEL, metadata)
    else:
        _copy(options.run, options.out)
        save(model, options.out / MODEL, metadata)
    say(f"averaged epochs {numbers} into {(options.out or options.run) / MODEL}; before: {BEST} beside it")


def chosen(run: Path, last: int | None, epochs: str | None) -> dict[int, Path]:
    """The files to average, by epoch. Raises CheckpointError or DataError saying which epochs there are."""
    kept = kept_epochs(run)
    if not kept:
        raise CheckpointError(f"{run}: keeps no weights of single epochs; train with --keep-last 5, say")
    there = f"{run} keeps epochs {', '.join(map(str, kept))}"
    if epochs is not None:
        wanted = sorted(set(whole_numbers("--epochs", epochs)))
        missing = [n for n in wanted if n not in kept]
        if missing or not wanted:
            raise DataError(f"--epochs {epochs}: {there}")
        return {n: kept[n] for n in wanted}
    if last is not None and last > len(kept):
        raise DataError(f"--last {last}: {there}")
    return dict(list(kept.items())[-last:] if last else kept.items())


def _keep_best(run: Path) -> None:
    """What model.safetensors holds stays, unless it is an average itself."""
    if not (run / BEST).exists():
        try:
            with open_regular(run / MODEL) as file:
                content = file.read()
        except OSError as error:
            raise CheckpointError(f"{run / MODEL}: cannot be read: {error.strerror or error}") from error
        atomic_write(run / BEST, content)


def _copy(run: Path, out: Path) -> None:
    """The files of a run in a new folder, all or none."""
    staging: str | None = None
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        staging = tempfile.mkdtemp(prefix=f".{out.name}.", dir=out.parent)
        for name in OWN_FILES:
            if (run / name).exists():
                shutil.copyfile(run / name, Path(staging) / name)
        _keep_best(Path(staging))
        os.chmod(staging, run.stat().st_mode & 0o777)
        os.replace(staging, out)
    except OSError as error:
        raise write_error(out, error) from error
    finally:
        if staging is not None:
            shutil.rmtree(staging, ignore_errors=True)
