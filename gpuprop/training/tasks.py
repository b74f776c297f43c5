"""Trained models by their run folder, whichever task they were trained for."""

from __future__ import annotations

from pathlib import Path

from ..errors import CheckpointError
from .classify import Classification
from .run import CONFIG, read_config
from .seq2seq import SequenceToSequence

Task = Classification | SequenceToSequence


def load_run(path: str | Path) -> Task:
    """The model of a run folder with its tokenizers and vocabularies, on the current device, ready to
    predict.

    Raises CheckpointError, naming the file and the remedy, for anything missing, damaged or of another run.
    """
    config = read_config(path)
    for kind in (Classification, SequenceToSequence):
        if config.get("task") == kind.task:
            return kind.load(path, config)
    raise CheckpointError(f"{Path(path) / CONFIG}: has the unknown task {config.get('task')!r}; train again")
