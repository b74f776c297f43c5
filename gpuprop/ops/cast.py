"""Values in another floating-point type."""

from __future__ import annotations

from typing import Any

from ..backend.arrays import Array
from ..backprop import Context
from ..op import Op
from ..tensors import Tensor


class Cast(Op):
    """y = x, rounded to another type        dx = dy, rounded to the type of x"""

    @staticmethod
    def forward(ctx: Context, x: Array, *, dtype: Any) -> Array:
        ctx.save(x.dtype)
        return x.astype(dtype)

    @staticmethod
    def backward(ctx: Context, dy: Array) -> Array:
        (dtype,) = ctx.saved
        return dy.astype(dtype, copy=False)


def cast(x: Any, dtype: Any) -> Tensor:
    """x (...) in a floating-point type such as "float32"; the gradient comes back in the type of x."""
    x = x if isinstance(x, Tensor) else Tensor(x)
    return x if x.dtype == dtype else Cast.apply(x, dtype=dtype)


def as_weight(x: Any, weight: Any) -> Any:
    """x in the type of the weight it meets: features that NumPy made in float64, or integers, are computed in
    float32 with a float32 model, and in half with the half weights of mixed precision."""
    return x if x.dtype == weight.dtype else cast(x, weight.dtype)
