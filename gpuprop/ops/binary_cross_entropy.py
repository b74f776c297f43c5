"""Binary cross-entropy of logits, without overflow."""

from __future__ import annotations

from typing import Any

from ..backend.arrays import Array, get_xp
from ..backend.half import wide
from ..backprop import Context
from ..op import Op
from ..tensors import Tensor
from .exponential import exponential, logistic


class BinaryCrossEntropy(Op):
    """loss = w ((1 - y) z + q ln(1 + e^-z)),  q = 1 + (p - 1) y     z logit, y target, w weight, p pos_weight

    dz = w ((1 - y) - q (1 - σ(z)))        ln(1 + e^-z) = max(-z, 0) + ln(1 + e^-|z|)
    """

    @staticmethod
    def forward(ctx: Context, z: Array, *, y: Array, weight: Array | None, pos_weight: Array | None) -> Array:
        xp = get_xp(z)
        dtype, z = z.dtype, wide(z)  # a loss of half types is float32
        y = y.astype(z.dtype, copy=False)
        q = 1.0 if pos_weight is None else 1.0 + (pos_weight.astype(z.dtype, copy=False) - 1.0) * y
        w = 1.0 if weight is None else weight.astype(z.dtype, copy=False)
        ctx.save(z, y, q, w, dtype)
        loss = xp.empty_like(z)
        xp.absolute(z, out=loss)
        exponential(loss, loss, -1.0)
        xp.log1p(loss, out=loss)
        if pos_weight is None:  # max(-z, 0) + z = max(z, 0)
            loss += xp.maximum(z, 0)
            loss -= y * z
        else:
            loss += xp.maximum(-z, 0)
            loss *= q
            loss += (1.0 - y) * z
        return loss if weight is None else w * loss

    @staticmethod
    def backward(ctx: Context, dy: Array) -> Array:
        z, y, q, w, dtype = ctx.saved
        dz = logistic(z)
        if isinstance(q, float):
            dz -= y
        else:
            dz = (1.0 - y) - q * (1.0 - dz)
        return (dy * (dz if isinstance(w, float) else w * dz)).astype(dtype, copy=False)


def binary_cross_entropy(logits: Any, targets: Any, weight: Any = None, pos_weight: Any = None) -> Tensor:
    """Loss of each element: logits (...), targets (...) in 0..1 -> (...), float32 for half types."""
    return BinaryCrossEntropy.apply(logits, y=targets, weight=weight, pos_weight=pos_weight)
