"""Optimizers, learning-rate schedules and gradient clipping."""

from .adam import Adam, AdamW
from .adaptive import Adagrad, RMSprop
from .clip import clip_grad_norm_, clip_grad_value_
from .optimizer import Optimizer
from .schedules import (
    ConstantLR,
    CosineLR,
    InverseSquareRootLR,
    LinearWarmupLR,
    ReduceLROnPlateau,
    Schedule,
    StepLR,
)
from .sgd import SGD
from .sparse import SparseAdam

__all__ = [
    "SGD",
    "Adagrad",
    "Adam",
    "AdamW",
    "ConstantLR",
    "CosineLR",
    "InverseSquareRootLR",
    "LinearWarmupLR",
    "Optimizer",
    "RMSprop",
    "ReduceLROnPlateau",
    "Schedule",
    "SparseAdam",
    "StepLR",
    "clip_grad_norm_",
    "clip_grad_value_",
]
