"""The task "classify": a label for a text."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ..backend.arrays import to_host
from ..backprop import no_grad
from ..errors import CheckpointError, DataError
from ..models import CLASSIFIERS, ConfiguredModel, build
from ..nn.losses import CrossEntropyLoss
from ..parallel.sharing import all_rows, my_rows
from ..tensors import Tensor
from ..text.batches import Batches, TextBatch, restore_order, text_batches
from ..text.field import TextField
from ..text.files import read_labelled
from ..text.labels import label_ids
from . import run
from .checkpoint import load_into
from .metrics import classification_report
from .rows import check_lengths, length_step

EVALUATION_TOKENS = 8192  # in a batch, padding included: bounds memory whatever the texts' lengths


@dataclass(frozen=True)
class LabelledRows:
    """Encoded texts and the numbers of their labels, row i from line i + 1."""

    rows: list[list[int]]
    numbers: np.ndarray[Any, Any]

    def __len__(self) -> int:
        return len(self.rows)

    def lengths(self) -> list[int]:
        """Tokens of each row."""
        return [len(row) for row in self.rows]

    def take(self, index: np.ndarray[Any, Any]) -> LabelledRows:
        """Some of the rows."""
        return LabelledRows([self.rows[i] for i in index], self.numbers[index])


class Classification:
    """A classifier with its tokenizer, vocabulary and labels.

    class_weights: (C,) factors of the classes in the training loss, or None.
    """

    task = "classify"

    def __init__(
        self,
        model: ConfiguredModel,
        field: TextField,
        labels: Sequence[str],
        class_weights: np.ndarray[Any, Any] | None = None,
        label_smoothing: float = 0.0,
    ) -> None:
        self.model, self.field, self.labels = model, field, list(labels)
        self.criterion = CrossEntropyLoss(weight=class_weights, label_smoothing=label_smoothing)

    @property
    def fields(self) -> dict[str, TextField]:
        return {"text": self.field}

    def config(self) -> dict[str, Any]:
        """What a run's configuration says of the task, beside model and fields."""
        return {"task": self.task, "labels": self.labels}

    def encode(
        self, texts: Sequence[str], labels: Sequence[str], path: str | Path | None = None
    ) -> LabelledRows:
        """Rows for training or scoring; DataError names `path` and the line of an unknown label or endless
        text."""
        rows = self.field.encode(texts)
        check_lengths(rows, self.field, path)
        return LabelledRows(rows, label_ids(labels, self.labels, path))

    def read(self, path: str | Path) -> LabelledRows:
        """The encoded rows of a file of label<TAB>text lines."""
        labels, texts = read_labelled(path)
        return self.encode(texts, labels, path)

    def batches(
        self, data: LabelledRows, batch_size: int | None, seed: int, batch_tokens: int | None = None
    ) -> Batches[TextBatch]:
        """Shuffled batches for training, of so many rows or at most so many tokens, padding included; on a
        GPU few lengths."""
        step = length_step(self.model)
        return text_batches(
            data.rows, data.numbers, batch_size, batch_tokens=batch_tokens, seed=seed, multiple_of=step
        )

    def loss(self, batch: TextBatch) -> Tensor:
        """The mean training loss of a batch."""
        result: Tensor = self.criterion(self.model(batch.ids, batch.mask), batch.labels)
        return result

    def count(self, batch: TextBatch) -> float:
        """How much a batch weighs in a mean loss: its rows, or the sum of their classes' weights."""
        weights = self.criterion.weight
        return batch.size if weights is None else float(np.asarray(weights, np.float64)[batch.labels].sum())

    def logits(self, rows: Sequence[Sequence[int]]) -> np.ndarray[Any, Any]:
        """(N, C) float64 on the host, in the order of the rows."""
        mine = my_rows(len(rows))
        if len(rows) and not len(mine):
            return all_rows(np.zeros((0, len(self.labels))), len(rows))
        return all_rows(self._logits([rows[i] for i in mine]), len(rows))

    def _logits(self, rows: Sequence[Sequence[int]]) -> np.ndarray[Any, Any]:
        found, index = [], []
        was_training, _ = self.model.training, self.model.eval()
        with no_grad():
            for batch in text_batches(rows, batch_tokens=EVALUATION_TOKENS, shuffle=False):
                found.append(self.model(batch.ids, batch.mask).data)
                index.append(batch.index)
        self.model.train(was_training)
        host = np.concatenate([to_host(part) for part in found]).astype(np.float64)
        return restore_order(host, np.concatenate(index))

    def evaluate(self, data: LabelledRows) -> dict[str, Any]:
        """accuracy, loss (mean cross-entropy, unweighted), macro_f1, per_class, confusion_matrix, labels,
        n."""
        logits = self.logits(data.rows)
        report = classification_report(logits.argmax(axis=1), data.numbers, self.labels)
        losses = -np.take_along_axis(_log_softmax(logits), data.numbers[:, None], axis=1)
        return {"accuracy": report.pop("accuracy"), "loss": float(losses.mean()), **report}

    def validate(self, data: LabelledRows) -> dict[str, float]:
        """The scores that are recorded each epoch."""
        report = self.evaluate(data)
        return {name: report[name] for name in ("loss", "accuracy", "macro_f1")}

    def predict(self, texts: Sequence[str]) -> list[tuple[str, float]]:
        """The likeliest label of each text and its probability."""
        if not texts:
            return []
        probabilities = np.exp(_log_softmax(self.logits(self.field.encode(texts))))
        best = probabilities.argmax(axis=1)
        return [(self.labels[i], float(row[i])) for i, row in zip(best, probabilities, strict=True)]

    def predict_lines(self, texts: Sequence[str]) -> list[str]:
        """One line a text: label<TAB>probability."""
        return [f"{label}\t{probability:.4f}" for label, probability in self.predict(texts)]

    @classmethod
    def load(cls, path: str | Path, config: dict[str, Any]) -> Classification:
        """The classifier of a run folder whose config.json is `config`, on the current device."""
        field = run.read_field(path, config, "text")
        labels = config.get("labels")
        if not isinstance(labels, list) or len(labels) < 2 or not all(isinstance(x, str) for x in labels):
            raise CheckpointError(f"{Path(path) / run.CONFIG}: has no list of labels; train again")
        model = load_model(
            path, config, CLASSIFIERS, vocabulary_size=len(field.vocabulary), num_classes=len(labels)
        )
        return cls(model, field, labels)


def load_model(
    path: str | Path, config: dict[str, Any], names: Sequence[str], **sizes: int
) -> ConfiguredModel:
    """The model of a run folder with its weights; `sizes` are what its configuration must agree with."""
    described = run.entry(path, config, "model")
    file = Path(path) / run.CONFIG
    name = described.get("name")
    if not isinstance(name, str) or name not in names:
        raise CheckpointError(
            f"{file}: has the model {name!r}, the task needs {' or '.join(names)}; train again"
        )
    try:
        given = run.entry(path, config, "model", "config")
        for size, value in sizes.items():
            if given.get(size) != value:
                raise CheckpointError(f"{size} is {given.get(size)!r}, but the run's files say {value}")
        model = build(name, given)
    except (CheckpointError, DataError) as error:
        raise CheckpointError(
            f"{file}: {error}; the file was changed: copy it again, or train again"
        ) from error
    load_into(model, Path(path) / run.MODEL)
    model.eval()
    return model


def _log_softmax(logits: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    shifted = logits - logits.max(axis=1, keepdims=True)
    result: np.ndarray[Any, Any] = shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))
    return result
