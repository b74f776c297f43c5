"""Presets: options of `gpuprop train seq2seq` that are known to work, by name.

`--preset g2p` stands for the options below as if they were typed first; options given beside it win. They
were chosen on training and development rows. What they reach is in the README (`make quality-seq2seq`).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

_SMALL_TRANSFORMER: dict[str, Any] = {
    "model": "transformer",
    "label_smoothing": 0.1,
    "schedule": "cosine",
    "lr": 1e-3,
}

PRESETS: Mapping[str, Mapping[str, Any]] = {
    # word<TAB>p h o n e s: characters in, symbols between spaces out
    "g2p": {
        **_SMALL_TRANSFORMER,
        "source_tokenizer": "char",
        "target_tokenizer": "symbol",
        "embedding_dim": 128,
        "hidden": 512,
        "layers": 4,
        "heads": 4,
        "dropout": 0.1,
        "warmup_steps": 1000,
        "batch_size": 128,
        "epochs": 20,
        "keep_last": 5,
        "best_by": "exact_match",
    },
    # a caption<TAB>its translation: one lower-cased byte-pair vocabulary for both languages
    "multi30k": {
        **_SMALL_TRANSFORMER,
        "tokenizer": "bpe",
        "bpe_size": 6000,
        "lowercase": True,
        "joint": True,
        "tied": "all",
        "embedding_dim": 256,
        "hidden": 512,
        "layers": 3,
        "heads": 4,
        "dropout": 0.2,
        "warmup_steps": 800,
        "batch_size": 64,
        "epochs": 14,
        "keep_last": 5,
    },
    # a paragraph<TAB>one line that says what it is about
    "headline": {
        **_SMALL_TRANSFORMER,
        "tokenizer": "bpe",
        "bpe_size": 6000,
        "joint": True,
        "tied": "all",
        "max_length": 80,
        "embedding_dim": 256,
        "hidden": 512,
        "layers": 3,
        "heads": 4,
        "dropout": 0.2,
        "warmup_steps": 800,
        "batch_size": 64,
        "epochs": 10,
        "keep_last": 3,
    },
}


def as_arguments(options: Mapping[str, Any]) -> list[str]:
    """Options as one types them: {"batch_size": 64, "joint": True} is --batch-size 64 --joint."""
    arguments = []
    for name, value in options.items():
        arguments.append(f"--{name.replace('_', '-')}")
        arguments += [] if value is True else [str(value)]
    return arguments


def expanded(arguments: list[str]) -> list[str]:
    """The arguments of a command with the options of its --preset in front, so that later ones win. An
    unknown name is left for the command to refuse."""
    for i, argument in enumerate(arguments):
        name = argument.removeprefix("--preset=") if argument.startswith("--preset=") else None
        if argument == "--preset" and i + 1 < len(arguments):
            name = arguments[i + 1]
        if name is not None and name in PRESETS:
            return [*as_arguments(PRESETS[name]), *arguments]
    return arguments
