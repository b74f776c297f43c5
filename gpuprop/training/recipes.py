"""Recipes: for each task of the README's quality table, the options to train with.

Options are those of `gpuprop train` (`--min-frequency` is "min_frequency"), so that

    gpuprop data get trec --out trec
    gpuprop train classify --train trec/train.tsv --valid trec/dev.tsv --test trec/test.tsv --out runs/trec \\
        --model cnn --tokenizer whitespace --min-frequency 2 --lr 0.001 --epochs 8

trains the same model. All were chosen on training and development rows alone.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from hashlib import md5
from typing import Any

from ..text.datasets.base import PairData


@dataclass(frozen=True)
class Recipe:
    """How to train on one data set, and what that has to reach.

    options: of `gpuprop train classify` or `seq2seq`, beside --train, --valid, --test, --out and --seed.
    metric: "accuracy" or "word_error", a fraction; must and goal are of it. words: how many words of each
    split to take (`first_words`), for splits that are not used whole. beam: of decoding for the metric.
    published: who reached what, in words.
    """

    dataset: str
    task: str
    options: Mapping[str, Any]
    metric: str
    must: float
    goal: float
    seeds: tuple[int, ...] = (1, 2, 3)
    words: Mapping[str, int] = field(default_factory=dict)
    beam: int = 1
    published: str = ""

    def reached(self, value: float, bound: float) -> bool:
        """Whether `value` is at least as good as `bound`."""
        return value <= bound if self.metric == "word_error" else value >= bound


def first_words(data: PairData, words: int) -> PairData:
    """The pairs of `words` different sources, those with the lowest MD5: a sample without a generator."""
    ordered = sorted(
        set(data.sources), key=lambda s: md5(s.encode("utf-8"), usedforsecurity=False).hexdigest()
    )
    kept = set(ordered[:words])
    rows = [(s, t) for s, t in zip(data.sources, data.targets, strict=True) if s in kept]
    return PairData([s for s, _ in rows], [t for _, t in rows])


RECIPES: dict[str, Recipe] = {
    "vader_movie": Recipe(
        dataset="vader_movie",
        task="classify",
        options={
            "model": "feedforward",
            "tokenizer": "word",
            "dropout": 0.3,
            "optimizer": "adamw",
            "weight_decay": 0.3,
            "lr": 3e-3,
            "epochs": 5,
        },
        metric="accuracy",
        must=0.785,
        goal=0.80,
        published="TF-IDF and logistic regression 78.2 %",
    ),
    "mr": Recipe(
        dataset="mr",
        task="classify",
        options={
            "model": "cnn",
            "tokenizer": "whitespace",
            "min_frequency": 2,
            "lr": 1e-3,
            "epochs": 5,
        },
        metric="accuracy",
        must=0.735,
        goal=0.75,
        published="CNN-rand 74.98 % (Yao et al. 2019), the same split",
    ),
    "sst2": Recipe(
        dataset="sst2",
        task="classify",
        options={
            "model": "cnn",
            "tokenizer": "whitespace",
            "batch_size": 100,
            "lr": 1e-3,
            "epochs": 3,
        },
        metric="accuracy",
        must=0.815,
        goal=0.827,
        published="CNN-rand 82.7 % (Kim 2014)",
    ),
    "trec": Recipe(
        dataset="trec",
        task="classify",
        options={
            "model": "cnn",
            "tokenizer": "whitespace",
            "min_frequency": 2,
            "lr": 1e-3,
            "epochs": 8,
        },
        metric="accuracy",
        must=0.88,
        goal=0.912,
        published="CNN-rand 91.2 % (Kim 2014); a replication 88.2 %",
    ),
    "reuters_r8": Recipe(
        dataset="reuters_r8",
        task="classify",
        options={
            "model": "feedforward",
            "tokenizer": "whitespace",
            "min_frequency": 2,
            "embedding_dim": 50,
            "dropout": 0.3,
            "lr": 5e-3,
            "epochs": 15,
        },
        metric="accuracy",
        must=0.96,
        goal=0.968,
        published="fastText 96.1 % (Yao et al. 2019)",
    ),
    "cmudict_g2p": Recipe(
        dataset="cmudict_g2p",
        task="seq2seq",
        options={
            "model": "gru",
            "source_tokenizer": "char",
            "target_tokenizer": "symbol",
            "embedding_dim": 128,
            "hidden": 256,
            "attention": "additive",
            "dropout": 0.3,
            "schedule": "cosine",
            "lr": 1.5e-3,
            "batch_size": 32,
            "epochs": 12,
            "best_by": "exact_match",
        },
        metric="word_error",
        must=0.40,
        goal=0.34,
        seeds=(1,),
        words={"train": 20_000, "dev": 1_000, "test": 2_000},
        beam=5,
        published="24.4 % with five times the words (n-gram WFST, cmusphinx/g2p-seq2seq)",
    ),
}
