"""Matrix products: `linear` for layers, `matmul` for any two stacks of matrices."""

from __future__ import annotations

from typing import Any

from ..backend.arrays import Array, get_xp
from ..backend.gemm import matmul as product
from ..backend.gemm import rows
from ..backprop import Context, Op, Tensor
from .elementwise import unbroadcast


class Linear(Op):
    """y = x Wᵀ + b     x (..., I)   W (O, I)   b (O,) or None

    dx = dy W        dW = dyᵀ x, summed over rows        db = dy, summed over rows
    W is kept as its transpose (I, O): both products with it then run over contiguous memory.
    """

    @staticmethod
    def forward(ctx: Context, x: Array, weight: Array, bias: Array | None) -> Array:
        ctx.save(x, weight)
        y = product(rows(x), weight.T)
        if bias is not None:
            y += bias
        return y.reshape(*x.shape[:-1], y.shape[-1])

    @staticmethod
    def backward(ctx: Context, dy: Array) -> tuple[Array | None, ...]:
        x, weight = ctx.saved
        need_x, need_w, need_b = ctx.needs_grad
        dy_rows = rows(dy)
        return (
            product(dy_rows, weight).reshape(x.shape) if need_x else None,
            product(rows(x).T, dy_rows).T if need_w else None,
            column_sums(dy_rows) if need_b else None,
        )


def column_sums(x: Array) -> Array:
    """Σ over the rows of x (N, C) -> (C,), as a product with ones, which is faster than a sum."""
    return product(get_xp(x).ones((1, x.shape[0]), x.dtype), x)[0]


class MatMul(Op):
    """y = a b     a (..., M, K)   b (..., K, N)        da = dy bᵀ        db = aᵀ dy"""

    @staticmethod
    def forward(ctx: Context, a: Array, b: Array) -> Array:
        ctx.save(a, b)
        return product(a, b)

    @staticmethod
    def backward(ctx: Context, dy: Array) -> tuple[Array | None, ...]:
        a, b = ctx.saved
        need_a, need_b = ctx.needs_grad
        return (
            unbroadcast(product(dy, b.swapaxes(-1, -2)), a.shape) if need_a else None,
            unbroadcast(product(a.swapaxes(-1, -2), dy), b.shape) if need_b else None,
        )


def linear(x: Any, weight: Any, bias: Any = None) -> Tensor:
    """x Wᵀ + b.  x (..., in), weight (out, in), bias (out,) or None -> (..., out)."""
    return Linear.apply(x, weight, bias)


def matmul(a: Any, b: Any) -> Tensor:
    """a @ b with NumPy's rules for stacks: (..., M, K) @ (..., K, N) -> (..., M, N). Vectors become a row
    (left) or a column (right), and that axis is dropped from the result."""
    a = a if isinstance(a, Tensor) else Tensor(a)
    b = b if isinstance(b, Tensor) else Tensor(b)
    if a.ndim == 0 or b.ndim == 0:
        raise ValueError("matmul needs at least one axis on each side; use * for numbers")
    left, right = a.ndim == 1, b.ndim == 1
    y = MatMul.apply(a.reshape(1, -1) if left else a, b.reshape(-1, 1) if right else b)
    shape = y.shape
    if right:
        shape = shape[:-1]
    if left:
        shape = shape[:-2] + shape[-1:] if not right else shape[:-1]
    return y if shape == y.shape else y.reshape(shape)
