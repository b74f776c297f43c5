"""Matrix products: `linear` for layers, `matmul` for any two stacks of matrices."""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np

from ..backend.arrays import Array, get_xp, is_cupy
from ..backend.gemm import affine, rows, with_sums
from ..backend.gemm import matmul as product
from ..backend.half import total
from ..backend.threads import host_size, over_rows
from ..backprop import Context
from ..errors import ShapeError
from ..op import Op
from ..tensors import Tensor
from . import activation_kernels
from .blockwise import BLOCK, maximum_with_zero
from .cast import as_weight
from .elementwise import through_relu, unbroadcast


class Linear(Op):
    """y = f(x Wᵀ + b)     x (..., I)   W (O, I)   b (O,) or None   f the identity or max(·, 0)

    With dz = dy, or dy where y > 0:
    dx = dz W        dW = dzᵀ x, summed over rows        db = dz, summed over rows
    W is kept as its transpose (I, O): both products with it then run over contiguous memory.
    """

    @staticmethod
    def forward(ctx: Context, x: Array, weight: Array, bias: Array | None, *, relu: bool = False) -> Array:
        y = affine_rows(rows(x), weight, bias, relu)
        ctx.save(x, weight, y if relu else None)
        return y.reshape(*x.shape[:-1], y.shape[-1])

    @staticmethod
    def backward(ctx: Context, dy: Array) -> tuple[Array | None, ...]:
        x, weight, y = ctx.saved
        dz = rows(dy)
        if y is not None:
            dz = through_relu(dz, y)
        dx = product(dz, weight).reshape(x.shape) if ctx.needs_grad[0] else None
        return (dx, *weight_and_bias_gradients(ctx, rows(x), dz))


def affine_rows(x: Array, weight: Array, bias: Array | None, relu: bool = False) -> Array:
    """f(x Wᵀ + b), f the identity or max(·, 0), for x (N, I), W (O, I) and b (O,) or None -> (N, O)."""
    if x.shape[1] != weight.shape[1] or (bias is not None and bias.shape != weight.shape[:1]):
        raise misfit("linear", x.shape[1], weight, bias)
    done = affine(x, weight.T, bias, "relu" if relu else None)
    y = product(x, weight.T) if done is None else done
    if done is None and (bias is not None or relu):
        if activation_kernels.usable(y, bias):
            activation_kernels.forward("relu" if relu else "identity", y, bias, out=y)
        else:
            over_rows(partial(_finish, get_xp(y), y, bias, relu), y.shape[0], host_size(y))
    return y


def _finish(xp: Any, y: Array, bias: Array | None, relu: bool, start: int, stop: int) -> None:
    """Bias and ReLU of rows start..stop, a block that stays in cache at a time."""
    step = max(1, BLOCK // max(1, y.shape[1]) if xp is np else stop)
    for i in range(start, stop, step):
        block = y[i : min(i + step, stop)]
        if bias is not None:
            block += bias
        if relu:
            maximum_with_zero(block, block)


def misfit(name: str, inputs: int, weight: Any, bias: Any) -> ShapeError:
    """What a layer says of a weight and a bias that do not fit what comes in, or each other."""
    got = [f"(..., {inputs})", *(str(tuple(p.shape)) for p in (weight, bias) if p is not None)]
    takes = "x (..., I), weight (O, I)" + ("" if bias is None else ", bias (O,)")
    return ShapeError(f"{name} expects {takes} but got {', '.join(got)}")


def weight_gradient(ctx: Context, i: int, x: Array, dy: Array) -> Array:
    """dyᵀ x (O, I) for x (N, I), dy (N, O), into the memory of input i's gradient where there is some."""
    into = ctx.destination(i)
    if into is None:
        return product(x.T, dy).T
    product(x.T, dy, out=into.T)
    return into


def weight_and_bias_gradients(
    ctx: Context, x: Array, dy: Array, weight: int = 1, bias: int = 2
) -> tuple[Array | None, Array | None]:
    """dyᵀ x (O, I) and the sums of dy (O,) for x (N, I), dy (N, O), of the inputs with these numbers, None of
    one that is not wanted: on a GPU both in one product where cuBLAS can."""
    need_w, need_b = ctx.needs_grad[weight], ctx.needs_grad[bias]
    if not (need_w and need_b and is_cupy(dy)):
        return (
            weight_gradient(ctx, weight, x, dy) if need_w else None,
            column_sums(dy, ctx.destination(bias)) if need_b else None,
        )
    xp, dw, db = get_xp(dy), ctx.destination(weight), ctx.destination(bias)
    dw = xp.empty((x.shape[1], dy.shape[1]), dy.dtype).T if dw is None else dw
    db = xp.empty(dy.shape[1], dw.dtype) if db is None else db
    if with_sums(x.T, dy, dw.T, db):
        return dw, db
    product(x.T, dy, out=dw.T)
    return dw, column_sums(dy, db)


def column_sums(x: Array, out: Array | None = None) -> Array:
    """Σ over the rows of x (N, C) -> (C,), on a CPU as a product with ones, which is faster than a sum."""
    if activation_kernels.usable(x):
        return activation_kernels.column_sums(x, out)
    if is_cupy(x):
        if out is None:
            return total(x, 0)
        return x.sum(axis=0, dtype=out.dtype, out=out)
    ones = get_xp(x).ones((1, x.shape[0]), x.dtype)
    if out is None:
        return product(ones, x)[0]
    product(ones, x, out=out[None])
    return out


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


def linear(x: Any, weight: Any, bias: Any = None, *, activation: str | None = None) -> Tensor:
    """x Wᵀ + b, and with activation "relu" max(·, 0) of it.

    x (..., in), weight (out, in), bias (out,) or None -> (..., out). Raises ShapeError for other sizes.
    """
    if activation not in (None, "relu"):
        raise ValueError(f'linear: activation is None or "relu", not {activation!r}')
    return Linear.apply(as_weight(x, weight), weight, bias, relu=activation is not None)


def matmul(a: Any, b: Any) -> Tensor:
    """a @ b with NumPy's rules for stacks: (..., M, K) @ (..., K, N) -> (..., M, N). Vectors become a row
    (left) or a column (right), and that axis is dropped from the result. Raises ShapeError where the sizes K
    differ."""
    a = a if isinstance(a, Tensor) else Tensor(a)
    b = b if isinstance(b, Tensor) else Tensor(b)
    if a.ndim == 0 or b.ndim == 0:
        raise ValueError("matmul needs at least one axis on each side; use * for numbers")
    left, right = a.ndim == 1, b.ndim == 1
    if a.data.shape[-1] != b.data.shape[-1 if right else -2]:
        raise ShapeError(
            f"matmul expects (..., M, K) and (..., K, N) but got {a.shape} and {b.shape}: "
            f"{a.shape[-1]} columns on the left, {b.shape[-1 if right else -2]} rows on the right"
        )
    y = MatMul.apply(a.reshape(1, -1) if left else a, b.reshape(-1, 1) if right else b)
    shape = y.shape
    if right:
        shape = shape[:-1]
    if left:
        shape = shape[:-2] + shape[-1:] if not right else shape[:-1]
    return y if shape == y.shape else y.reshape(shape)
