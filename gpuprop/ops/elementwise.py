"""Element by element: arithmetic with broadcasting, and the functions of one variable."""

from __future__ import annotations

import math
import operator
from typing import Any

from ..backend.arrays import Array, get_xp
from ..backend.half import kept, total
from ..backprop import Context
from ..op import Op
from ..tensors import Tensor
from .blockwise import blockwise
from .operands import is_array


def unbroadcast(grad: Array, shape: tuple[int, ...]) -> Array:
    """Sum `grad` over the axes along which an input of `shape` was repeated (broadcasting, transposed)."""
    if grad.shape == shape:
        return grad
    grad = total(grad, tuple(range(grad.ndim - len(shape))))
    repeated = tuple(i for i, n in enumerate(shape) if n == 1 and grad.shape[i] != 1)
    return total(grad, repeated, keepdims=True) if repeated else grad


def _shape(x: Any) -> tuple[int, ...]:
    return tuple(x.shape) if is_array(x) else ()


class Add(Op):
    """y = a + b        da = dy        db = dy"""

    @staticmethod
    def forward(ctx: Context, a: Array, b: Array) -> Array:
        ctx.save(_shape(a), _shape(b))
        return blockwise(operator.add, a, b)

    @staticmethod
    def backward(ctx: Context, dy: Array) -> tuple[Array | None, ...]:
        a, b = ctx.saved
        need_a, need_b = ctx.needs_grad
        return (unbroadcast(dy, a) if need_a else None, unbroadcast(dy, b) if need_b else None)


class Subtract(Op):
    """y = a - b        da = dy        db = -dy"""

    @staticmethod
    def forward(ctx: Context, a: Array, b: Array) -> Array:
        ctx.save(_shape(a), _shape(b))
        return kept(a - b, a, b)

    @staticmethod
    def backward(ctx: Context, dy: Array) -> tuple[Array | None, ...]:
        a, b = ctx.saved
        need_a, need_b = ctx.needs_grad
        return (unbroadcast(dy, a) if need_a else None, -unbroadcast(dy, b) if need_b else None)


class Multiply(Op):
    """y = a b        da = b dy        db = a dy"""

    @staticmethod
    def forward(ctx: Context, a: Array, b: Array) -> Array:
        ctx.save(a, b)
        return blockwise(operator.mul, a, b)

    @staticmethod
    def backward(ctx: Context, dy: Array) -> tuple[Array | None, ...]:
        a, b = ctx.saved
        need_a, need_b = ctx.needs_grad
        return (
            unbroadcast(blockwise(operator.mul, dy, b), _shape(a)) if need_a else None,
            unbroadcast(blockwise(operator.mul, dy, a), _shape(b)) if need_b else None,
        )


class Divide(Op):
    """y = a / b        da = dy / b        db = -dy a / b²"""

    @staticmethod
    def forward(ctx: Context, a: Array, b: Array) -> Array:
        y = kept(a / b, a, b)
        ctx.save(_shape(a), b, y)
        return y

    @staticmethod
    def backward(ctx: Context, dy: Array) -> tuple[Array | None, ...]:
        a_shape, b, y = ctx.saved
        need_a, need_b = ctx.needs_grad
        da = dy / b
        return (
            unbroadcast(da, a_shape) if need_a else None,
            unbroadcast(-da * y, _shape(b)) if need_b else None,
        )


class Power(Op):
    """y = x^n for a constant n        dx = n x^(n-1) dy"""

    @staticmethod
    def forward(ctx: Context, x: Array, *, exponent: float) -> Array:
        ctx.save(x, exponent)
        return x * x if exponent == 2 else kept(x**exponent, x)

    @staticmethod
    def backward(ctx: Context, dy: Array) -> Array:
        x, n = ctx.saved
        return kept(dy * (2.0 * x) if n == 2 else dy * (n * x ** (n - 1)), dy, x)


class Exp(Op):
    """y = e^x        dx = y dy"""

    @staticmethod
    def forward(ctx: Context, x: Array) -> Array:
        y = blockwise(get_xp(x).exp, x)
        ctx.save(y)
        return y

    @staticmethod
    def backward(ctx: Context, dy: Array) -> Array:
        (y,) = ctx.saved
        return blockwise(operator.mul, dy, y)


class Log(Op):
    """y = ln x        dx = dy / x"""

    @staticmethod
    def forward(ctx: Context, x: Array) -> Array:
        ctx.save(x)
        return get_xp(x).log(x)

    @staticmethod
    def backward(ctx: Context, dy: Array) -> Array:
        (x,) = ctx.saved
        return dy / x


class Sqrt(Op):
    """y = √x        dx = dy / 2y"""

    @staticmethod
    def forward(ctx: Context, x: Array) -> Array:
        y = get_xp(x).sqrt(x)
        ctx.save(y)
        return y

    @staticmethod
    def backward(ctx: Context, dy: Array) -> Array:
        (y,) = ctx.saved
        return dy * 0.5 / y


class Abs(Op):
    """y = |x|        dx = sign(x) dy"""

    @staticmethod
    def forward(ctx: Context, x: Array) -> Array:
        ctx.save(x)
        return abs(x)

    @staticmethod
    def backward(ctx: Context, dy: Array) -> Array:
        (x,) = ctx.saved
        return dy * get_xp(x).sign(x)


class Tanh(Op):
    """y = tanh x        dx = (1 - y²) dy"""

    @staticmethod
    def forward(ctx: Context, x: Array) -> Array:
        y = blockwise(get_xp(x).tanh, x)
        ctx.save(y)
        return y

    @staticmethod
    def backward(ctx: Context, dy: Array) -> Array:
        (y,) = ctx.saved
        return blockwise(lambda d, y: d * (1.0 - y * y), dy, y)


def sigmoid_of(x: Array) -> Array:
    """1 / (1 + e^-x) on plain arrays, through tanh: exact for large |x| and without overflow."""
    return get_xp(x).tanh(x * 0.5) * 0.5 + 0.5


class Sigmoid(Op):
    """y = 1 / (1 + e^-x)        dx = y (1 - y) dy"""

    @staticmethod
    def forward(ctx: Context, x: Array) -> Array:
        y = blockwise(sigmoid_of, x)
        ctx.save(y)
        return y

    @staticmethod
    def backward(ctx: Context, dy: Array) -> Array:
        (y,) = ctx.saved
        return blockwise(lambda d, y: d * (y * (1.0 - y)), dy, y)


class ReLU(Op):
    """y = max(x, 0)        dx = dy where x > 0"""

    @staticmethod
    def forward(ctx: Context, x: Array) -> Array:
        y = blockwise(lambda x: get_xp(x).maximum(x, 0), x)
        ctx.save(y)
        return y

    @staticmethod
    def backward(ctx: Context, dy: Array) -> Array:
        (y,) = ctx.saved
        return blockwise(lambda d, y: d * (y > 0), dy, y)


class GELU(Op):
    """y = x Φ(x), Φ(x) ≈ (1 + tanh(√(2/π) (x + 0.044715 x³))) / 2   (Hendrycks and Gimpel 2016)"""

    SLOPE = math.sqrt(2 / math.pi)
    CUBIC = 0.044715

    @staticmethod
    def tanh(x: Array) -> Array:
        return get_xp(x).tanh(GELU.SLOPE * (x + GELU.CUBIC * (x * x * x)))

    @staticmethod
    def forward(ctx: Context, x: Array) -> Array:
        t = blockwise(GELU.tanh, x)
        ctx.save(x, t)
        return blockwise(lambda x, t: 0.5 * x * (1.0 + t), x, t)

    @staticmethod
    def backward(ctx: Context, dy: Array) -> Array:
        def gradient(d: Array, x: Array, t: Array) -> Array:
            slope = GELU.SLOPE * (1.0 + 3.0 * GELU.CUBIC * (x * x))
            return d * (0.5 * (1.0 + t) + 0.5 * x * (1.0 - t * t) * slope)

        return blockwise(gradient, dy, *ctx.saved)


def add(a: Any, b: Any) -> Tensor:
    """a + b with broadcasting."""
    return Add.apply(a, b)


def subtract(a: Any, b: Any) -> Tensor:
    """a - b with broadcasting."""
    return Subtract.apply(a, b)


def multiply(a: Any, b: Any) -> Tensor:
    """a · b element by element, with broadcasting."""
    return Multiply.apply(a, b)


def divide(a: Any, b: Any) -> Tensor:
    """a / b element by element, with broadcasting."""
    return Divide.apply(a, b)


def power(x: Any, exponent: float) -> Tensor:
    """x to a constant power."""
    if isinstance(exponent, Tensor) or is_array(exponent):
        raise TypeError("the exponent is a number; write (b * a.log()).exp() for a tensor")
    return Power.apply(x, exponent=float(exponent))


def exp(x: Any) -> Tensor:
    """e to the x."""
    return Exp.apply(x)


def log(x: Any) -> Tensor:
    """Natural logarithm."""
    return Log.apply(x)


def sqrt(x: Any) -> Tensor:
    """Square root."""
    return Sqrt.apply(x)


def absolute(x: Any) -> Tensor:
    """|x|; the gradient at 0 is 0."""
    return Abs.apply(x)


def tanh(x: Any) -> Tensor:
    """Hyperbolic tangent."""
    return Tanh.apply(x)


def sigmoid(x: Any) -> Tensor:
    """Logistic function 1 / (1 + e^-x)."""
    return Sigmoid.apply(x)


def relu(x: Any) -> Tensor:
    """max(x, 0); the gradient at 0 is 0."""
    return ReLU.apply(x)


def gelu(x: Any) -> Tensor:
    """Gaussian error linear unit in its tanh form (Hendrycks and Gimpel 2016)."""
    return GELU.apply(x)
