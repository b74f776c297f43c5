"""The options of `gpuprop train classify`, beside those of every training."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

from ..errors import DataError
from .options import MODEL, TEXT, TRAINING, CommonOptions, TokenizerName, option
from .support import check_number, whole_numbers


@dataclass(kw_only=True)
class ClassifyOptions(CommonOptions):
    """gpuprop train classify"""

    tokenizer: Annotated[TokenizerName, option("--tokenizer", "How texts become tokens.", TEXT)] = "word"
    model: Annotated[
        Literal["feedforward", "cnn"],
        option("--model", "Averaged word vectors, or Kim's convolutions.", MODEL),
    ] = "cnn"
    embedding_dim: Annotated[
        int | None,
        option("--embedding-dim", "Size of a word vector. (default feedforward 100, cnn 300)", MODEL, "N", 1),
    ] = None
    hidden: Annotated[
        str,
        option("--hidden", "feedforward: sizes of hidden layers, such as 200,100, or none.", MODEL, "N,..."),
    ] = "none"
    widths: Annotated[str, option("--widths", "cnn: sizes of its windows, in tokens.", MODEL, "N,...")] = (
        "3,4,5"
    )
    filters: Annotated[int, option("--filters", "cnn: filters of each width.", MODEL, "N", 1)] = 100
    max_norm: Annotated[
        float | None, option("--max-norm", "cnn: limit of the output weights' norms (Kim: 3).", MODEL, "X")
    ] = None
    word_dropout: Annotated[
        float, option("--word-dropout", "feedforward: share of words left out in training.", MODEL, "P")
    ] = 0.0
    embedding_dropout: Annotated[
        float, option("--embedding-dropout", "cnn: dropout on word vectors.", MODEL, "P")
    ] = 0.0
    ngrams: Annotated[
        int | None,
        option("--ngrams", "Add n-grams of up to N words. (default feedforward 2, cnn 1)", TEXT, "N", 1),
    ] = None
    best_by: Annotated[
        Literal["accuracy", "macro_f1", "loss"],
        option("--best-by", "The validation score that decides the best epoch.", TRAINING),
    ] = "accuracy"
    class_weights: Annotated[
        str | None,
        option(
            "--class-weights",
            "Weigh classes in the loss: balanced (by rarity), or LABEL=X,LABEL=X (others 1).",
            TRAINING,
            "WEIGHTS",
        ),
    ] = None

    def check(self) -> None:
        super().check()
        check_number("--word-dropout", self.word_dropout, 0.0, 1.0)
        check_number("--embedding-dropout", self.embedding_dropout, 0.0, 1.0)
        check_number("--max-norm", self.max_norm, 0.0, strict=True)
        whole_numbers("--hidden", self.hidden)
        if not whole_numbers("--widths", self.widths):
            raise DataError("--widths needs at least one width, such as 3,4,5")
