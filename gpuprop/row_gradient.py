"""The gradient of a table of which only some rows are not zero."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from .backend import kernels, table_rows
from .backend.arrays import Array, get_xp, to_host
from .backend.table_rows_on_host import set_rows
from .errors import ShapeError


class RowGradient:
    """Σ values[n] in row ids[n] of a table of shape (V, D), zero elsewhere: what `nn.Embedding(sparse=True)`
    gives its weight, as PyTorch's sparse tensor. Time and memory go with the ids, not with V.

    ids (N,) integers, in any order and as often as they occur; those outside 0..V-1, and `skip`, count for
    nothing. values (N, D). Nothing of it is changed in place. np.asarray gives the whole table on the host.
    """

    __array_ufunc__ = None  # an array on the left hands `+` over to us
    ndim = 2

    def __init__(self, ids: Array, values: Array, shape: tuple[int, ...], skip: int | None = None) -> None:
        if len(shape) != 2 or values.shape != (ids.size, shape[1]) or ids.ndim != 1:
            raise ValueError(
                f"a gradient of rows has ids (N,), values (N, D) and the shape (V, D), not {ids.shape}, "
                f"{values.shape} and {tuple(shape)}"
            )
        self.ids, self.values, self.shape, self.skip = ids, values, (int(shape[0]), int(shape[1])), skip
        self._sorted: tuple[Array, Array] | None = None
        self._summed: RowGradient | None = None
        self._each_once = False  # each id occurs once, and counts

    @property
    def dtype(self) -> Any:
        return self.values.dtype

    @property
    def size(self) -> int:
        return self.shape[0] * self.shape[1]

    @property
    def nbytes(self) -> int:
        """Of ids and values."""
        return int(self.ids.nbytes + self.values.nbytes)

    def sorted_ids(self) -> tuple[Array, Array]:
        """(the ids sorted, the places they had), int32 (N,), by a kernel; what counts for nothing is V."""
        if self._sorted is None:
            self._sorted = table_rows.sort(self.ids, self.shape[0], self.skip)
        return self._sorted

    def coalesce(self) -> RowGradient:
        """The same with each id once, in rising order. On a GPU it waits: how many there are, the host must
        know. Computed once."""
        if self._each_once:
            return self
        if self._summed is None:
            self._summed = self._sums()
        return self._summed

    def _sums(self) -> RowGradient:
        xp = get_xp(self.values)
        counts = (self.ids >= 0) & (self.ids < self.shape[0])
        if self.skip is not None:
            counts &= self.ids != self.skip
        if xp is np and counts.all():
            ids, given = self.ids, self.values
        else:
            ids, given = self.ids[counts], self.values[counts]
        ids, places = xp.unique(ids, return_inverse=True)
        values = xp.zeros((ids.size, self.shape[1]), self.dtype)
        if table_rows.usable(values, places):
            table_rows.add_rows(values, places, given)
        elif xp is np:
            set_rows(values, places, given)
        found = RowGradient(ids, values, self.shape)
        found._each_once = True
        return found

    def to_dense(self) -> Array:
        """The whole table (V, D)."""
        dense = get_xp(self.values).zeros(self.shape, self.dtype)
        if not kernels.usable(self.values):
            found = self.coalesce()
            dense[found.ids] = found.values
        elif table_rows.usable(dense, self.ids):
            table_rows.add_rows(dense, self.ids, self.values, self.skip)
        return dense

    def changed(self, change: Callable[[Array], Array]) -> RowGradient:
        """With change(values), which must be linear where ids occur more than once."""
        if self._summed is not None:
            return self._summed.changed(change)
        found = RowGradient(self.ids, change(self.values), self.shape, self.skip)
        found._sorted, found._each_once = self._sorted, self._each_once
        return found

    def scaled(self, factor: Array) -> RowGradient:
        """Multiplied by an array of one element."""
        return self.changed(lambda values: values * factor.astype(values.dtype))

    def astype(self, dtype: Any) -> RowGradient:
        """In another type of numbers; itself where it has it."""
        return self if self.dtype == dtype else self.changed(lambda values: values.astype(dtype))

    def __add__(self, other: Any) -> Any:
        """Rows of both; with an array, an array."""
        if not isinstance(other, RowGradient):
            return self.to_dense() + other
        if self.shape != other.shape:
            raise ShapeError(f"gradients of rows of tables {self.shape} and {other.shape} are added")
        xp, skip = get_xp(self.values), self.skip
        ids = [self.ids, other.ids]
        if skip != other.skip:
            ids, skip = [part.without_skip() for part in (self, other)], None
        values = [self.values, other.values.astype(self.dtype, copy=False)]
        return RowGradient(xp.concatenate(ids), xp.concatenate(values), self.shape, skip)

    __radd__ = __add__

    def __mul__(self, factor: Any) -> RowGradient:
        """By a number, or an array of one element."""
        if getattr(factor, "size", 1) != 1:
            return NotImplemented
        return self.changed(lambda values: (values * factor).astype(values.dtype, copy=False))

    __rmul__ = __mul__

    def __truediv__(self, factor: Any) -> RowGradient:
        return self * (1 / factor)

    def without_skip(self) -> Array:
        """The ids, those that `skip` excepts outside the table."""
        if self.skip is None:
            return self.ids
        return get_xp(self.ids).where(self.ids == self.skip, self.shape[0], self.ids)

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray[Any, Any]:
        return np.asarray(to_host(self.to_dense()), dtype=dtype)

    def __repr__(self) -> str:
        return f"RowGradient(ids={self.ids.size}, shape={self.shape}, dtype={self.dtype})"
