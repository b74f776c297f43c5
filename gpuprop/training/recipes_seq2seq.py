"""Recipes for encoder-decoders: for each row of the README's second quality table, how to train and score it.

Options are those of `gpuprop train seq2seq`, as in `gpuprop.training.recipes`; those of a preset are not
repeated. All were chosen on training and development rows alone.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from .presets import PRESETS

FALLING = ("wer", "per")  # better when lower; fractions, the others are points


@dataclass(frozen=True)
class Seq2SeqRecipe:
    """One row: what to train, and what it has to reach.

    options: of `gpuprop train seq2seq`, beside --train, --valid, --out and --seed. scores: of `gpuprop
    evaluate --metric`. evaluation: its other options. must and goal: score -> bound, fractions for wer and
    per. average: kept epochs whose weights are averaged before the second scoring with a beam of 5; the first
    scoring is greedy, of the best epoch. published: who reached what, in words.
    """

    dataset: str
    options: Mapping[str, Any]
    scores: tuple[str, ...]
    must: Mapping[str, float]
    goal: Mapping[str, float]
    evaluation: tuple[str, ...] = ()
    average: int | None = None
    published: str = ""
    seeds: tuple[int, ...] = field(default=(1,))

    @property
    def model(self) -> str:
        """The name of its model."""
        preset = PRESETS.get(self.options.get("preset", ""), {})
        return str(self.options.get("model", preset.get("model")))


G2P = {"source_tokenizer": "char", "target_tokenizer": "symbol"}
TRANSFORMER = {
    **G2P,
    "model": "transformer",
    "dropout": 0.1,
    "label_smoothing": 0.1,
    "schedule": "cosine",
    "warmup_steps": 1000,
    "lr": 1e-3,
    "batch_size": 128,
    "keep_last": 5,
    "best_by": "exact_match",
}
CAPTIONS = {
    "tokenizer": "bpe",
    "bpe_size": 6000,
    "lowercase": True,
    "joint": True,
    "label_smoothing": 0.1,
    "schedule": "cosine",
    "lr": 1e-3,
    "batch_size": 64,
    "keep_last": 5,
}

RECIPES: dict[str, Seq2SeqRecipe] = {
    "g2p_gru": Seq2SeqRecipe(
        dataset="cmudict_g2p",
        options={"preset": "g2p"},
        scores=("wer", "per"),
        must={"wer": 0.286, "per": 0.076},
        goal={"wer": 0.244},
        published="WER 28.6 %, PER 7.6 %, LSTM encoder-decoder (Yao and Zweig 2015)",
    ),
    # small enough for two cores
    "g2p_transformer_small": Seq2SeqRecipe(
        dataset="cmudict_g2p",
        options={**TRANSFORMER, "embedding_dim": 128, "hidden": 512, "layers": 4, "heads": 4, "epochs": 20},
        scores=("wer", "per"),
        must={"wer": 0.244},
        goal={"wer": 0.206},
        average=5,
        published="WER 24.4 %, n-gram WFST (cmusphinx/g2p-seq2seq)",
    ),
    # of the published size
    "g2p_transformer": Seq2SeqRecipe(
        dataset="cmudict_g2p",
        options={**TRANSFORMER, "embedding_dim": 256, "hidden": 1024, "layers": 3, "heads": 4, "epochs": 40},
        scores=("wer", "per"),
        must={"wer": 0.244},
        goal={"wer": 0.206},
        average=5,
        published="WER 20.6 %, Transformer of 3 layers, 256 wide (cmusphinx/g2p-seq2seq)",
    ),
    "multi30k_gru": Seq2SeqRecipe(
        dataset="multi30k",
        options={
            **CAPTIONS,
            "model": "gru",
            "attention": "additive",
            "embedding_dim": 256,
            "hidden": 256,
            "tied": "all",
            "dropout": 0.3,
            "epochs": 12,
        },
        scores=("bleu", "chrf"),
        evaluation=("--lowercase",),
        must={"bleu": 28.3},
        goal={"bleu": 33.0},
        average=5,
        published="28.3, GRU with attention (bentrevett/pytorch-seq2seq)",
    ),
    "multi30k_conv": Seq2SeqRecipe(
        dataset="multi30k",
        options={
            **CAPTIONS,
            "model": "conv",
            "embedding_dim": 256,
            "hidden": 256,
            "layers": 6,
            "dropout": 0.25,
            "epochs": 14,
        },
        scores=("bleu", "chrf"),
        evaluation=("--lowercase",),
        must={"bleu": 34.1},
        goal={"bleu": 36.0},
        average=5,
        published="34.1, convolutional (bentrevett/pytorch-seq2seq)",
    ),
    "multi30k_transformer": Seq2SeqRecipe(
        dataset="multi30k",
        options={"preset": "multi30k"},
        scores=("bleu", "chrf"),
        evaluation=("--lowercase",),
        must={"bleu": 36.5},
        goal={"bleu": 39.0},
        average=5,
        published="36.5, Transformer (bentrevett/pytorch-seq2seq)",
    ),
    "headline": Seq2SeqRecipe(
        dataset="debian_descriptions",
        options={"preset": "headline"},
        scores=("rouge",),
        must={"rouge1": 32.2, "rouge2": 15.3, "rougeL": 28.8},
        goal={"rouge1": 40.0, "rouge2": 22.0, "rougeL": 38.0},
        average=3,
        published="32.2 / 15.3 / 28.8, the first ten words",
    ),
}
