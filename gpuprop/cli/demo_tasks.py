"""The three trainings of `gpuprop demo`: their data, models, settings and baselines."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..models import FeedForwardClassifier, Seq2Seq, TextCNN
from ..text import datasets
from ..text.field import TextField
from ..text.tokenize import create_tokenizer
from ..training.classify import Classification
from ..training.metrics import best_references, exact_match, majority_baseline
from ..training.pair_rows import PairRows
from ..training.seq2seq import SequenceToSequence
from ..training.session import Settings

SENTENCES = (
    "A funny, warm and beautifully acted film.",
    "The plot is thin and the jokes fall flat.",
    "I would gladly watch it again.",
    "Two hours of my life that I will never get back: a dull, tedious mess.",
)
WORDS = ("backpropagation", "gradient", "kernel", "phoneme", "sunshine", "knowledge")


@dataclass(frozen=True)
class Part:
    """One training. `measure` and `baseline` are for the table of results."""

    name: str
    title: str
    model_name: str
    task: Classification | SequenceToSequence
    train: Any
    valid: Any
    test: Any
    settings: Settings
    measure: str
    baseline: float
    baseline_name: str


def sentiment(model_name: str, seed: int, quick: bool) -> Part:
    """Film sentences, positive or negative, by word and bigram averages or by convolutions."""
    train, valid, test = (datasets.load("vader_movie", split) for split in ("train", "dev", "test"))
    rows = 600 if quick else None
    texts, labels = train.texts[:rows], train.labels[:rows]
    feedforward = model_name == "feedforward"
    field = TextField.build(
        texts,
        create_tokenizer("word"),
        min_frequency=1 if feedforward else 2,
        ngram=2 if feedforward else 1,
        max_length=100,
    )
    names = sorted(set(labels))
    size = 16 if quick else 100
    watch = ("valid_accuracy", "valid_loss")
    model: FeedForwardClassifier | TextCNN
    if feedforward:
        model = FeedForwardClassifier(len(field.vocabulary), len(names), embedding_dim=size // 2)
        settings = Settings(1 if quick else 4, 50, 5e-3, seed=seed, watch=watch)
    else:
        model = TextCNN(len(field.vocabulary), len(names), embedding_dim=size, filters=size)
        settings = Settings(1 if quick else 5, 50, 1e-3, seed=seed, watch=watch)
    task = Classification(model, field, names)
    train_rows = task.encode(texts, labels)
    valid_rows, test_rows = (task.encode(part.texts, part.labels) for part in (valid, test))
    most = names[int(np.bincount(train_rows.numbers).argmax())]
    return Part(
        model_name,
        f"{'Averages of words and bigrams' if feedforward else 'Convolutions'}: is a film sentence kind?",
        model_name,
        task,
        train_rows,
        valid_rows,
        test_rows,
        settings,
        "accuracy",
        majority_baseline(train_rows.numbers, test_rows.numbers),
        f"always {most!r}",
    )


def pronunciation(seed: int, quick: bool) -> Part:
    """English words to phonemes by an encoder-decoder with attention."""
    rows, tests = (600, 50) if quick else (20_000, 1_000)
    parts = [
        _some_words(datasets.load("cmudict", split), count)
        for split, count in (("train", rows), ("dev", tests), ("test", tests))
    ]
    source = TextField.build(parts[0][0], create_tokenizer("char", lowercase=True), max_length=30)
    target = TextField.build(parts[0][1], create_tokenizer("symbol"), max_length=40)
    size = 16 if quick else 128
    model = Seq2Seq(len(source.vocabulary), len(target.vocabulary), embedding_dim=size, hidden_size=size)
    task = SequenceToSequence(model, source, target, max_output=40)
    train, valid, test = (task.encode(words, sounds) for words, sounds in parts)
    settings = Settings(
        1 if quick else 7,
        64,
        3e-3,
        schedule="cosine",
        clip_norm=1.0,
        seed=seed,
        watch=("valid_token_error_rate",),
    )
    return Part(
        "g2p",
        "Encoder-decoder with attention: from spelling to sound",
        "gru",
        task,
        train,
        valid,
        test,
        settings,
        "word error",
        letter_baseline(parts[0], parts[2]),
        "letter by letter",
    )


def word_error(task: SequenceToSequence, data: PairRows) -> float:
    """The share of words of which no listed pronunciation was found."""
    return 1.0 - float(task.evaluate(data, group=True)["exact_match"])


def letter_baseline(
    train: tuple[Sequence[str], Sequence[str]], test: tuple[Sequence[str], Sequence[str]]
) -> float:
    """The word error of spelling letter by letter, each as it most often sounds in words that have as many
    letters as phonemes."""
    counts: dict[str, Counter[str]] = {}
    for word, sounds in zip(*train, strict=True):
        phonemes = sounds.split()
        if len(word) == len(phonemes):
            for letter, phoneme in zip(word, phonemes, strict=True):
                counts.setdefault(letter, Counter())[phoneme] += 1
    usual = {letter: sounds.most_common(1)[0][0] for letter, sounds in counts.items()}
    answers: dict[str, list[list[str]]] = {}
    for word, sounds in zip(*test, strict=True):
        answers.setdefault(word, []).append(sounds.split())
    guesses = [[usual[letter] for letter in word if letter in usual] for word in answers]
    return 1.0 - exact_match(guesses, best_references(guesses, list(answers.values())))


def _some_words(data: Any, count: int) -> tuple[list[str], list[str]]:
    """All pronunciations of about `count` words spread evenly over the dictionary."""
    words = list(dict.fromkeys(data.sources))
    chosen = set(words[:: max(1, len(words) // count)][:count])
    pairs = [(w, s) for w, s in zip(data.sources, data.targets, strict=True) if w in chosen]
    return [w for w, _ in pairs], [s for _, s in pairs]
