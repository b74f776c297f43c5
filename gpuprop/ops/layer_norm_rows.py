"""Layer normalisation of NumPy rows in the fewest passes over them; `layer_norm` has the formula.

What multiplies or is added to a whole row, or a whole column, comes from products of two or three columns
with as many rows, which cost less than NumPy's broadcasting. With A = [r, -μ r, 1] (N, 3), r = 1 / √(σ² + ε)
    y  = x ∘ (A [w; 0; 0]) + A [0; w; b]
    dx = dy ∘ (A [w; 0; 0]) + x ∘ (a 1ᵀ) + k 1ᵀ,   a = -r² c,  k = μ r² c - r mean(g),  c = mean(g x̂)
    [Σ r dy, -Σ μ r dy, Σ dy] = Aᵀ dy,   dw = rᵀ (dy ∘ x) - Σ μ r dy,   db = Σ dy
where ∘ is element by element. The variance is mean(x²) - μ²; rows far from 0 are centred first.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from ..backend.arrays import Array
from ..backend.buffers import empty
from ..backend.gemm import matmul as product
from ..backend.threads import over_rows
from .rowwise import row_dots

BLOCK = 1 << 18  # elements at a time: what stays in a core's cache
FAR = 4.0  # squared means above this many variances would cost too many digits


class NormalizedRows:
    """x (N, D), or copies of its blocks that are centred, the coefficients A (N, 3), and rows to multiply."""

    def __init__(self, x: Array, weight: Array, bias: Array, eps: float) -> None:
        width = x.shape[1]
        self.x, self.eps = x, eps
        self.size = max(1, BLOCK // width)
        self.count = -(-len(x) // self.size)
        self.coefficients = np.empty((len(x), 3), x.dtype)
        self.centred: dict[int, Array] = {}
        table = np.zeros((8, width), x.dtype)
        table[0] = table[3] = weight
        table[4] = bias
        table[5] = table[7] = 1.0
        self.factors, self.addends = table[:3], table[2:5]  # [w; 0; 0] and [0; w; b]
        self.first, self.second = table[5:7], table[6:]  # [1; 0] and [0; 1]
        self.weight, self.ones = table[:1].T, table[5:6].T

    def over_blocks(self, work: Callable[[int, slice], None]) -> None:
        """work(i, part) for block i and its rows."""

        def piece(start: int, stop: int) -> None:
            for i in range(start, stop):
                work(i, slice(i * self.size, (i + 1) * self.size))

        over_rows(piece, self.count, 4 * self.x.size, products=True)

    def measure(self, i: int, part: slice) -> tuple[Array, Array]:
        """The rows of block i, centred where need be, and their coefficients."""
        x, width = self.x[part], self.x.shape[1]
        mean = product(x, self.ones)
        mean *= 1.0 / width
        square = mean * mean
        variance = row_dots(x, x)
        variance *= 1.0 / width
        variance -= square
        if not (square <= FAR * variance).all():
            x = self.centred[i] = x - mean
            mean[...] = 0
            variance = row_dots(x, x) / width
        variance += self.eps
        inverse = 1.0 / np.sqrt(variance)
        a = self.coefficients[part]
        a[:, :1] = inverse
        mean *= inverse
        np.negative(mean, a[:, 1:2])
        a[:, 2] = 1.0
        return x, a


def forward(x: Array, weight: Array, bias: Array, eps: float) -> tuple[Array, NormalizedRows]:
    """y for rows x (N, D), weight (D,) and bias (D,) of one type, and what `backward` needs."""
    done = NormalizedRows(x, weight, bias, eps)
    y = empty(np, x.shape, x.dtype)

    def work(i: int, part: slice) -> None:
        rows, a = done.measure(i, part)
        into = y[part]
        product(a, done.factors, out=into)
        into *= rows
        into += product(a, done.addends, out=empty(np, into.shape, into.dtype))

    done.over_blocks(work)
    return y, done


def backward(
    done: NormalizedRows, dy: Array, needs: tuple[bool, ...]
) -> tuple[Array | None, Array | None, Array | None]:
    """The gradients of x, weight and bias for dy (N, D); None for those that are not needed."""
    dx = empty(np, dy.shape, dy.dtype) if needs[0] else None
    sums = np.zeros((2, done.count, dy.shape[1]), dy.dtype)  # of each block: those of dw and of db

    def work(i: int, part: slice) -> None:
        d, x, a = dy[part], done.centred.get(i), done.coefficients[part]
        x = done.x[part] if x is None else x
        by_x = np.multiply(d, x, empty(np, d.shape, d.dtype))
        if needs[1] or needs[2]:
            _, sums[0, i], sums[1, i] = product(a.T, d)
            sums[0, i] += product(a[:, :1].T, by_x)[0]
        if dx is not None:
            numbers = _row_numbers(a, product(d, done.weight), product(by_x, done.weight), d.shape[1])
            into = dx[part]
            product(a, done.factors, out=into)
            into *= d
            product(numbers, done.first, out=by_x)
            by_x *= x
            into += by_x
            into += product(numbers, done.second, out=by_x)

    done.over_blocks(work)
    dw, db = np.add.reduce(sums, axis=1)
    return dx, dw if needs[1] else None, db if needs[2] else None


def _row_numbers(a: Array, g: Array, gx: Array, width: int) -> Array:
    """[a, k] (M, 2) of dx, from the coefficients A (M, 3), Σ g (M, 1) and Σ g x (M, 1), which are changed."""
    inverse, shift = a[:, :1], a[:, 1:2]
    gx *= inverse
    gx += shift * g
    gx *= inverse * (-1.0 / width)  # -r c
    g *= inverse * (-1.0 / width)
    g += shift * gx
    numbers = np.empty((len(a), 2), a.dtype)
    np.multiply(gx, inverse, numbers[:, :1])
    numbers[:, 1:] = g
    return numbers
