"""Linear: an affine map of the last axis."""

from __future__ import annotations

from typing import Any

from .. import ops
from ..tensors import Tensor
from . import init
from .checks import positive, require_last_axis
from .module import Module


class Linear(Module):
    """y = x Wᵀ + b, with activation "relu" max(·, 0) of it.   x (..., in_features) -> (..., out_features)

    weight (out_features, in_features), bias (out_features,), both uniform in ±1/√in_features.
    """

    def __init__(
        self, in_features: int, out_features: int, bias: bool = True, activation: str | None = None
    ) -> None:
        self.in_features = positive("Linear", "in_features", in_features)
        self.out_features = positive("Linear", "out_features", out_features)
        self.weight = init.fan_in_uniform((out_features, in_features), order=(1, 0))
        self.bias = init.fan_in_uniform((out_features,), fan_in=in_features) if bias else None
        if activation not in (None, "relu"):
            raise ValueError(f'Linear: activation is None or "relu", not {activation!r}')
        self.activation = activation

    def forward(self, x: Any) -> Tensor:
        require_last_axis("Linear", x, self.in_features)
        return ops.linear(x, self.weight, self.bias, activation=self.activation)

    def extra_repr(self) -> str:
        parts = [f"{self.in_features}, {self.out_features}"]
        parts += [] if self.bias is not None else ["bias=False"]
        parts += [f"activation={self.activation!r}"] if self.activation else []
        return ", ".join(parts)
