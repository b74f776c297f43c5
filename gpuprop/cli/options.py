"""The options of every `gpuprop train` command, as a dataclass: each field is an option with its help."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import typer

from ..errors import DataError
from ..training.session import Settings
from .support import check_number

DATA, TEXT, MODEL, TRAINING, RUN = "Data", "Text", "Model", "Training", "Run"

TokenizerName = Literal["word", "whitespace", "char", "symbol", "bpe"]
TokenizerChoice = Literal["auto", "word", "whitespace", "char", "symbol", "bpe"]
OptimizerName = Literal["sgd", "adam", "adamw", "rmsprop", "adagrad", "sparse-adam"]
OPTIMIZERS = "sgd has momentum 0.9; sparse-adam is AdamW, but changes only rows of tables that occur."
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
            help="Rows in a batch, of each rank; auto: as many as fit on the GPU. (default classify 50, "
            "seq2seq 64)",
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
    optimizer: Annotated[OptimizerName, option("--optimizer", OPTIMIZERS, TRAINING)] = "adam"
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
    seed: Annotated[int, option("--seed", "Same seed, same bits on one machine.", TRAINING, "N", 0)] = 0

    deterministic: Annotated[
        bool,
        option(
            "--deterministic/--no-deterministic",
            "Same bits every time on a GPU (the default), or embeddings' gradients added up by atomics, in "
            "any order.",
            TRAINING,
        ),
    ] = True

    device: Annotated[
        str | None,
        option("--device", "auto, cpu, cuda or cuda:N. (default GPUPROP_DEVICE, else auto)", RUN, "DEVICE"),
    ] = None
    gradient_type: Annotated[
        Literal["fp32", "bf16"],
        option("--gradient-type", "How gradients travel between ranks: bf16 is half the bytes.", RUN),
    ] = "fp32"
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
        self._check_files()

    def _check_files(self) -> None:
        """They are read more than once: again for their checksums, and when training goes on."""
        for role in ("train", "valid", "test", "embeddings"):
            path: Path | None = getattr(self, role)
            if path is not None and path.exists() and not (path.is_file() or path.is_dir()):
                raise DataError(f"is a pipe or a device; write it to a file first, for --{role}", path)

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
            gradient_type=self.gradient_type,
        )
