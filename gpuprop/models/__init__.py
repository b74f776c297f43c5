"""Models for text, and `build`, which makes one from its name and configuration."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..errors import CheckpointError, DataError
from .cnn import TextCNN
from .configured import ConfiguredModel
from .decoding import Decodable, Hypothesis, beam_search, greedy_search
from .feedforward import FeedForwardClassifier
from .seq2seq import Seq2Seq

MODELS: dict[str, type[ConfiguredModel]] = {
    "feedforward": FeedForwardClassifier,
    "cnn": TextCNN,
    "gru": Seq2Seq,
    "lstm": Seq2Seq,
}
CLASSIFIERS = ("feedforward", "cnn")
SEQ2SEQ = ("gru", "lstm")

__all__ = [
    "CLASSIFIERS",
    "MODELS",
    "SEQ2SEQ",
    "ConfiguredModel",
    "Decodable",
    "FeedForwardClassifier",
    "Hypothesis",
    "Seq2Seq",
    "TextCNN",
    "beam_search",
    "build",
    "greedy_search",
]


def build(name: str, config: Mapping[str, Any]) -> ConfiguredModel:
    """An untrained model from its name ("feedforward", "cnn", "gru", "lstm") and what its `config()` gave.

    Raises DataError for an unknown name and CheckpointError for a dictionary that does not describe such a
    model.
    """
    if not isinstance(name, str) or name not in MODELS:
        raise DataError(f"unknown model {name!r}; known are {', '.join(MODELS)}")
    if name not in SEQ2SEQ:
        return MODELS[name].from_config(config)
    if isinstance(config, Mapping) and config.get("cell", name) != name:
        raise CheckpointError(f"a {name!r} model cannot have the cell {config['cell']!r}")
    return MODELS[name].from_config({**config, "cell": name} if isinstance(config, Mapping) else config)
