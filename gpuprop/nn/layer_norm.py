"""Layer normalisation."""

from __future__ import annotations

from typing import Any

from ..ops.layer_norm import layer_norm
from ..ops.residual_layer_norm import residual_layer_norm
from ..tensors import Tensor
from . import init
from .checks import positive, require_last_axis
from .dropout import Dropout
from .module import Module


class LayerNorm(Module):
    """Normalise the last axis to mean 0 and variance 1, then scale and shift (Ba et al. 2016).

    x (..., normalized_shape) -> the same shape. weight (normalized_shape,) starts as 1, bias as 0.
    """

    def __init__(self, normalized_shape: int, eps: float = 1e-5) -> None:
        self.normalized_shape = positive("LayerNorm", "normalized_shape", normalized_shape)
        if not eps > 0:
            raise ValueError(f"LayerNorm: eps must be above 0, not {eps!r}")
        self.eps = float(eps)
        self.weight = init.constant((normalized_shape,), 1.0)
        self.bias = init.constant((normalized_shape,))

    def forward(self, x: Any) -> Tensor:
        require_last_axis("LayerNorm", x, self.normalized_shape)
        return layer_norm(x, self.weight, self.bias, self.eps)

    def of_sum(
        self, x: Any, residual: Any, dropout: Dropout | None = None, mask: Any = None
    ) -> tuple[Tensor, Tensor]:
        """The norm of s = x + dropout(residual, mask), and s: in one launch on a GPU.

        x and residual (..., normalized_shape) -> both of that shape; see `ops.residual_layer_norm`.
        """
        require_last_axis("LayerNorm", x, self.normalized_shape)
        p, stream = (0.0, 0) if dropout is None else (dropout.active(), dropout.stream)
        return residual_layer_norm(
            x, residual, self.weight, self.bias, self.eps, dropout=p, stream=stream, mask=mask
        )

    def extra_repr(self) -> str:
        return f"{self.normalized_shape}, eps={self.eps:g}"
