"""Models for text, and `build`, which makes one from its name and configuration."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..errors import CheckpointError, DataError
from .beam import beam_search
from .cnn import TextCNN
from .configured import ConfiguredModel
from .conv_seq2seq import ConvSeq2Seq
from .decoding import Decodable, Hypothesis, greedy_search
from .encoder_decoder import EncoderDecoder
from .feedforward import FeedForwardClassifier
from .sampling import sample
from .seq2seq import CELLS, Seq2Seq
from .transformer import Transformer

MODELS: dict[str, type[ConfiguredModel]] = {
    "feedforward": FeedForwardClassifier,
    "cnn": TextCNN,
    "gru": Seq2Seq,
    "lstm": Seq2Seq,
    "transformer": Transformer,
    "conv": ConvSeq2Seq,
}
CLASSIFIERS = ("feedforward", "cnn")
SEQ2SEQ = tuple(name for name, kind in MODELS.items() if issubclass(kind, EncoderDecoder))

__all__ = [
    "CLASSIFIERS",
    "MODELS",
    "SEQ2SEQ",
    "ConfiguredModel",
    "ConvSeq2Seq",
    "Decodable",
    "EncoderDecoder",
    "FeedForwardClassifier",
    "Hypothesis",
    "Seq2Seq",
    "TextCNN",
    "Transformer",
    "beam_search",
    "build",
    "greedy_search",
    "sample",
]


def build(name: str, config: Mapping[str, Any]) -> ConfiguredModel:
    """An untrained model from its name (one of MODELS) and what its `config()` gave.

    Raises DataError for an unknown name and CheckpointError for a dictionary that does not describe such a
    model.
    """
    if not isinstance(name, str) or name not in MODELS:
        raise DataError(f"unknown model {name!r}; known are {', '.join(MODELS)}")
    if name not in CELLS:
        return MODELS[name].from_config(config)
    if isinstance(config, Mapping) and config.get("cell", name) != name:
        raise CheckpointError(f"a {name!r} model cannot have the cell {config['cell']!r}")
    return MODELS[name].from_config({**config, "cell": name} if isinstance(config, Mapping) else config)
