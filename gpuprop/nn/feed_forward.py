"""Linear layers with an activation between them."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

from .. import ops
from ..ops.feed_forward import ACTIVATIONS
from ..tensors import Tensor
from .checks import require_last_axis
from .dropout import Dropout
from .linear import Linear
from .module import Module


class FeedForward(Module):
    """y = W_n h_{n-1} + b_n,   h_i = dropout(f(W_i h_{i-1} + b_i)),   h_0 = x

    x (..., sizes[0]) -> (..., sizes[-1]); sizes: at least three, of x, of each hidden layer, of y.
    activation: f, "relu" or "gelu" (the tanh form). Weights and biases are those of `Linear`, layers.0,
    layers.1, ... On a GPU the activations and their gradients are part of the products.
    """

    def __init__(self, sizes: Sequence[int], activation: str = "relu", dropout: float = 0.0) -> None:
        if len(sizes) < 3:
            raise ValueError(
                f"FeedForward takes the sizes of x, of at least one hidden layer and of y, not {list(sizes)}"
            )
        if activation not in ACTIVATIONS:
            raise ValueError(
                f"FeedForward: activation is one of {', '.join(ACTIVATIONS)}, not {activation!r}"
            )
        self.activation = activation
        self.layers = [Linear(before, after) for before, after in pairwise(sizes)]
        self.dropout = Dropout(dropout)

    def forward(self, x: Any, mask: Any = None) -> Tensor:
        """mask: as `Dropout` has it, of packed rows."""
        return feed_forward(x, self.layers, self.activation, self.dropout, mask)

    def extra_repr(self) -> str:
        return f"activation={self.activation!r}"


def feed_forward(
    x: Any, layers: Sequence[Linear], activation: str, dropout: Dropout, mask: Any = None
) -> Tensor:
    """The layers one after another, with activation and dropout between; see `ops.feed_forward`."""
    require_last_axis("Linear", x, layers[0].in_features)
    parameters = [p for layer in layers for p in (layer.weight, layer.bias)]
    return ops.feed_forward(
        x, *parameters, activation=activation, dropout=dropout.active(), stream=dropout.stream, mask=mask
    )
