"""From the options of `gpuprop train` and the user's files to a task with encoded rows. Writes nothing."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import DataError
from ..models import ConfiguredModel, FeedForwardClassifier, TextCNN
from ..text.embeddings import Vectors, load_vectors
from ..text.field import TextField
from ..text.files import read_labelled
from ..text.labels import check_classes, doubt, hold_out
from ..text.tokenize import Tokenizer, create_tokenizer
from ..text.vocabulary import SPECIALS, Vocabulary
from ..training.classify import Classification
from ..training.metrics import majority_baseline
from ..training.session import Settings
from ..training.tasks import Task
from .options import CommonOptions
from .options_classify import ClassifyOptions
from .options_seq2seq import Seq2SeqOptions
from .support import whole_numbers

SMALL_ALPHABET = 100  # phoneme sets have about 40 symbols, with stress marks about 80
HELD_OUT = 0.1  # of the training rows, where no --valid is given


@dataclass(frozen=True)
class Prepared:
    """All that a training needs, checked. `notes` are lines for the user; `baseline` what luck would
    reach."""

    task: Task
    train: Any
    valid: Any
    test: Any  # None without --test
    settings: Settings
    notes: list[str]
    baseline: str = ""


def prepare_classification(options: ClassifyOptions) -> Prepared:
    """Read and encode labelled texts and build the classifier."""
    labels, texts = read_labelled(options.train)
    names = check_classes(labels, options.train)
    kept, held = split_rows(len(texts), options, None)
    feedforward = options.model == "feedforward"
    ngrams = options.ngrams or (2 if feedforward else 1)
    field = build_field([texts[i] for i in kept], options.tokenizer, options, ngrams)
    vectors = read_vectors(options, field.vocabulary)
    model = build_classifier(options, len(field.vocabulary), len(names), vectors)
    task = Classification(model, field, names, label_smoothing=options.label_smoothing)
    rows = task.encode(texts, labels, options.train)
    train = rows.take(kept)
    valid = rows.take(held) if options.valid is None else task.read(options.valid)
    test = None if options.test is None else task.read(options.test)
    task.criterion.weight = class_weights(options.class_weights, names, train.numbers)
    notes = [f"{len(names)} labels; vocabulary of {len(field.vocabulary):,} entries"]
    if suspicion := doubt(labels, options.train):
        notes.append(f"warning: {suspicion}")
    if vectors is not None:
        model.load_embeddings(vectors.weight, freeze=options.embeddings_mode == "static")
        notes.append(f"{options.embeddings}: has vectors for {vectors.coverage:.1%} of the vocabulary")
    most = names[int(np.bincount(train.numbers).argmax())]
    baseline = f"always {most!r}: {majority_baseline(train.numbers, valid.numbers):.4f}"
    settings = options.settings(50, 5e-3 if feedforward else 1e-3, 0.0, watched(options.best_by))
    return Prepared(task, train, valid, test, settings, notes, baseline)


def watched(best_by: str) -> tuple[str, ...]:
    """What decides the best epoch: the score of --best-by, and the loss where that is equal."""
    return (f"valid_{best_by}",) if best_by == "loss" else (f"valid_{best_by}", "valid_loss")


def split_rows(
    rows: int, options: CommonOptions, groups: Sequence[str] | None
) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    """Which rows of the training file train, and which validate where there is no --valid."""
    if options.valid is not None:
        return np.arange(rows), np.arange(0)
    try:
        return hold_out(rows, HELD_OUT, options.seed, groups)
    except DataError as error:
        raise DataError(f"{error} (--valid)", options.train) from error


def build_field(texts: Sequence[str], tokenizer: str, options: CommonOptions, ngrams: int = 1) -> TextField:
    """Tokenizer and vocabulary from the training texts. Raises DataError where no token is left."""
    field = TextField.build(
        texts,
        make_tokenizer(suited_tokenizer(texts) if tokenizer == "auto" else tokenizer, texts, options),
        options.min_frequency,
        options.max_vocabulary,
        ngrams,
        options.max_length,
    )
    if len(field.vocabulary) == len(SPECIALS):
        raise DataError(
            f"no token of its texts is left: lower --min-frequency (now {options.min_frequency}) or choose "
            f"another --tokenizer (now {field.tokenizer.name})",
            options.train,
        )
    return field


def suited_tokenizer(texts: Sequence[str]) -> str:
    """What "auto" means: char for single words, symbol for a small alphabet between spaces, else word."""
    if not any(" " in text.strip() for text in texts):
        return "char"
    symbols: set[str] = set()
    for text in texts:
        symbols.update(text.split())
        if len(symbols) > SMALL_ALPHABET:
            return "word"
    return "symbol"


def make_tokenizer(name: str, texts: Sequence[str], options: CommonOptions) -> Tokenizer:
    """The tokenizer called `name`; --keep-case has no meaning for symbols and BPE, which keep it anyway,
    --lowercase only for BPE."""
    if name == "bpe":
        return create_tokenizer(name, texts, options.bpe_size, lowercase=options.lowercase)
    if name == "symbol":
        return create_tokenizer(name)
    return create_tokenizer(name, lowercase=not options.keep_case)


def read_vectors(options: CommonOptions, vocabulary: Vocabulary) -> Vectors | None:
    """The vectors of --embeddings, if given."""
    return None if options.embeddings is None else load_vectors(options.embeddings, vocabulary, options.seed)


def build_classifier(
    options: ClassifyOptions, vocabulary_size: int, classes: int, vectors: Vectors | None
) -> FeedForwardClassifier | TextCNN:
    """The untrained classifier the options describe."""
    size = options.embedding_dim or (100 if options.model == "feedforward" else 300)
    if vectors is not None:
        found = vectors.weight.shape[1]
        if options.embedding_dim not in (None, found):
            raise DataError(
                f"holds vectors of {found} numbers, --embedding-dim says {size}: leave it out",
                options.embeddings,
            )
        size = found
    if options.model == "feedforward":
        return FeedForwardClassifier(
            vocabulary_size,
            classes,
            embedding_dim=size,
            hidden=whole_numbers("--hidden", options.hidden),
            dropout=options.dropout or 0.0,
            word_dropout=options.word_dropout,
        )
    return TextCNN(
        vocabulary_size,
        classes,
        embedding_dim=size,
        widths=whole_numbers("--widths", options.widths),
        filters=options.filters,
        dropout=0.5 if options.dropout is None else options.dropout,
        embedding_dropout=options.embedding_dropout,
        max_norm=options.max_norm,
    )


def class_weights(
    text: str | None, names: Sequence[str], numbers: np.ndarray[Any, Any]
) -> np.ndarray[Any, Any] | None:
    """The weights behind --class-weights, (C,) float32: "balanced" is rows / (classes x rows of the
    class)."""
    if text is None:
        return None
    if text == "balanced":
        counts = np.bincount(numbers, minlength=len(names))
        return (len(numbers) / (len(names) * np.maximum(counts, 1))).astype(np.float32)
    weights = dict.fromkeys(names, 1.0)
    for part in text.split(","):
        label, equals, value = part.rpartition("=")
        if not equals or label not in weights:
            raise DataError(
                f"--class-weights must be balanced or LABEL=X,LABEL=X with labels of the training file "
                f"({', '.join(names[:10])}), not {text!r}"
            )
        weights[label] = _weight(label, value)
    return np.array([weights[name] for name in names], dtype=np.float32)


def _weight(label: str, text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0.0 < value < float("inf"):
        raise DataError(
            f"--class-weights: the weight of {label!r} must be a finite number above 0, not {text!r}"
        )
    return value


def described_model(options: ClassifyOptions | Seq2SeqOptions, model: ConfiguredModel) -> dict[str, Any]:
    """The model as a run's configuration keeps it."""
    return {"name": options.model, "config": model.config()}


def data_files(options: CommonOptions, prepared: Prepared) -> list[tuple[str, str | Path | None, int | None]]:
    """(role, path, rows) of the user's files; no path for rows held out of the training file, no rows for
    word vectors."""
    files: list[tuple[str, str | Path | None, int | None]] = [
        ("train", options.train, len(prepared.train)),
        ("valid", options.valid, len(prepared.valid)),
    ]
    if prepared.test is not None:
        files.append(("test", options.test, len(prepared.test)))
    if options.embeddings is not None:
        files.append(("embeddings", options.embeddings, None))
    return files
