"""Dropout, active in training only."""

from __future__ import annotations

from typing import Any

from .. import ops
from ..backend.random import new_stream
from ..backend.recording import recording
from ..tensors import Tensor
from .checks import probability
from .module import Module


class Dropout(Module):
    """Zero each element with probability p in training and scale the rest by 1 / (1 - p)
    (Srivastava et al. 2014). Each layer has its own random stream, numbered as layers are made.

    x (...) -> the same shape. mask (B, L), True = real token, or its `ops.Packing`: x is the packed rows
    (N, E) of its real tokens, and drops what the padded batch would.
    """

    options_of_graphs = ("training", "p")

    def __init__(self, p: float = 0.5) -> None:
        self.p = probability("Dropout", p)
        self.stream = new_stream()

    def forward(self, x: Any, mask: Any = None) -> Tensor:
        if not self.training or self.p == 0.0:
            return x if isinstance(x, Tensor) else Tensor(x)
        return ops.dropout(x, self.p, stream=self.stream, mask=mask)

    def active(self) -> float:
        """The probability that is in force: p in training, else 0."""
        if recording() is not None:
            self.note_mode()
        return self.p if self.training else 0.0

    def extra_repr(self) -> str:
        return f"p={self.p:g}"
