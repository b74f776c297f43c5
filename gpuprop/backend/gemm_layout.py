"""How a product of arrays with any strides is said to cuBLAS, which knows column-major matrices only.

A matrix (R, C) is column-major with leading dimension ld where element (i, j) lies at i + j ld, ld >= R. A
row-major result is therefore asked for as its transpose: (A B)ᵀ = Bᵀ Aᵀ, whose factors are read in the order
in which they lie, so that nothing is copied for a transpose or a slice of rows or columns.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from itertools import pairwise
from math import prod
from typing import NamedTuple

Shape = tuple[int, ...]
Strides = Sequence[int]  # in elements
KEPT = 4096  # answers for products of shapes that come again


class Operand(NamedTuple):
    """A factor: op is the transpose or nothing. stride: elements from a matrix of the batch to the next."""

    transposed: bool
    ld: int
    stride: int = 0


class Plan(NamedTuple):
    """D = op(P) op(Q) with D (m, n) and inner length k, all column-major, `batch` times.

    swapped: P is the right factor, Q the left one, and D the transpose of the result.
    """

    swapped: bool
    m: int
    n: int
    k: int
    batch: int
    p: Operand
    q: Operand
    d: Operand


def matrix(shape: Shape, strides: Strides) -> tuple[bool, int] | None:
    """(transposed, ld) of a column-major matrix that lies as (R, C) with these strides does; None where there
    is none: strides that are negative, overlap or leave gaps both ways."""
    (rows, columns), (down, across) = shape, strides
    if (down == 1 or rows == 1) and (across >= rows or columns == 1):
        return False, across if columns > 1 else max(1, rows)
    if (across == 1 or columns == 1) and (down >= columns or rows == 1):
        return True, down if rows > 1 else max(1, columns)
    return None


def batch_stride(lead: Shape, strides: Strides) -> int | None:
    """The one stride that walks over all matrices of a stack (*lead, R, C) in C order; None where it takes
    several. strides: of the axes of `lead`, 0 where the stack repeats."""
    walked = [(n, step) for n, step in zip(lead, strides, strict=True) if n != 1]
    for (_, outer), (n, inner) in pairwise(walked):
        if outer != n * inner:
            return None
    stride = walked[-1][1] if walked else 0
    return stride if stride >= 0 else None


def lead_strides(shape: Shape, strides: Strides, lead: Shape) -> list[int]:
    """Strides over the axes `lead`, to which the stack (..., R, C) broadcasts: 0 where it repeats."""
    own = [0 if n == 1 else s for n, s in zip(shape[:-2], strides[:-2], strict=True)]
    return [0] * (len(lead) - len(own)) + own


@functools.lru_cache(KEPT)
def plan(a: tuple[Shape, Strides], b: tuple[Shape, Strides], c: tuple[Shape, Strides]) -> Plan | None:
    """How to ask for c = a b, of shapes and strides (..., M, K), (..., K, N) and (..., M, N); None where one
    of them lies so that it has to be copied first (see `fits`), or where c may not be written."""
    lead = c[0][:-2]
    steps = [batch_stride(lead, lead_strides(*x, lead)) for x in (a, b, c)]
    if any(step is None for step in steps):
        return None
    rows, columns = c[0][-2:]
    for swapped in (True, False):
        d = matrix(*_last(c, swapped))
        if d is None or d[0]:
            continue
        p, q = (matrix(*_last(x, swapped)) for x in ((b, a) if swapped else (a, b)))
        if p is None or q is None:
            return None
        step_p, step_q = (steps[1], steps[0]) if swapped else (steps[0], steps[1])
        m, n = (columns, rows) if swapped else (rows, columns)
        return Plan(
            swapped, m, n, a[0][-1], prod(lead),
            Operand(*p, step_p or 0), Operand(*q, step_q or 0), Operand(*d, steps[2] or 0),
        )  # fmt: skip
    return None


@functools.lru_cache(KEPT)
def fits(shape: Shape, strides: Strides, lead: Shape) -> bool:
    """Whether a factor can be read where it lies, in a batch of the axes `lead`."""
    one = batch_stride(lead, lead_strides(shape, strides, lead)) is not None
    return one and matrix(shape[-2:], strides[-2:]) is not None


def _last(x: tuple[Shape, Strides], transposed: bool) -> tuple[Shape, Strides]:
    """Shape and strides of the last two axes, or of their transpose."""
    shape, strides = tuple(x[0][-2:]), tuple(x[1][-2:])
    return (shape[::-1], strides[::-1]) if transposed else (shape, strides)
