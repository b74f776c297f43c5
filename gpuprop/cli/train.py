"""`gpuprop train`: from the user's files to a run folder."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

import typer

from ..backend.determinism import use_deterministic_algorithms
from ..backend.device import get_device
from ..backend.random import manual_seed
from ..errors import DataError, GpupropError, TrainingError
from ..parallel.current import current
from ..parallel.sharing import sharing_rows
from ..training.checkpoint_folder import CHECKPOINTS, CheckpointFolder
from ..training.curves import draw_curves
from ..training.files import describe_files
from ..training.progress import Warnings
from ..training.run import CURVES, RunFolder, check_out
from ..training.run_checkpoints import RunCheckpoints
from ..training.session import Session
from .batch_size import with_batch_size
from .options_classify import ClassifyOptions
from .options_seq2seq import Seq2SeqOptions
from .prepare import Prepared, data_files, described_model, prepare_classification
from .prepare_seq2seq import prepare_seq2seq
from .ranks import check_ranks, checked_by_first, first, join, with_ranks
from .support import EXIT_CODES, command, plain, say

app = typer.Typer(no_args_is_help=True)

_COMMON_HELP = f"""
Files ending in .gz or .xz are read as they are. Nothing is written before all files are read and checked.
The run folder then holds config.json, the vocabulary, model.safetensors (the best epoch), metrics.jsonl (a
line an epoch), curves.png and checkpoints. Ctrl-C ends training, keeps the best model so far, and saves the
state from which `gpuprop resume` goes on.

{EXIT_CODES}
"""
CLASSIFY_HELP = f"""Train a text classifier.

Each line of the files is label<TAB>text, in UTF-8, with two or more different labels. The best epoch is the
one with the highest accuracy on the validation rows (see --best-by).
{_COMMON_HELP}"""
CLASSIFY_EXAMPLES = r"""Examples:

  gpuprop train classify --train train.tsv --test test.tsv --out runs/mine
  gpuprop train classify --model feedforward --train mail.tsv --out runs/spam \
      --class-weights balanced --early-stop 3
  gpuprop train classify --train train.tsv --out runs/glove \
      --embeddings glove.6B.100d.txt --embeddings-mode static
"""
SEQ2SEQ_HELP = f"""Train an encoder-decoder with attention: translate, summarize, spell out.

Each line of the files is source<TAB>target, in UTF-8. The best epoch is the one with the lowest loss on the
validation rows (see --best-by).

Presets: g2p (word<TAB>p h o n e s), multi30k (captions to translate), headline (a paragraph to one line).
{_COMMON_HELP}"""
SEQ2SEQ_EXAMPLES = r"""Examples:

  gpuprop train seq2seq --train pairs.tsv --valid dev.tsv --out runs/en-fr \
      --model transformer --tokenizer bpe --joint --tied all --dropout 0.2
  gpuprop train seq2seq --preset g2p --train words.tsv --out runs/g2p --epochs 5
  gpuprop train seq2seq --train words.tsv --out runs/g2p \
      --source-tokenizer char --target-tokenizer symbol
"""


@app.callback()
def train() -> None:
    """Train a model on your own text files."""


@app.command("classify", help=CLASSIFY_HELP, epilog=CLASSIFY_EXAMPLES)
@command(ClassifyOptions)
def classify(options: ClassifyOptions) -> None:
    """Train a text classifier."""
    begin(options)
    options, prepared = with_batch_size(options, prepare_classification(options))
    prepared = with_ranks(prepared)
    run_training(options, prepared, make_folder(options, prepared))


@app.command("seq2seq", help=SEQ2SEQ_HELP, epilog=SEQ2SEQ_EXAMPLES)
@command(Seq2SeqOptions)
def seq2seq(options: Seq2SeqOptions) -> None:
    """Train an encoder-decoder."""
    begin(options)
    options, prepared = with_batch_size(options, prepare_seq2seq(options))
    prepared = with_ranks(prepared)
    run_training(options, prepared, make_folder(options, prepared))


def begin(options: ClassifyOptions | Seq2SeqOptions) -> None:
    """What comes before any file is read: checks, device, seed."""
    options.check()
    join(options.device)
    checked_by_first(lambda: _check_folders(options))
    manual_seed(options.seed)
    use_deterministic_algorithms(options.deterministic)


def _check_folders(options: ClassifyOptions | Seq2SeqOptions) -> None:
    """The run folder may be written to; the second folder of checkpoints must not hold another training's."""
    check_out(options.out, options.overwrite)
    folder = options.checkpoint_dir
    if folder is None or not options.keep_checkpoints:
        return
    if CheckpointFolder(folder).files() and not options.overwrite:
        raise DataError(
            "holds checkpoints already; choose another --checkpoint-dir, or replace them with --overwrite",
            folder,
        )


def make_folder(options: ClassifyOptions | Seq2SeqOptions, prepared: Prepared) -> RunFolder:
    """The run folder with the configuration of this training. Nothing is written yet."""
    task, training = prepared.task, {**plain(options), **asdict(prepared.settings)}
    for name, of_one_rank in (("ranks", 1), ("gradient_type", "fp32")):
        if training[name] == of_one_rank:
            del training[name]
    config = {
        **task.config(),
        "model": described_model(options, task.model),
        "training": {**training, "device": str(get_device())},
        "options": plain(options),
        "data": describe_files(data_files(options, prepared)),
    }
    return RunFolder(options.out, config, task.fields)


def make_checkpoints(options: ClassifyOptions | Seq2SeqOptions) -> RunCheckpoints | None:
    """Where the training's state is saved; None with --keep-checkpoints 0."""
    if not options.keep_checkpoints:
        return None
    return RunCheckpoints(
        options.out / CHECKPOINTS,
        also=options.checkpoint_dir,
        keep=options.keep_checkpoints,
        report=say,
        **options.checkpoint_interval(),
    )


def run_training(
    options: ClassifyOptions | Seq2SeqOptions,
    prepared: Prepared,
    folder: RunFolder,
    state: Mapping[str, Any] | None = None,
) -> None:
    """Train into the run folder, from the state of a checkpoint where one is given, score the best model on
    --test, and say where everything is."""
    check_ranks(folder.config)
    checkpoints = make_checkpoints(options)
    progress = Warnings() if options.quiet else "auto"
    session = Session(
        prepared.task, prepared.train, prepared.valid, prepared.settings, folder if first() else None,
        progress, checkpoints, options.out,
    )  # fmt: skip
    if not options.quiet:
        _announce(options, prepared, session)
    if state is not None:
        session.restore(state)
    try:
        session.train()
    except BaseException as error:
        interrupted = isinstance(error, KeyboardInterrupt)
        if folder.begun and interrupted:
            say(f"the best model so far is in {options.out}")
        if interrupted or isinstance(error, TrainingError):
            _say_how_to_go_on(options, checkpoints)
        draw(options, session.trainer.history, folder, tell=interrupted)
        raise
    draw(options, session.trainer.history, folder, tell=session.failure is None)
    _report(options, prepared, session)
    if session.failure is not None:
        _say_how_to_go_on(options, checkpoints)
        raise session.failure


def _say_how_to_go_on(options: ClassifyOptions | Seq2SeqOptions, checkpoints: RunCheckpoints | None) -> None:
    """Nothing where no checkpoint is left: a folder may have been removed meanwhile."""
    if checkpoints is None or checkpoints.saved is None:
        return
    files = [folder / checkpoints.saved.name for folder in checkpoints.paths]
    saved = next((file for file in files if file.is_file()), None)
    if saved is not None:
        second = options.checkpoint_dir
        command = ["gpuprop", "resume", str(options.out)]
        command += ["--checkpoint-dir", str(second)] if saved.parent == second else []
        say(f"saved as {saved}; go on with: {shlex.join(command)}")


def _announce(options: ClassifyOptions | Seq2SeqOptions, prepared: Prepared, session: Session) -> None:
    rows = f"{len(prepared.train):,} rows to train on"
    where = f"of {options.valid}" if options.valid else "held out"
    say(f"{options.train}: {rows}, {len(prepared.valid):,} {where} to validate")
    for note in prepared.notes:
        say(note)
    if session.trainer.precision.note:
        say(session.trainer.precision.note)
    ranks = current().size
    where = f"{get_device()}" if ranks == 1 else f"{ranks} ranks, {get_device().type}"
    say(f"model {options.model}: {prepared.task.model.num_parameters():,} parameters on {where}")


def draw(
    options: ClassifyOptions | Seq2SeqOptions,
    history: Sequence[Mapping[str, Any]],
    folder: RunFolder,
    tell: bool,
) -> None:
    """Write curves.png into a run folder that has a model. tell: say why it could not be written."""
    try:
        if folder.begun and history:
            draw_curves({f"{options.model}: {options.train.name}": history}, folder.path / CURVES)
    except GpupropError as error:  # no matplotlib, or a full disk: the model matters more
        if tell:
            say(str(error))


def _report(options: ClassifyOptions | Seq2SeqOptions, prepared: Prepared, session: Session) -> None:
    best = session.trainer.best
    if best is not None and not options.quiet:
        scores = scores_text({k.removeprefix("valid_"): v for k, v in best.items() if k.startswith("valid_")})
        say(
            f"best epoch {best['epoch']}: validation {scores}"
            + (f" ({prepared.baseline})" if prepared.baseline else "")
        )
    skipped = sum(record.get("skipped_steps", 0) for record in session.trainer.history)
    if skipped and not options.quiet:
        steps = session.trainer.state.step
        say(f"{skipped} of {steps} steps were skipped, as gradients overflowed float16; the loss scale fell")
    if prepared.test is not None:
        with sharing_rows():
            scores = scores_text(prepared.task.evaluate(prepared.test))
        if first():
            print(f"{options.test}: {scores}", flush=True)
    if not options.quiet and session.failure is None:
        say(f"saved in {options.out}; use it: gpuprop predict {options.out} < lines.txt")


def scores_text(scores: dict[str, Any]) -> str:
    """Scores that are numbers in one line: "accuracy 0.7850, loss 0.4612, n 1006"."""
    return ", ".join(
        f"{name.replace('_', ' ')} {value:.4f}" if isinstance(value, float) else f"{name} {value}"
        for name, value in scores.items()
        if isinstance(value, (int, float))
    )
