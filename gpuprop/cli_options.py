"""The options of `gpuprop train`, one dataclass a task: each field is an option with its help."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import typer

from .cli_support import check_number, whole_numbers
from .errors import DataError
from .training.session import Settings

DATA, TEXT, MODEL, TRAINING, RUN = "Data", "Text", "Model", "Training", "Run"

TokenizerName = Literal["word", "whitespace", "char", "symbol", "bpe"]
TokenizerChoice = Literal["auto", "word", "whitespace", "char", "symbol", "bpe"]
OptimizerName = Literal["sgd", "adam", "adamw", "rmsprop", "adagrad"]
PrecisionName = Literal["fp32", "tf32", "bf16", "fp16"]
ScheduleName = Literal["constant", "step", "linear", "cosine", "inverse-sqrt", "plateau"]


AUTO = 0  # what --batch-size auto is until the data are read


def rows_or_auto(text: str) -> int:
    """The number behind --batch-size: AUTO for "auto"."""
    if str(text).strip() == "auto":
        return AUTO
    if not str(text).isascii() or not str(text).isdigit() or int(text) < 1:
        raise typer.BadParameter(f"{text!r} is not a whole number of at least 1, nor auto.")
    return int(text)


def option(
    flags: str, help: str, panel: str, metavar: str | None = None, least: int | None = None
) -> typer.models.OptionInfo:
    """A typer option in a panel of the help page."""
    info: typer.models.OptionInfo = typer.Option(
        *flags.split(), help=help, rich_help_panel=panel, metavar=metavar, min=least
    )
    return info


@dataclass(kw_only=True)
class CommonOptions:
    """What both kinds of training take."""

    train: Annotated[Path, option("--train", "Rows to train on.", DATA, "FILE")]
    valid: Annotated[
        Path | None,
        option(
            "--valid",
            "Rows that choose the best epoch. Without it a tenth of the training rows.",
            DATA,
            "FILE",
        ),
    ] = None
    test: Annotated[
        Path | None, option("--test", "Rows to score the best model on, at the end.", DATA, "FILE")
    ] = None
    out: Annotated[Path, option("--out", "The run folder to make.", DATA, "FOLDER")]
    overwrite: Annotated[bool, option("--overwrite", "Replace the run that --out holds.", DATA)] = False

    tokenizer: Annotated[
        TokenizerChoice,
        option(
            "--tokenizer",
            "How texts become tokens; auto, for each side: char where no text has a space, symbol where at "
            "most 100 different ones stand between spaces (phonemes), else word.",
            TEXT,
        ),
    ] = "auto"
    max_length: Annotated[
        int | None,
        option("--max-length", "Cut texts after so many tokens. Without it nothing is cut.", TEXT, "N", 1),
    ] = None
    min_frequency: Annotated[
        int, option("--min-frequency", "Leave out tokens seen less often in training.", TEXT, "N", 1)
    ] = 1
    max_vocabulary: Annotated[
        int | None,
        option("--max-vocabulary", "Keep at most so many tokens, the most frequent.", TEXT, "N", 5),
    ] = None
    bpe_size: Annotated[
        int, option("--bpe-size", "Pieces that the bpe tokenizer learns.", TEXT, "N", 257)
    ] = 8000
    keep_case: Annotated[
        bool, option("--keep-case", "word, whitespace, char: tell Word from word.", TEXT)
    ] = False
    lowercase: Annotated[
        bool, option("--lowercase", "bpe: make texts lower case; it keeps them as they are else.", TEXT)
    ] = False
    embeddings: Annotated[
        Path | None,
        option(
            "--embeddings",
            "Word vectors to start from, as text: word v1 v2 ... (GloVe; .gz, .xz).",
            TEXT,
            "FILE",
        ),
    ] = None
    embeddings_mode: Annotated[
        Literal["tuned", "static"],
        option("--embeddings-mode", "Train these vectors on, or leave them.", TEXT),
    ] = "tuned"

    epochs: Annotated[int, option("--epochs", "Times through the training rows.", TRAINING, "N", 1)] = 10
    batch_size: Annotated[
        int | None,
        typer.Option(
            "--batch-size",
            help="Rows in a batch; auto: as many as fit on the GPU. (default classify 50, seq2seq 64)",
            rich_help_panel=TRAINING,
            metavar="N",
            parser=rows_or_auto,
        ),
    ] = None
    batch_tokens: Annotated[
        int | None,
        option(
            "--batch-tokens",
            "Instead of --batch-size: at most so many tokens in a batch, padding included (pairs: both "
            "sides). A longer row is a batch of its own.",
            TRAINING,
            "N",
            1,
        ),
    ] = None
    accumulate: Annotated[
        int,
        option(
            "--accumulate",
            "Batches a step: the gradient of one batch of N times the size, in the memory of one.",
            TRAINING,
            "N",
            1,
        ),
    ] = 1
    lr: Annotated[
        float | None,
        option("--lr", "Learning rate. (default feedforward 0.005, others 0.001)", TRAINING, "X"),
    ] = None
    optimizer: Annotated[OptimizerName, option("--optimizer", "sgd has momentum 0.9.", TRAINING)] = "adam"
    schedule: Annotated[
        ScheduleName,
        option(
            "--schedule",
            "How the learning rate goes on: step falls to a tenth after each third; linear and cosine fall "
            "to 0; plateau halves when validation stalls.",
            TRAINING,
        ),
    ] = "constant"
    warmup_steps: Annotated[
        int,
        option(
            "--warmup-steps", "Optimizer steps in which the learning rate rises from 0.", TRAINING, "N", 0
        ),
    ] = 0
    weight_decay: Annotated[float, option("--weight-decay", "L2; decoupled with adamw.", TRAINING, "X")] = 0.0
    clip_norm: Annotated[
        float | None,
        option(
            "--clip-norm",
            "Limit of the gradients' joint norm; 0 for none. (default classify 0, seq2seq 1)",
            TRAINING,
            "X",
        ),
    ] = None
    dropout: Annotated[
        float | None,
        option(
            "--dropout", "Share of units left out in training. (default cnn 0.5, others 0)", TRAINING, "P"
        ),
    ] = None
    label_smoothing: Annotated[
        float, option("--label-smoothing", "Share of each target spread over all classes.", TRAINING, "P")
    ] = 0.0
    early_stop: Annotated[
        int | None,
        option("--early-stop", "Stop after so many epochs without a better one.", TRAINING, "N", 1),
    ] = None
    precision: Annotated[
        PrecisionName,
        option(
            "--precision",
            "Of the model's arithmetic; weights and losses stay in 32 bits. tf32 means nothing on a CPU, "
            "where bf16 and fp16 are imitated, slowly.",
            TRAINING,
        ),
    ] = "fp32"
    seed: Annotated[int, option("--seed", "Same seed, same bits (on a CPU).", TRAINING, "N", 0)] = 0

    device: Annotated[
        str | None,
        option("--device", "auto, cpu, cuda or cuda:N. (default GPUPROP_DEVICE, else auto)", RUN, "DEVICE"),
    ] = None
    keep_last: Annotated[
        int,
        option(
            "--keep-last",
            "Keep the weights of the last N epochs too, for `gpuprop average`.",
            RUN,
            "N",
            0,
        ),
    ] = 0
    keep_checkpoints: Annotated[
        int,
        option(
            "--keep-checkpoints",
            "Checkpoints that stay, beside that of the best epoch; 0 for none at all.",
            RUN,
            "N",
            0,
        ),
    ] = 2
    checkpoint_every: Annotated[
        str | None,
        option(
            "--checkpoint-every",
            "Save within epochs too: every N steps, or every Ns seconds (500, 300s).",
            RUN,
            "N",
        ),
    ] = None
    checkpoint_dir: Annotated[
        Path | None,
        option("--checkpoint-dir", "A second folder for checkpoints, on another disk, say.", RUN, "FOLDER"),
    ] = None
    quiet: Annotated[bool, option("--quiet -q", "Show errors only.", RUN)] = False

    def check(self) -> None:
        """Raise DataError for a number that makes no sense: before any file is read."""
        check_number("--lr", self.lr, 0.0, strict=True)
        check_number("--weight-decay", self.weight_decay, 0.0)
        check_number("--clip-norm", self.clip_norm, 0.0)
        check_number("--dropout", self.dropout, 0.0, 1.0)
        check_number("--label-smoothing", self.label_smoothing, 0.0, 1.0)
        if self.batch_size is not None and self.batch_tokens is not None:
            raise DataError("--batch-size and --batch-tokens both say how large a batch is: give one of them")
        if self.keep_case and self.lowercase:
            raise DataError("--keep-case and --lowercase exclude each other: leave one out")
        if self.seed >= 1 << 64:
            raise DataError(f"--seed must be below 2^64, not {self.seed}")
        self.checkpoint_interval()

    def checkpoint_interval(self) -> dict[str, int]:
        """--checkpoint-every as an argument of CheckpointFolder."""
        text = (self.checkpoint_every or "").strip()
        number = text.removesuffix("s")
        if self.checkpoint_every is None:
            return {}
        if not (number.isascii() and number.isdigit() and int(number) > 0):
            raise DataError(f"--checkpoint-every is a number of steps (500) or seconds (300s), not {text!r}")
        return {"every_seconds" if text.endswith("s") else "every_steps": int(number)}

    def settings(self, batch_size: int, lr: float, clip_norm: float, watch: tuple[str, ...]) -> Settings:
        """The training's settings, with these values where the user gave none."""
        clip = clip_norm if self.clip_norm is None else self.clip_norm
        return Settings(
            epochs=self.epochs,
            batch_size=None if self.batch_tokens else self.batch_size or batch_size,
            batch_tokens=self.batch_tokens,
            accumulate=self.accumulate,
            keep_last=self.keep_last,
            precision=self.precision,
            lr=self.lr if self.lr is not None else lr,
            optimizer=self.optimizer,
            schedule=self.schedule,
            warmup_steps=self.warmup_steps,
            weight_decay=self.weight_decay,
            clip_norm=clip or None,
            early_stop=self.early_stop,
            seed=self.seed,
            watch=watch,
        )


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
