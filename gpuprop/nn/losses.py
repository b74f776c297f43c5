"""Losses: from what a model says and what was right to one number."""

from __future__ import annotations

from typing import Any

import numpy as np

from .. import ops
from ..backend.half import is_half
from ..errors import ShapeError
from ..ops.operands import beside
from ..tensors import Tensor, tensor
from .linear import Linear
from .module import Module

REDUCTIONS = ("mean", "sum", "none")


def _reduction(name: str) -> str:
    if name not in REDUCTIONS:
        raise ValueError(f"reduction is one of {', '.join(REDUCTIONS)}, not {name!r}")
    return name


class CrossEntropyLoss(Module):
    """Softmax and negative log-likelihood in one.   logits (..., C), targets (...) integers -> a number

    weight: (C,) one a class; with "mean" the sum is divided by the weights of the kept targets, as in
    PyTorch. Targets equal to ignore_index count nothing; all ignored gives 0. label_smoothing ε mixes the
    target with the uniform distribution (Szegedy et al. 2016, section 7). reduction "none" keeps (...).
    Targets out of range raise DataError with the value and the row (on a GPU when the loss is read).
    z_loss and soft_cap: see `ops.softmax_cross_entropy`.
    """

    def __init__(
        self,
        weight: Any = None,
        ignore_index: int = -100,
        reduction: str = "mean",
        label_smoothing: float = 0.0,
        z_loss: float = 0.0,
        soft_cap: float | None = None,
    ) -> None:
        if not 0.0 <= label_smoothing <= 1.0:
            raise ValueError(f"label_smoothing is between 0 and 1, not {label_smoothing!r}")
        self.weight = weight
        self.ignore_index = ignore_index
        self.reduction = _reduction(reduction)
        self.label_smoothing = label_smoothing
        self.z_loss, self.soft_cap = z_loss, soft_cap

    def forward(self, logits: Any, targets: Any) -> Tensor:
        return ops.softmax_cross_entropy(
            logits,
            targets,
            weight=self.weight,
            ignore_index=self.ignore_index,
            label_smoothing=self.label_smoothing,
            reduction=self.reduction,
            z_loss=self.z_loss,
            soft_cap=self.soft_cap,
        )


class SequenceCrossEntropyLoss(CrossEntropyLoss):
    """Cross-entropy of each position's next token, averaged over real tokens.

    logits (B, T, C), targets (B, T), mask (B, T) bool (True = a real token; optional when padding already
    is ignore_index) -> a number
    """

    def forward(self, logits: Any, targets: Any, mask: Any = None) -> Tensor:
        targets = beside(targets, logits)
        if tuple(logits.shape[:-1]) != tuple(targets.shape):
            raise ShapeError(
                f"SequenceCrossEntropyLoss expects logits (batch, length, classes) and targets "
                f"(batch, length) but got {tuple(logits.shape)} and {tuple(targets.shape)}"
            )
        if mask is not None:
            keep = beside(mask, logits)
            targets = targets * keep + self.ignore_index * ~keep
        return super().forward(logits, targets)


class LinearCrossEntropyLoss(Module):
    """The last linear layer of a model and the cross-entropy of its logits, some rows at a time: for large
    vocabularies, whose logits would fill the memory. See `ops.linear_cross_entropy` for when it pays.

    x (..., in_features), targets (...) integers -> a number. linear: the layer, `nn.Linear`; in its place may
    stand that of a model, or with `linear.weight` the table of an embedding. chunk_rows: of logits at a time,
    4 in_features by default. The other options: see `CrossEntropyLoss`; reduction is "mean" or "sum".
    """

    def __init__(
        self,
        in_features: int,
        num_classes: int,
        *,
        bias: bool = False,
        weight: Any = None,
        ignore_index: int = -100,
        reduction: str = "mean",
        label_smoothing: float = 0.0,
        z_loss: float = 0.0,
        soft_cap: float | None = None,
        chunk_rows: int | None = None,
    ) -> None:
        self.linear = Linear(in_features, num_classes, bias)
        self.options: dict[str, Any] = {
            "weight": weight, "ignore_index": ignore_index, "reduction": reduction, "soft_cap": soft_cap,
            "label_smoothing": label_smoothing, "z_loss": z_loss, "chunk_rows": chunk_rows,
        }  # fmt: skip

    def forward(self, x: Any, targets: Any) -> Tensor:
        linear = self.linear
        return ops.linear_cross_entropy(x, linear.weight, targets, linear_bias=linear.bias, **self.options)


class BCEWithLogitsLoss(Module):
    """Sigmoid and binary cross-entropy in one.   logits (...), targets (...) in 0..1 -> a number

    loss = (1 - y) z + (1 + (p - 1) y) ln(1 + e^-z) for logit z, target y and pos_weight p; `weight` scales
    each element.
    """

    def __init__(self, weight: Any = None, pos_weight: Any = None, reduction: str = "mean") -> None:
        self.weight = weight
        self.pos_weight = pos_weight
        self.reduction = _reduction(reduction)

    def forward(self, logits: Any, targets: Any) -> Tensor:
        logits = logits if isinstance(logits, Tensor) else tensor(logits)
        same_shape("BCEWithLogitsLoss", logits, targets)
        weights = [None if w is None else beside(w, logits) for w in (self.weight, self.pos_weight)]
        loss = ops.binary_cross_entropy(logits, beside(targets, logits), weights[0], weights[1])
        return reduce(loss, self.reduction)


class MSELoss(Module):
    """(x - y)², averaged over all elements.   x and y of one shape -> a number"""

    def __init__(self, reduction: str = "mean") -> None:
        self.reduction = _reduction(reduction)

    def forward(self, x: Any, y: Any) -> Tensor:
        x = x if isinstance(x, Tensor) else tensor(x)
        same_shape("MSELoss", x, y)
        if is_half(x.dtype):
            x = ops.cast(x, np.dtype(np.float32))
        difference = x - (y if isinstance(y, Tensor) else beside(y, x))
        return reduce(difference * difference, self.reduction)


def same_shape(layer: str, x: Any, y: Any) -> None:
    """Raise ShapeError unless both have one shape: broadcasting hides mistakes in a loss."""
    if tuple(x.shape) != tuple(np.shape(y)):
        raise ShapeError(
            f"{layer} expects two arrays of one shape but got {tuple(x.shape)} and {tuple(np.shape(y))}"
        )


def reduce(loss: Tensor, reduction: str) -> Tensor:
    """The mean, the sum, or the losses as they are."""
    return loss if reduction == "none" else loss.sum() if reduction == "sum" else loss.mean()
