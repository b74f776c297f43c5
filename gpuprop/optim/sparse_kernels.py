"""Adam of the rows of a table, and the norm of a gradient of rows, in kernels (kernels/sparse_adam.cu).

A graph can repeat them: sizes are those of the ids, however many of these are alike.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from ..backend import kernels
from ..backend.arrays import Array, get_xp
from ..backend.instantiations import C_TYPES
from ..backend.table_rows import CHUNK, THREADS, pack_of
from ..backend.table_rows import usable as fits
from ..row_gradient import RowGradient

WARPS = THREADS // 32


def usable(grad: RowGradient) -> bool:
    """Whether the kernels take it."""
    value, acc = C_TYPES.get(grad.dtype.name, ("", "none"))
    return value == acc and fits(grad.values, grad.ids)


def norm_of(grad: RowGradient) -> Array:
    """[Σ g², √(Σ g²)] (2,), of the sums of rows with equal ids."""
    norm = get_xp(grad.values).empty(2, grad.dtype)
    add_to_norm(grad, norm, get_xp(grad.values).zeros(1, np.uint32), None, first=True)
    return norm


def add_to_norm(grad: RowGradient, norm: Array, arrived: Array, scale: Array | None, first: bool) -> None:
    """norm (2,): Σ g² more, unless it is the first, and the root of all so far over `scale`. arrived: uint32
    (1,), zero."""
    xp, n, (rows, columns) = get_xp(grad.values), int(grad.ids.size), grad.shape
    keys, order = grad.sorted_ids()
    values = xp.ascontiguousarray(grad.values)
    partial = xp.empty((math.ceil(n / CHUNK), 2, columns), grad.dtype)
    pack = pack_of(values, partial)
    at_places, at_chunks = grids(n, columns, pack)
    squares, parts = (xp.empty(size, grad.dtype) for size in (at_places, at_chunks))
    kernel = _kernel("sparse_norm", grad, pack)
    kernel(at_places, THREADS, (keys, order, values, partial, squares, n, rows, columns))
    rest = (squares, at_places, n, rows, columns, parts, norm, arrived, scale, first)
    _kernel("sparse_norm_finish", grad, pack)(at_chunks, THREADS, (keys, partial, *rest))


def update(
    grad: RowGradient, tables: tuple[Array, ...], scalars: tuple[Any, ...], last: bool, simple: bool = False
) -> None:
    """A step of Adam for the rows in the gradient. tables: weights and both moments (V, D). scalars: those of
    the kernel adam, without `decoupled`. last: the step is counted. simple: by the reference."""
    xp, n, (rows, columns) = get_xp(grad.values), int(grad.ids.size), grad.shape
    keys, order = grad.sorted_ids()
    values = xp.ascontiguousarray(grad.values)
    if simple:
        kernel = kernels.project("sparse_adam", f"sparse_adam_simple<{kernels.c_type(grad.dtype)}>")
        kernel(n, THREADS, (keys, order, values, *tables, n, rows, columns, *scalars, last))
        return
    partial = xp.empty((math.ceil(n / CHUNK), 2, columns), grad.dtype)
    pack = pack_of(values, partial, *tables)
    at_places, at_chunks = grids(n, columns, pack)
    arrays, sizes = (keys, order, values, *tables, partial), (n, rows, columns)
    ends = last and n <= CHUNK
    _kernel("sparse_adam", grad, pack)(at_places, THREADS, (*arrays, *sizes, *scalars, ends))
    if n > CHUNK:
        kernel = _kernel("sparse_adam_finish", grad, pack)
        kernel(at_chunks, THREADS, (keys, *tables, partial, *sizes, *scalars, last))


def _kernel(name: str, grad: RowGradient, pack: int) -> Any:
    return kernels.project("sparse_adam", f"{name}<{kernels.c_type(grad.dtype)}, {pack}>")


def grids(n: int, columns: int, pack: int) -> tuple[int, int]:
    """Blocks for a warp a place, and for a warp a chunk, and 32 packs of columns."""
    tiles = math.ceil(columns / (32 * pack))
    return tuple(math.ceil(warps * tiles / WARPS) for warps in (n, math.ceil(n / CHUNK)))  # type: ignore[return-value]
