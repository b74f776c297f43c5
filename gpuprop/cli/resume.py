"""`gpuprop resume`: go on with a training that was stopped, to the bits it would have ended with."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any

import typer

from ..backend.determinism import use_deterministic_algorithms
from ..backend.random import manual_seed
from ..errors import CheckpointError, DataError
from ..parallel.current import current
from ..parallel.environment import place_of
from ..training.checkpoint_folder import CHECKPOINTS, CheckpointFolder
from ..training.files import write_json
from ..training.run import CONFIG, METRICS, RunFolder, read_config
from ..training.run_checkpoints import BEST_MODEL, settle
from ..training.training_state import TrainingState
from ..version import __version__
from .options_classify import ClassifyOptions
from .options_seq2seq import Seq2SeqOptions
from .prepare import Prepared, prepare_classification
from .prepare_seq2seq import prepare_seq2seq
from .ranks import checked_by_first, first, join, trained_with, with_ranks
from .rebuild import check_data, check_same, check_vocabularies, rebuilt_options
from .support import EXIT_CODES, command, say, use_device
from .train import draw, make_folder, run_training

RESUME_HELP = f"""Go on with a training that was stopped.

RUN is the --out of `gpuprop train`. Training goes on from the newest checkpoint that is whole, and ends with
the weights and metrics, bit for bit, that it would have had without the stop: on the same device, with the
same data files, and with the same number of threads. A run that is finished is left as it is.

Under mpirun it may go on with more or fewer ranks than before: a step keeps its rows, and each rank takes its
share of them. That ends with the same results to within rounding.

{EXIT_CODES}
"""
RESUME_EXAMPLES = r"""Examples:

  gpuprop resume runs/mine
  gpuprop resume runs/mine --epochs 30
  gpuprop resume runs/mine --checkpoint-dir /backup/mine
"""
_REMEMBERED = ("checkpoint_dir", "train", "valid", "test", "embeddings", "epochs")
_OPEN_ENDED = ("constant", "plateau")  # schedules that do not depend on the number of epochs


@dataclass(kw_only=True)
class ResumeOptions:
    """gpuprop resume"""

    run: Annotated[Path, typer.Argument(metavar="RUN", help="The run folder.", show_default=False)]
    epochs: Annotated[
        int | None,
        typer.Option(
            "--epochs",
            metavar="N",
            min=1,
            help="End after N epochs in all. Only for schedules that are not laid out over the epochs.",
        ),
    ] = None
    checkpoint_dir: Annotated[
        Path | None,
        typer.Option("--checkpoint-dir", metavar="FOLDER", help="The second folder of checkpoints."),
    ] = None
    train: Annotated[
        Path | None, typer.Option("--train", metavar="FILE", help="Where the file is now, if moved.")
    ] = None
    valid: Annotated[Path | None, typer.Option("--valid", metavar="FILE", help="The same.")] = None
    test: Annotated[Path | None, typer.Option("--test", metavar="FILE", help="The same.")] = None
    embeddings: Annotated[Path | None, typer.Option("--embeddings", metavar="FILE", help="The same.")] = None
    device: Annotated[
        str | None,
        typer.Option("--device", metavar="DEVICE", help="Another device than before: other bits."),
    ] = None
    quiet: Annotated[bool, typer.Option("--quiet", "-q", help="Show errors only.")] = False


@command(ResumeOptions)
def resume(options: ResumeOptions) -> None:
    """Go on with a training that was stopped."""
    join_again(options)
    config, found = find(options)
    current().barrier("reading the checkpoint")  # rank 0 changes the folder after this
    place = str(options.run)
    before = rebuilt_options(config, place)
    given = applied(options, before, trained_on(config))
    check_data(given, config, place)
    given.check()
    if current().size == 1:
        use_device(given.device)
    manual_seed(given.seed)
    use_deterministic_algorithms(given.deterministic)
    prepared = with_ranks(prepare(given), trained_with(config))
    folder = make_folder(given, prepared)
    longer = given.epochs != before.epochs
    check_same(config, folder.config, place, longer)
    if found is not None:
        check_same(noted_config(found[1]), folder.config, str(found[0]), longer)
    checked_by_first(lambda: check_vocabularies(folder))
    state = None if found is None else found[1]
    has_config = (options.run / CONFIG).exists()
    if found is not None and has_config and is_finished(found[1], given):
        if first():
            _finish(given, prepared, folder, *found)
        return
    if has_config and first() and any(getattr(options, name) is not None for name in _REMEMBERED):
        write_json(options.run / CONFIG, folder.config)  # so that the next stop needs them no more
    _announce(options, config, found)
    run_training(given, prepared, folder, state)


def join_again(options: ResumeOptions) -> None:
    """Join the other ranks, where there are any, on the kind of device that training ran on."""
    if place_of().size > 1:
        with contextlib.suppress(CheckpointError):
            options.device = options.device or trained_on(read_config(options.run))
        join((options.device or "auto").partition(":")[0])


def find(options: ResumeOptions) -> tuple[dict[str, Any], tuple[Path, dict[str, Any]] | None]:
    """The run's configuration, which is in its checkpoints too, and the newest checkpoint that is whole."""
    problem: CheckpointError | None = None
    config: dict[str, Any] = {}
    try:
        config = read_config(options.run)
    except CheckpointError as error:
        problem = error
    second = options.checkpoint_dir or _second_folder(config)
    checkpoints = CheckpointFolder(options.run / CHECKPOINTS, also=second, report=say)
    found = checkpoints.latest()
    if found is None:
        if problem is not None:
            raise problem
        if (options.run / METRICS).exists():
            raise CheckpointError(
                f"{options.run}: has no checkpoints, so that training cannot go on; train again: --overwrite"
            )
        return config, None
    _check_state(*found)
    if problem is not None:
        say(f"{problem}; its copy in {found[0]} is used")
        config = noted_config(found[1])
    return config, found


def _second_folder(config: Mapping[str, Any]) -> Path | None:
    options = config.get("options")
    second = options.get("checkpoint_dir") if isinstance(options, Mapping) else None
    return Path(second) if isinstance(second, str) else None


def _check_state(path: Path, state: Mapping[str, Any]) -> None:
    """Enough to look at the state before there is a trainer that checks the rest."""
    try:
        TrainingState().load_state_dict(state.get("training", {}))
        for name in ("model", "best"):
            weights = state.get(name, 0) if name == "model" else state.get(name, 0) or {}
            if not isinstance(weights, dict) or not all(hasattr(w, "dtype") for w in weights.values()):
                raise CheckpointError(f"it has no {name} weights")
        noted_config(state)
    except CheckpointError as error:
        raise CheckpointError(f"{path}: is not a run's checkpoint: {error}") from error


def noted_config(state: Mapping[str, Any]) -> dict[str, Any]:
    """The configuration in a run's checkpoint."""
    note = state.get("note")
    config = note.get("config") if isinstance(note, Mapping) else None
    if not isinstance(config, dict):
        raise CheckpointError("it holds no configuration of a run")
    return config


def applied(
    options: ResumeOptions, before: ClassifyOptions | Seq2SeqOptions, device: str | None
) -> ClassifyOptions | Seq2SeqOptions:
    """The training's options, changed as the user asks. device: what it ran on."""
    changes: dict[str, Any] = {
        n: v for n in (*_REMEMBERED, "device") if (v := getattr(options, n)) is not None
    }
    for name in ("valid", "test", "embeddings"):
        if name in changes and getattr(before, name) is None:
            raise DataError(f"--{name}: training was started without one; leave it out")
    open_ended = before.schedule in _OPEN_ENDED or (
        before.schedule == "inverse-sqrt" and before.warmup_steps > 0
    )
    if changes.get("epochs", before.epochs) != before.epochs and not open_ended:
        raise DataError(
            f"--epochs {options.epochs}: the {before.schedule} schedule is laid out over {before.epochs} "
            "epochs; leave it out"
        )
    changes = {"device": device, **changes, "out": options.run, "quiet": options.quiet}
    return replace(before, **changes)


def trained_on(config: Mapping[str, Any]) -> str | None:
    """The device that training ran on."""
    training = config.get("training")
    device = training.get("device") if isinstance(training, Mapping) else None
    return device if isinstance(device, str) else None


def is_finished(state: Mapping[str, Any], options: ClassifyOptions | Seq2SeqOptions) -> bool:
    """Whether all epochs are done, or no better one came for --early-stop."""
    training = state["training"]
    patience = options.early_stop
    waited = patience is not None and training["waited"] >= patience
    return training["progress"] is None and (training["epoch"] >= options.epochs or waited)


def _finish(
    options: ClassifyOptions | Seq2SeqOptions,
    prepared: Prepared,
    folder: RunFolder,
    path: Path,
    state: Mapping[str, Any],
) -> None:
    """Leave a finished run as it is, but for files that a kill after its last checkpoint left unwritten."""
    try:
        for weights in (state["best"], state["model"]):
            if weights is not None:
                prepared.task.model.load_state_dict(weights)
    except CheckpointError as error:
        raise CheckpointError(f"{path}: {error}; it is of another model: train again") from error
    settle(options.out, state, options.keep_last, finished=True)
    folder.begun = True
    if options.checkpoint_dir is not None:
        (options.checkpoint_dir / BEST_MODEL).unlink(missing_ok=True)
    draw(options, state["training"]["history"], folder, tell=not options.quiet)
    say(f"{options.out}: is finished, with {state['training']['epoch']} epochs; nothing to do")


def prepare(options: ClassifyOptions | Seq2SeqOptions) -> Prepared:
    """Read the data and build the model as when training was started."""
    if isinstance(options, ClassifyOptions):
        return prepare_classification(options)
    return prepare_seq2seq(options)


def _announce(
    options: ResumeOptions, config: Mapping[str, Any], found: tuple[Path, Mapping[str, Any]] | None
) -> None:
    if config.get("gpuprop") != __version__:
        say(
            f"training was started by gpuprop {config.get('gpuprop')}, this is {__version__}: bits may differ"
        )
    if options.quiet:
        return
    if found is None:
        say(f"{options.run}: has no checkpoint yet; training starts again")
    else:
        training = found[1]["training"]
        say(f"{found[0]}: going on after step {training['step']}, epoch {training['epoch']} done")
