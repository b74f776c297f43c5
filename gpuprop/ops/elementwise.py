"""Element by element: arithmetic with broadcasting, and the functions of one variable."""

from __future__ import annotations

from typing import Any

import numpy as np

from ..backend.arrays import Array, get_xp
from ..backend.buffers import empty
from ..backend.gemm import rows
from ..backend.half import kept, total
from ..backprop import Context
from ..op import Op
from ..tensors import Tensor
from . import activation_kernels
from .blockwise import alike, blockwise, maximum_with_zero
from .exponential import logistic
from .operands import is_array

SMALL = 1 << 11  # elements up to which memory that is used again does not pay


def unbroadcast(grad: Array, shape: tuple[int, ...]) -> Array:
    """Sum `grad` over the axes along which an input of `shape` was repeated (broadcasting, transposed)."""
    if grad.shape == shape:
        return grad
    grad = total(grad, tuple(range(grad.ndim - len(shape))))
    repeated = tuple(i for i, n in enumerate(shape) if n == 1 and grad.shape[i] != 1)
    return total(grad, repeated, keepdims=True) if repeated else grad


def _shape(x: Any) -> tuple[int, ...]:
    return tuple(x.shape) if is_array(x) else ()


def _both(name: str, a: Any, b: Any) -> Array:
    """The ufunc `name` of two arrays or numbers, with broadcasting."""
    f = getattr(get_xp(a, b), name)
    if alike(a, b):
        return blockwise(f, a, b)
    for x, other in ((a, b), (b, a)):
        if _covers(x, other):
            return f(a, b, out=empty(np, x.shape, x.dtype))
    return kept(f(a, b), a, b)


def _covers(x: Any, other: Any) -> bool:
    """Whether x is a NumPy array whose shape and type are those of the result with `other` too."""
    if not isinstance(x, np.ndarray) or x.dtype.kind != "f" or x.size <= SMALL:
        return False
    if isinstance(other, np.ndarray):
        few = other.size < x.size and other.ndim <= x.ndim and other.dtype == x.dtype
        return few and all(m in (1, n) for m, n in zip(other.shape[::-1], x.shape[::-1], strict=False))
    return isinstance(other, (int, float))


class Add(Op):
    """y = a + b        da = dy        db = dy"""

    @staticmethod
    def forward(ctx: Context, a: Array, b: Array) -> Array:
        ctx.save(_shape(a), _shape(b))
        return _both("add", a, b)

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
        return _both("subtract", a, b)

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
        return _both("multiply", a, b)

    @staticmethod
    def backward(ctx: Context, dy: Array) -> tuple[Array | None, ...]:
        a, b = ctx.saved
        need_a, need_b = ctx.needs_grad
        return (
            unbroadcast(_both("multiply", dy, b), _shape(a)) if need_a else None,
            unbroadcast(_both("multiply", dy, a), _shape(b)) if need_b else None,
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
        return blockwise(get_xp(dy).multiply, dy, y)


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
        return blockwise(_tanh_gradient, dy, y)


def _tanh_gradient(dy: Array, y: Array, out: Array) -> None:
    xp = get_xp(y)
    xp.multiply(y, y, out)
    xp.subtract(1.0, out, out)
    xp.multiply(out, dy, out)


class Sigmoid(Op):
    """y = 1 / (1 + e^-x)        dx = y (1 - y) dy"""

    @staticmethod
    def forward(ctx: Context, x: Array) -> Array:
        y = blockwise(logistic, x)
        ctx.save(y)
        return y

    @staticmethod
    def backward(ctx: Context, dy: Array) -> Array:
        (y,) = ctx.saved
        return blockwise(_sigmoid_gradient, dy, y)


def _sigmoid_gradient(dy: Array, y: Array, out: Array) -> None:
    xp = get_xp(y)
    xp.subtract(1.0, y, out)
    xp.multiply(out, y, out)
    xp.multiply(out, dy, out)


class ReLU(Op):
    """y = max(x, 0)        dx = dy where x > 0"""

    @staticmethod
    def forward(ctx: Context, x: Array) -> Array:
        y = blockwise(maximum_with_zero, x, one_pass=True)
        ctx.save(y)
        return y

    @staticmethod
    def backward(ctx: Context, dy: Array) -> Array:
        (y,) = ctx.saved
        return through_relu(dy, y)


def through_relu(dy: Array, y: Array) -> Array:
    """dy where y is above 0, else 0."""
    if activation_kernels.usable(dy, y):
        return activation_kernels.backward("relu", rows(dy), rows(y)).reshape(dy.shape)
    return blockwise(relu_gradient, dy, y)


def relu_gradient(dy: Array, y: Array, out: Array) -> None:
    """dy where y is above 0, else 0, into `out`, an array of its own."""
    xp = get_xp(y)
    above = xp.greater(y, 0, empty(xp, y.shape, bool))
    if xp is np and y.size > SMALL:
        np.copyto(out, above)  # as numbers, faster than the product's own conversion
        out *= dy
    else:
        xp.multiply(dy, above, out)


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
