"""The one door for every matrix product, so that its precision and library are chosen in one place."""

from __future__ import annotations

from .arrays import Array


def matmul(a: Array, b: Array) -> Array:
    """a @ b for stacks of matrices: (..., M, K) @ (..., K, N) -> (..., M, N)."""
    return a @ b


def rows(x: Array) -> Array:
    """x (..., N) as a matrix of rows (-1, N): one large product instead of a batch of small ones."""
    return x.reshape(-1, x.shape[-1])
