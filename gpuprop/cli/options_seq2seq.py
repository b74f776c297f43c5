"""The options of `gpuprop train seq2seq`, beside those of every training."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Annotated, Literal

from ..errors import DataError
from .options import MODEL, RUN, TEXT, TRAINING, CommonOptions, TokenizerName, option

# Options that mean something to some models only.
OWN_OPTIONS = {
    "attention": ("gru", "lstm"),
    "input_feeding": ("gru", "lstm"),
    "heads": ("transformer",),
    "norm": ("transformer",),
    "activation": ("transformer",),
    "kernel_size": ("conv",),
    "positions": ("transformer", "conv"),
    "max_positions": ("transformer", "conv"),
}


@dataclass(kw_only=True)
class Seq2SeqOptions(CommonOptions):
    """gpuprop train seq2seq"""

    preset: Annotated[
        Literal["g2p", "multi30k", "headline"] | None,
        option(
            "--preset",
            "Options known to work, for pronunciation, translation of captions, and one-line summaries; "
            "options given beside it win.",
            MODEL,
        ),
    ] = None
    model: Annotated[
        Literal["gru", "lstm", "transformer", "conv"],
        option(
            "--model", "Recurrent with attention, attention alone, or convolutions with attention.", MODEL
        ),
    ] = "gru"
    embedding_dim: Annotated[
        int, option("--embedding-dim", "Size of a token vector; transformer: its width.", MODEL, "N", 1)
    ] = 256
    hidden: Annotated[
        int | None,
        option(
            "--hidden",
            "gru, lstm: units of the decoder and of each encoder direction. (default 256) transformer: units "
            "inside its feed-forward networks. (default 4 x embedding-dim) conv: channels. (default 256)",
            MODEL,
            "N",
            1,
        ),
    ] = None
    layers: Annotated[
        int | None,
        option(
            "--layers", "Layers on each side. (default gru, lstm 1; transformer 3; conv 4)", MODEL, "N", 1
        ),
    ] = None
    attention: Annotated[
        Literal["dot", "additive"],
        option("--attention", "gru, lstm: Luong's (dot) or Bahdanau's (additive).", MODEL),
    ] = "dot"
    input_feeding: Annotated[
        bool,
        option(
            "--input-feeding",
            "gru, lstm: the decoder reads what it last attended to; slower, better.",
            MODEL,
        ),
    ] = False
    heads: Annotated[int, option("--heads", "transformer: heads of attention.", MODEL, "N", 1)] = 4
    kernel_size: Annotated[
        int, option("--kernel-size", "conv: tokens that a convolution sees.", MODEL, "N", 1)
    ] = 3
    norm: Annotated[
        Literal["pre", "post"],
        option("--norm", "transformer: layer norm before or after each part.", MODEL),
    ] = "pre"
    activation: Annotated[
        Literal["relu", "gelu"], option("--activation", "transformer: of its feed-forward networks.", MODEL)
    ] = "relu"
    positions: Annotated[
        Literal["sinusoidal", "learned"],
        option(
            "--positions",
            "transformer, conv: fixed, for any length, or trained, up to --max-positions.",
            MODEL,
        ),
    ] = "sinusoidal"
    max_positions: Annotated[
        int, option("--max-positions", "The longest text that learned positions allow.", MODEL, "N", 1)
    ] = 512
    tied: Annotated[
        Literal["none", "target", "all"],
        option(
            "--tied",
            "One table for target vectors and output (target), and for source vectors too (all; needs "
            "--joint).",
            MODEL,
        ),
    ] = "none"
    best_by: Annotated[
        Literal[
            "loss",
            "perplexity",
            "exact_match",
            "token_error_rate",
            "bleu",
            "chrf",
            "rougeL",
            "wer",
            "per",
        ],
        option(
            "--best-by",
            "The validation score that decides the best epoch; all but loss and perplexity are of what the "
            "model writes for the first 500 sources (bleu, chrf, rougeL: extra text).",
            TRAINING,
        ),
    ] = "loss"
    draw_attention: Annotated[
        bool,
        option(
            "--draw-attention",
            "After each epoch draw what the decoder attends to in a validation pair: attention/epoch-N.png.",
            RUN,
        ),
    ] = False
    source_tokenizer: Annotated[
        TokenizerName | None, option("--source-tokenizer", "For sources only.", TEXT)
    ] = None
    target_tokenizer: Annotated[
        TokenizerName | None, option("--target-tokenizer", "For targets only.", TEXT)
    ] = None
    joint: Annotated[
        bool, option("--joint", "One tokenizer and one vocabulary for sources and targets.", TEXT)
    ] = False

    def check(self) -> None:
        super().check()
        defaults = {field.name: field.default for field in fields(self)}
        for name, models in OWN_OPTIONS.items():
            if self.model not in models and getattr(self, name) != defaults[name]:
                flag = f"--{name.replace('_', '-')}"
                raise DataError(f"{flag} is for {' and '.join(models)}, not for {self.model}: leave it out")
