"""The run folder: what a training leaves behind, and all that evaluation and prediction need.

config.json         task, model, tokenizers, labels, options, data files with their SHA-256
vocabulary.json     (source_vocabulary.json and target_vocabulary.json for pairs)
model.safetensors   the best weights by validation, or an average (then model.best.safetensors has the best)
failure/            the step that ended a training that failed
epochs/             the weights of the last epochs, where these are kept
checkpoints/        the whole state of training after the last epochs, from which it can go on
metrics.jsonl       one line an epoch
gradients.jsonl     what training did to each layer, at intervals
attention/          a picture an epoch of what a decoder attends to, where these are drawn
curves.png          losses and scores over the epochs
report.html         and report_*.png, where `gpuprop report` was asked for them
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ..errors import CheckpointError, DataError, TrainingError
from ..nn.module import Module
from ..text.field import TextField
from ..text.files import open_regular
from ..text.vocabulary import Vocabulary
from ..version import __version__
from . import checkpoint
from .attention_picture import forget_pictures
from .averaging import EPOCHS, forget_epochs, keep_epoch
from .checkpoint_folder import CHECKPOINTS, CheckpointFolder
from .failure import DESCRIPTION, FAILURE, forget_failure
from .files import append_line, atomic_write, leftovers, write_error, write_json
from .gradients import GRADIENTS

FORMAT, VERSION = "gpuprop-run", 1
CONFIG, MODEL, METRICS, CURVES = "config.json", "model.safetensors", "metrics.jsonl", "curves.png"
BEST = "model.best.safetensors"  # what an average took the place of
_STAGING = "new"  # ".new.xyz": a run about to begin
_VOCABULARIES = DESCRIPTION[1:]
REPORT = "report.html"
REPORT_PICTURES = tuple(f"report_{name}.png" for name in ("curves", "layers", "flow", "encoder", "gpu"))
OWN_FILES = (CONFIG, MODEL, BEST, METRICS, GRADIENTS, CURVES, REPORT, *REPORT_PICTURES, *_VOCABULARIES)


class RunFolder:
    """A run being written. Where a run stood before, nothing changes before the first model is saved, so that
    a training that fails early leaves the old run as it was."""

    def __init__(self, path: str | Path, config: Mapping[str, Any], fields: Mapping[str, TextField]) -> None:
        self.path = Path(path)
        self.config = {
            "format": FORMAT,
            "version": VERSION,
            "gpuprop": __version__,
            **config,
            "fields": {name: _describe(field) for name, field in fields.items()},
        }
        self.vocabularies = {vocabulary_name(name): field.vocabulary for name, field in fields.items()}
        self.begun = False
        self._made = False
        self._described: list[Path] = []  # files that `describe` wrote, and gradients.jsonl with them
        self._describes = False

    @property
    def shown(self) -> bool:
        """The folder shows this training and no other: it has its model, its configuration, or the step that
        failed before there was a model."""
        failed = not (self.path / MODEL).exists() and (self.path / FAILURE).exists()
        return self.begun or self._describes or failed

    def prepare(self) -> None:
        """Make the folder, so that a place that cannot be written to shows before the training and not
        after."""
        self._made = not self.path.exists()
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            clean(self.path)
            if not (self.path / MODEL).exists() and (self.path / FAILURE).exists():
                forget_failure(self.path)  # that of a training which came to nothing
                (self.path / GRADIENTS).unlink(missing_ok=True)
            with tempfile.TemporaryFile(dir=self.path):
                pass
        except OSError as error:
            raise write_error(self.path, error) from error

    def describe(self) -> None:
        """Write configuration and vocabularies into a folder that holds no model yet, so that a training
        which is killed in its first epoch can be started again."""
        known = (self.path / CONFIG).exists()
        if known and (self.path / MODEL).exists():
            return
        mine = (CONFIG, *self.vocabularies, GRADIENTS)
        self._described, self._describes = [] if known else [self.path / name for name in mine], True
        self._write_description(self.path)

    def _write_description(self, folder: Path) -> None:
        write_json(folder / CONFIG, self.config)
        try:
            for name, vocabulary in self.vocabularies.items():
                vocabulary.save(folder / name)
        except OSError as error:
            raise write_error(folder, error) from error

    def save_model(self, model: Module | Mapping[str, Any]) -> None:
        """Keep these weights as the run's model. TrainingError (a full disk) leaves the model saved
        before."""
        if self.begun:
            checkpoint.save(model, self.path / MODEL, {"format": FORMAT})
        else:
            self._begin(model)
            self.begun = True

    def keep_epoch(self, model: Module, epoch: int, last: int) -> None:
        """Keep the weights after this epoch, and those of the `last` - 1 epochs before it."""
        keep_epoch(self.path, model, epoch, last)

    def append_metrics(self, record: Mapping[str, Any]) -> None:
        """Add one epoch to metrics.jsonl."""
        append_line(self.path / METRICS, json.dumps(dict(record), allow_nan=False))

    def abandon(self) -> None:
        """Take back what `prepare` and `describe` made, when training failed before a model was saved. Where
        a failed step was kept, its configuration and vocabularies are too: inside its folder where the run
        folder has those of another model."""
        if self.begun:
            return
        failed = (self.path / FAILURE).exists()
        with contextlib.suppress(OSError, TrainingError):
            if failed and (self.path / MODEL).exists():
                self._write_description(self.path / FAILURE)
            elif failed and not self._described:
                self.describe()
            for file in self._described if not failed else ():
                file.unlink(missing_ok=True)
            if (self.path / CHECKPOINTS).is_dir():
                (self.path / CHECKPOINTS).rmdir()
            if self._made:
                self.path.rmdir()

    def _begin(self, model: Module | Mapping[str, Any]) -> None:
        """Write the files beside their places, and only when all are on the disk put them there."""
        try:
            staging = Path(tempfile.mkdtemp(prefix=f".{_STAGING}.", dir=self.path))
        except OSError as error:
            raise write_error(self.path, error) from error
        try:
            self._write_description(staging)
            checkpoint.save(model, staging / MODEL, {"format": FORMAT})
            forget_epochs(self.path)
            forget_pictures(self.path)
            forget_failure(self.path)
            CheckpointFolder(self.path / CHECKPOINTS).forget()
            for name in OWN_FILES:
                if not (staging / name).exists() and not (name == GRADIENTS and self._describes):
                    (self.path / name).unlink(missing_ok=True)
            for file in sorted(staging.iterdir()):
                os.replace(file, self.path / file.name)
        except OSError as error:
            raise write_error(self.path, error) from error
        finally:
            shutil.rmtree(staging, ignore_errors=True)


def check_out(path: str | Path, overwrite: bool) -> None:
    """Raise DataError unless a run may be written to `path`: it is free, or holds a run and may be
    overwritten."""
    path = Path(path)
    if not path.exists() and not path.is_symlink():
        return
    if not path.is_dir():
        raise DataError("exists and is not a folder; choose another --out", path)
    if not overwrite:
        raise DataError(
            "exists already; choose another --out, go on with the run in it (gpuprop resume), or replace it "
            "with --overwrite",
            path,
        )
    own = {*leftovers(path, OWN_FILES), path / FAILURE}
    if set(path.iterdir()) - own and not _is_run(path):
        raise DataError(
            "holds files but no run of gpuprop, so --overwrite does not touch it; choose another --out", path
        )


def read_config(path: str | Path) -> dict[str, Any]:
    """The checked config.json of a run. Raises CheckpointError saying what is wrong and what to do."""
    path = Path(path)
    if not path.exists():
        raise CheckpointError(
            f"{path}: no such run folder; check the name, or make one: gpuprop train ... --out {path}"
        )
    if not path.is_dir():
        raise CheckpointError(f"{path}: is a file; name the run folder that holds it")
    file = path / CONFIG
    if not file.exists():
        raise CheckpointError(
            f"{path}: is not a run folder (it has no {CONFIG}); name the --out of a training"
        )
    try:
        with open_regular(file) as content:
            config = json.loads(content.read().decode("utf-8"))
    except OSError as error:
        raise CheckpointError(f"{file}: cannot be read: {error.strerror or error}") from error
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{file}: damaged (no UTF-8 JSON: {error}); train again") from error
    if not isinstance(config, dict) or config.get("format") != FORMAT:
        raise CheckpointError(f"{file}: was not written by gpuprop; name the --out of a training")
    if config.get("version") != VERSION:
        raise CheckpointError(
            f"{file}: has version {config.get('version')!r}, this gpuprop ({__version__}) reads {VERSION}; "
            "use the gpuprop that trained it"
        )
    return config


def read_field(path: str | Path, config: Mapping[str, Any], name: str) -> TextField:
    """The tokenizer and vocabulary called `name` of a run."""
    path = Path(path)
    described = entry(path, config, "fields", name)
    vocabulary = Vocabulary.load(path / vocabulary_name(name))
    if described.get("vocabulary_sha256") != vocabulary.digest():
        raise CheckpointError(
            f"{path / vocabulary_name(name)}: is not the vocabulary of this run; copy it again"
        )
    try:
        return TextField.from_config(
            {k: v for k, v in described.items() if k != "vocabulary_sha256"}, vocabulary
        )
    except DataError as error:
        raise CheckpointError(f"{path / CONFIG}: {error}; train again") from error


def entry(path: str | Path, config: Mapping[str, Any], *names: str) -> dict[str, Any]:
    """A dictionary inside a configuration, or CheckpointError naming what is missing."""
    value: Any = config
    for name in names:
        value = value.get(name) if isinstance(value, Mapping) else None
    if not isinstance(value, dict):
        raise CheckpointError(
            f"{Path(path) / CONFIG}: has no {'.'.join(names)}; the file was changed: train again"
        )
    return value


def write_metrics(path: str | Path, history: Sequence[Mapping[str, Any]]) -> None:
    """Write all lines of metrics.jsonl."""
    lines = [json.dumps(dict(record), allow_nan=False) + "\n" for record in history]
    atomic_write(Path(path) / METRICS, "".join(lines).encode("utf-8"))


def read_metrics(path: str | Path) -> list[dict[str, Any]]:
    """The lines of metrics.jsonl; a last line cut off by a crash is left out."""
    file = Path(path) / METRICS
    try:
        with open_regular(file) as content:
            lines = content.read().decode("utf-8").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise CheckpointError(f"{file}: cannot be read: {error}") from error
    records = []
    for line in lines[:-1]:
        try:
            records.append(json.loads(line))
        except ValueError as error:
            raise CheckpointError(f"{file}: damaged: {error}") from error
    return records


def vocabulary_name(field: str) -> str:
    """The file of a field's vocabulary: vocabulary.json for "text", else the field's name in front."""
    return "vocabulary.json" if field == "text" else f"{field}_vocabulary.json"


def clean(path: Path) -> None:
    """Remove what writers left that were killed."""
    for file in [*leftovers(path, (*OWN_FILES, _STAGING)), *(path / EPOCHS).glob(".epoch-*")]:
        shutil.rmtree(file) if file.is_dir() else file.unlink(missing_ok=True)


def _describe(field: TextField) -> dict[str, Any]:
    return {**field.to_config(), "vocabulary_sha256": field.vocabulary.digest()}


def _is_run(path: Path) -> bool:
    try:
        read_config(path)
    except CheckpointError:
        return False
    return True
