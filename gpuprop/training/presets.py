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
        "model": "gru",
        "source_tokenizer": "char",
        "target_tokenizer": "symbol",
        "embedding_dim": 128,
        "hidden": 256,
        "attention": "additive",
        "dropout": 0.3,
        "schedule": "cosine",
        "lr": 1.5e-3,
        "batch_size": 64,
        "epochs": 10,
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


# What a preset says of these gives way where the option on the left is typed beside it.
_GIVES_WAY: Mapping[str, tuple[str, ...]] = {
    "--batch-tokens": ("batch_size",),
    "--tokenizer": ("source_tokenizer", "target_tokenizer"),
    "--source-tokenizer": ("joint", "tied"),
    "--target-tokenizer": ("joint", "tied"),
    "--model": ("hidden", "layers", "heads", "attention"),
    "--embedding-dim": ("hidden", "heads"),
    "--schedule": ("warmup_steps",),
}


def expanded(arguments: list[str]) -> list[str]:
    """The arguments of a command with the options of its --preset in front, so that later ones win, and
    without those that what was typed leaves no meaning. Of several presets the last counts; an unknown name
    is left for the command to refuse."""
    names = [value for flag, value in _typed(arguments) if flag == "--preset"]
    if not names or names[-1] not in PRESETS:
        return arguments
    flags = {flag for flag, _ in _typed(arguments)}
    gone = {option for flag in flags for option in _GIVES_WAY.get(flag, ())}
    kept = {name: value for name, value in PRESETS[names[-1]].items() if name not in gone}
    return [*as_arguments(kept), *arguments]


def _typed(arguments: list[str]) -> list[tuple[str, str]]:
    """(flag, value) of --flag value and --flag=value."""
    found = []
    for argument, after in zip(arguments, [*arguments[1:], ""], strict=False):
        if argument.startswith("--"):
            flag, equals, value = argument.partition("=")
            found.append((flag, value if equals else after))
    return found
