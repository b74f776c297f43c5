"""Layer normalisation of NumPy rows in the fewest passes over them; `layer_norm` has the formula.

What multiplies or is added to a whole row, or a whole column, comes from products of two columns with as many
rows, which cost less than NumPy's broadcasting, except where rows are long. With r = 1 / √(σ² + ε) and
m = -μ r, both (N, 1)
    y  = x ∘ (r wᵀ) + [m, 1] [w; b]
    dx = dy ∘ (r wᵀ) + x ∘ (a 1ᵀ) + k 1ᵀ,   a = e r,  k = e m - r mean(g),  e = -r mean(g x̂)
    [Σ m dy, Σ dy] = [m, 1]ᵀ dy,   dw = rᵀ (dy ∘ x) + Σ m dy,   db = Σ dy
where ∘ is element by element. D σ² is Σ x² - (Σ x)² / D; rows far from 0 are centred first.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np

from ..backend.arrays import Array
from ..backend.buffers import empty
from ..backend.threads import blas_on_one_thread, over_rows, pieces
from .rowwise import LONG, RowAtATime, row_dots

BLOCK = 1 << 18  # elements at a time: what stays in a core's cache
FAR = 0.8  # share of Σ x² that the mean may have: above, too many digits of the variance would be lost


class NormalizedRows:
    """x (N, D) in blocks, copies of those that are centred, and the coefficients [r, m, 1] (N, 3)."""

    def __init__(self, x: Array, weight: Array, bias: Array, eps: float) -> None:
        rows, width = x.shape
        self.x, self.eps = x, eps
        shares = len(pieces(rows, 4 * x.size))
        count = min(rows, shares * -(-x.size // (shares * BLOCK)))
        self.blocks = [slice(rows * i // count, rows * (i + 1) // count) for i in range(count)]
        self.coefficients = np.ones((rows, 3), x.dtype)
        self.centred: dict[int, Array] = {}
        table = np.zeros((6, width), x.dtype)
        table[0] = table[2] = weight
        table[3] = bias
        table[4] = 1.0
        self.weight, self.both, self.one = table[:2], table[2:4], table[4:]  # [w; 0], [w; b], [1; 0]
        self.ones = np.ones((width, 1), x.dtype)
        self.mean_of_g = table[:1].T * (-1.0 / width)

    def over_blocks(self, work: Callable[[int, slice], None]) -> None:
        """work(i, part) for block i and its rows."""

        def piece(start: int, stop: int) -> None:
            for i in range(start, stop):
                work(i, self.blocks[i])

        with blas_on_one_thread():
            over_rows(piece, len(self.blocks), 4 * self.x.size, products=True)

    def measure(self, i: int, part: slice) -> tuple[Array, Array]:
        """The rows of block i, centred where need be, and their coefficients."""
        x, width = self.x[part], self.x.shape[1]
        sums, squares = np.matmul(x, self.ones), row_dots(x, x)
        of_mean = sums * sums
        of_mean *= 1.0 / width
        if (of_mean <= FAR * squares).all():
            squares -= of_mean
        else:
            sums *= 1.0 / width
            x = self.centred[i] = x - sums
            sums[...] = 0
            squares = row_dots(x, x)
        squares += width * self.eps
        np.sqrt(squares, squares)
        a = self.coefficients[part]
        inverse = np.divide(math.sqrt(width), squares, a[:, :1])
        sums *= -1.0 / width
        np.multiply(sums, inverse, a[:, 1:2])
        return x, a


def forward(x: Array, weight: Array, bias: Array, eps: float) -> tuple[Array, NormalizedRows]:
    """y for rows x (N, D), weight (D,) and bias (D,) of one type, and what `backward` needs."""
    done = NormalizedRows(x, weight, bias, eps)
    y = empty(np, x.shape, x.dtype)

    def work(i: int, part: slice) -> None:
        rows, a = done.measure(i, part)
        into = y[part]
        if x.shape[1] >= LONG:
            with RowAtATime():
                np.multiply(rows, a[:, :1], into)
                into += a[:, 1:2]
                into *= weight
                into += bias
        else:
            np.matmul(a[:, :2], done.weight, out=into)
            into *= rows
            into += np.matmul(a[:, 1:], done.both, out=empty(np, into.shape, into.dtype))

    done.over_blocks(work)
    return y, done


def backward(
    done: NormalizedRows, dy: Array, needs: tuple[bool, ...]
) -> tuple[Array | None, Array | None, Array | None]:
    """The gradients of x, weight and bias for dy (N, D); None for those that are not needed."""
    dx = empty(np, dy.shape, dy.dtype) if needs[0] else None
    sums = np.zeros((len(done.blocks), 2, dy.shape[1]), dy.dtype)  # of each block: those of dw and of db

    def work(i: int, part: slice) -> None:
        d, x, a = dy[part], done.centred.get(i), done.coefficients[part]
        x = done.x[part] if x is None else x
        by_x = np.multiply(d, x, empty(np, d.shape, d.dtype))
        if needs[1] or needs[2]:
            np.matmul(a[:, 1:].T, d, out=sums[i])
            sums[i, 0] += np.matmul(a[:, 0], by_x)
        if dx is not None:
            numbers = _row_numbers(a, np.matmul(d, done.mean_of_g), np.matmul(by_x, done.mean_of_g))
            into = dx[part]
            if dx.shape[1] >= LONG:
                with RowAtATime():
                    np.multiply(d, done.weight[0], into)
                    into *= a[:, :1]
                    into += np.multiply(x, numbers[:, :1], by_x)
                    into += numbers[:, 1:2]
            else:
                np.matmul(a[:, :2], done.weight, out=into)
                into *= d
                np.matmul(numbers[:, :2], done.one, out=by_x)
                by_x *= x
                into += by_x
                into += np.matmul(numbers[:, 1:], done.one, out=by_x)

    done.over_blocks(work)
    dw, db = np.add.reduce(sums, axis=0)
    return dx, dw if needs[1] else None, db if needs[2] else None


def _row_numbers(a: Array, g: Array, gx: Array) -> Array:
    """[a, k, 0] (M, 3) of dx, from the coefficients (M, 3), -mean(g) (M, 1) and -mean(g x) (M, 1), which are
    changed."""
    inverse, shift = a[:, :1], a[:, 1:2]
    gx *= inverse
    gx += shift * g
    gx *= inverse  # e
    numbers = np.zeros((len(a), 3), a.dtype)
    np.multiply(gx, inverse, numbers[:, :1])
    gx *= shift
    g *= inverse
    np.add(gx, g, numbers[:, 1:2])
    return numbers
