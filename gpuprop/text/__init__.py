"""Text: tokenizers, vocabulary, files, batches, word vectors, and data sets (`gpuprop.text.datasets`)."""

from __future__ import annotations

import importlib
from typing import Any

from gpuprop.text.batches import (
    IGNORE_INDEX,
    Batches,
    PairBatch,
    TextBatch,
    collate_pairs,
    collate_text,
    pad_rows,
    pair_batches,
    restore_order,
    text_batches,
)
from gpuprop.text.embeddings import Vectors, load_vectors
from gpuprop.text.field import TextField
from gpuprop.text.files import read_labelled, read_lines, read_pairs
from gpuprop.text.labels import check_classes, hold_out, label_ids, label_names
from gpuprop.text.sampler import BatchSampler
from gpuprop.text.tokenize import (
    TOKENIZER_NAMES,
    BPETokenizer,
    CharTokenizer,
    SymbolTokenizer,
    Tokenizer,
    WhitespaceTokenizer,
    WordTokenizer,
    create_tokenizer,
    ngrams,
    tokenizer_from_config,
)
from gpuprop.text.vocabulary import BOS, EOS, PAD, SPECIALS, UNK, Vocabulary

__all__ = [
    "BOS",
    "EOS",
    "IGNORE_INDEX",
    "PAD",
    "SPECIALS",
    "TOKENIZER_NAMES",
    "UNK",
    "BPETokenizer",
    "BatchSampler",
    "Batches",
    "CharTokenizer",
    "PairBatch",
    "SymbolTokenizer",
    "TextBatch",
    "TextField",
    "Tokenizer",
    "Vectors",
    "Vocabulary",
    "WhitespaceTokenizer",
    "WordTokenizer",
    "check_classes",
    "collate_pairs",
    "collate_text",
    "create_tokenizer",
    "hold_out",
    "label_ids",
    "label_names",
    "load_vectors",
    "ngrams",
    "pad_rows",
    "pair_batches",
    "read_labelled",
    "read_lines",
    "read_pairs",
    "restore_order",
    "text_batches",
    "tokenizer_from_config",
]


def __getattr__(name: str) -> Any:
    # Data sets pull in the downloader; most programs never ask for them.
    if name == "datasets":
        return importlib.import_module("gpuprop.text.datasets")
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
