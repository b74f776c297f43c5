"""One training from settings to a run folder: optimizer, schedule, trainer, saved models, curves."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .. import optim
from ..errors import DataError, TrainingError
from ..nn.module import Module
from ..tensors import Parameter
from .attention_picture import picture_of_epoch
from .curves import figure_class
from .failure import forget_failure
from .gradients import GradientLog, GradientRecorder
from .observer import Observer
from .progress import Display
from .run import RunFolder
from .run_checkpoints import RunCheckpoints, settle
from .seq2seq import SequenceToSequence
from .sparse_tables import sparse_groups
from .tasks import Task
from .trainer import Trainer

SCHEDULES = ("constant", "step", "linear", "cosine", "inverse-sqrt", "plateau")


@dataclass(frozen=True)
class Settings:
    """How to train. A step has `accumulate` batches of `batch_size` rows or, where that is None, of at most
    `batch_tokens` tokens, for each of so many `ranks`; all ranks that there are share them. The weights of
    the last `keep_last` epochs stay in the run folder. `early_stop` and `clip_norm` may be None for never;
    `watch` is what decides the best epoch. draw_attention: over one validation pair, after each epoch
    (encoder-decoders). gradient_type: how gradients travel between ranks."""

    epochs: int
    batch_size: int | None
    lr: float
    optimizer: str = "adam"
    schedule: str = "constant"
    warmup_steps: int = 0
    weight_decay: float = 0.0
    clip_norm: float | None = None
    early_stop: int | None = None
    seed: int = 0
    watch: tuple[str, ...] = ("valid_loss",)
    batch_tokens: int | None = None
    accumulate: int = 1
    keep_last: int = 0
    precision: str = "fp32"
    draw_attention: bool = False
    ranks: int = 1
    gradient_type: str = "fp32"


def make_optimizer(name: str, model: Module, lr: float, weight_decay: float) -> optim.Optimizer:
    """An optimizer by its command-line name, over the parameters that are trained. "sgd" has momentum 0.9;
    "sparse-adam" is AdamW for all but tables of embeddings."""
    makers: dict[str, Callable[..., optim.Optimizer]] = {
        "sgd": lambda p, **options: optim.SGD(p, momentum=0.9, **options),
        "adam": optim.Adam,
        "adamw": optim.AdamW,
        "rmsprop": optim.RMSprop,
        "adagrad": optim.Adagrad,
    }
    if name == "sparse-adam":
        return optim.SparseAdam(sparse_groups(model, weight_decay), lr=lr)
    if name not in makers:
        raise DataError(f"unknown optimizer {name!r}; known are {', '.join(makers)}, sparse-adam")
    trained = [p for p in model.parameters() if p.requires_grad]
    return makers[name](trained, lr=lr, weight_decay=weight_decay)


def make_schedule(
    name: str, optimizer: optim.Optimizer, epoch_steps: int, epochs: int, warmup_steps: int
) -> optim.Schedule | None:
    """A learning-rate schedule by its command-line name, over `epochs` epochs of `epoch_steps` steps."""
    total = epoch_steps * epochs
    if warmup_steps >= total and name in ("linear", "cosine"):
        raise DataError(
            f"a warm-up of {warmup_steps} steps leaves nothing of the {total} steps in all; make it shorter "
            "(--warmup-steps)"
        )
    if name == "constant":
        return optim.LinearWarmupLR(optimizer, warmup_steps) if warmup_steps else None
    if name == "step":
        return optim.StepLR(optimizer, max(1, -(-epochs // 3) * epoch_steps), 0.1)
    if name == "linear":
        return optim.LinearWarmupLR(optimizer, warmup_steps, total)
    if name == "cosine":
        return optim.CosineLR(optimizer, total, warmup_steps)
    if name == "inverse-sqrt":
        return optim.InverseSquareRootLR(optimizer, warmup_steps or max(1, total // 10))
    if name == "plateau":
        return optim.ReduceLROnPlateau(optimizer, patience=1)
    raise DataError(f"unknown schedule {name!r}; known are {', '.join(SCHEDULES)}")


def freeze(parameter: Parameter) -> None:
    """Leave a parameter as it is in training. Call it before the optimizer is made."""
    parameter.requires_grad = False


def attention_pictures(task: Task, valid: Any, run: Path) -> Callable[[int], None]:
    """What draws, after an epoch, the attention in the first validation pair that is not too long. Raises
    DataError where there is none, and PlotError where matplotlib is missing."""
    if not isinstance(task, SequenceToSequence):
        raise DataError("only encoder-decoders have attention to draw")
    figure_class("picture of attention")
    row = task.drawable(valid)
    source, target = valid.source_texts[row], valid.targets[row]
    return lambda epoch: task.attention(source, target).draw(
        picture_of_epoch(run, epoch), f"after epoch {epoch}"
    )


class Session:
    """A task, its data and settings; `train` fills the run folder (None: nothing is written). failures: the
    folder for a step that fails, where it is not that one: of several ranks, only the first has a run
    folder."""

    def __init__(
        self,
        task: Task,
        train: Any,
        valid: Any,
        settings: Settings,
        folder: RunFolder | None,
        progress: str | Display,
        checkpoints: RunCheckpoints | None = None,
        failures: Path | None = None,
    ) -> None:
        self.task, self.settings, self.folder, self.checkpoints = task, settings, folder, checkpoints
        self.failure: TrainingError | None = None  # of a training that went on without its run folder
        self.picture = (
            attention_pictures(task, valid, folder.path)
            if settings.draw_attention and folder is not None
            else None
        )
        size, tokens = (n and n * settings.ranks for n in (settings.batch_size, settings.batch_tokens))
        self.batches = task.batches(train, size, settings.seed, tokens)
        optimizer = make_optimizer(settings.optimizer, task.model, settings.lr, settings.weight_decay)
        epoch_steps = -(-len(self.batches) // settings.accumulate)
        self.trainer = Trainer(
            task.model,
            task.loss,
            optimizer,
            schedule=make_schedule(
                settings.schedule, optimizer, epoch_steps, settings.epochs, settings.warmup_steps
            ),
            clip_norm=settings.clip_norm,
            validate=lambda: task.validate(valid),
            watch=settings.watch,
            patience=settings.early_stop,
            count=task.count,
            accumulate=settings.accumulate,
            precision=settings.precision,
            on_best=self._keep_best,
            on_epoch=self._keep_epoch,
            run_folder=failures if folder is None else folder.path,
            parallel=True,
            gradient_type=settings.gradient_type,
            observers=self._observers(),
            progress=progress,
            checkpoints=checkpoints,
        )
        if checkpoints is not None and folder is not None:
            checkpoints.attach(folder, task.model)

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on from a checkpoint's state. CheckpointError where it is of another model or training."""
        self.trainer.load_state_dict(state)
        if self.folder is not None:
            self.folder.prepare()
            self.folder.describe()
            forget_failure(self.folder.path)  # training goes on from before it
            self.folder.begun = True
            settle(self.folder.path, state, self.settings.keep_last)

    def train(self) -> Trainer:
        """Run all epochs; the trainer then has the history and the model its best weights.

        On any error or Ctrl-C the folder keeps the best model saved so far, or is taken back when there is
        none. `failure` is what the folder still lacks, where training went on without it.
        """
        if self.folder is not None:
            self.folder.prepare()
        try:
            if self.folder is not None and self.trainer.checkpoints is not None:
                self.folder.describe()
            self.trainer.fit(self.batches, self.settings.epochs)
            self._complete()
        finally:
            if self.folder is not None:
                self.folder.abandon()
        return self.trainer

    def _complete(self) -> None:
        try:
            if self.checkpoints is not None and self.folder is not None:
                self.checkpoints.complete(self.trainer.history)
                self.log.flush()
        except TrainingError as error:
            self.failure = error

    def _keep_best(self, record: dict[str, Any]) -> None:
        if self.folder is not None and self.checkpoints is not None:
            self.checkpoints.save_best()
        elif self.folder is not None:
            self.folder.save_model(self.task.model)

    def _keep_epoch(self, record: dict[str, Any]) -> None:
        folder = self.folder
        if folder is None:
            return

        def write() -> None:
            if self.settings.keep_last:
                folder.keep_epoch(self.task.model, record["epoch"], self.settings.keep_last)
            folder.append_metrics(record)
            if self.picture is not None:
                self.picture(record["epoch"])

        if self.checkpoints is None:
            write()
        else:
            self.checkpoints.write(write)

    def _observers(self) -> list[Observer]:
        folder = self.folder
        if folder is None:
            return []
        self.log = GradientLog(
            folder.path, lambda: folder.shown, lambda text: self.trainer.display.warn(text)
        )
        return [GradientRecorder(self.log, clip_norm=self.settings.clip_norm)]
