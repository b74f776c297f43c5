"""Activations as layers, for Sequential."""

from __future__ import annotations

from typing import Any

from .. import ops
from ..ops.gelu import APPROXIMATE
from ..tensors import Tensor
from .module import Module


class ReLU(Module):
    """max(x, 0)"""

    def forward(self, x: Any) -> Tensor:
        return ops.relu(x)


class GELU(Module):
    """Gaussian error linear unit (Hendrycks and Gimpel 2016). approximate: "tanh", or "none" for the exact
    form, which is PyTorch's default"""

    def __init__(self, approximate: str = "tanh") -> None:
        if approximate not in APPROXIMATE:
            raise ValueError(f"GELU: approximate is one of {', '.join(APPROXIMATE)}, not {approximate!r}")
        self.approximate = approximate

    def forward(self, x: Any) -> Tensor:
        return ops.gelu(x, self.approximate)

    def extra_repr(self) -> str:
        return f"approximate={self.approximate!r}"


class GLU(Module):
    """Gated linear unit, (..., 2C) -> (..., C): the left half times the logistic function of the right half
    (Dauphin et al. 2017)"""

    def forward(self, x: Any) -> Tensor:
        return ops.glu(x)


class Tanh(Module):
    """Hyperbolic tangent"""

    def forward(self, x: Any) -> Tensor:
        return ops.tanh(x)


class Sigmoid(Module):
    """1 / (1 + e^-x)"""

    def forward(self, x: Any) -> Tensor:
        return ops.sigmoid(x)


class Softmax(Module):
    """Softmax over one axis, the last by default"""

    def __init__(self, axis: int = -1) -> None:
        self.axis = axis

    def forward(self, x: Any) -> Tensor:
        return ops.softmax(x, axis=self.axis)


class LogSoftmax(Module):
    """Logarithm of the softmax over one axis, the last by default"""

    def __init__(self, axis: int = -1) -> None:
        self.axis = axis

    def forward(self, x: Any) -> Tensor:
        return ops.log_softmax(x, axis=self.axis)
