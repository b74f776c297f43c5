"""Elements that are chosen: packed rows and indices.

`rows` is the number of real tokens N of a mask (B, L). Without it a captured step is meant, whose packed rows
are all B L positions.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from ..errors import ShapeError
from .layers import added_rows
from .measure import LONG, Cost, Pass, Spec, both, launch


def pack(x: Spec, mask: Spec, rows: int | None = None) -> Cost:
    """By a `Packing`, or a mask on the host: rows are read and written; backward put among zeros. In a
    captured step another look at x, whose gradient is cleared at padding."""
    y = x.like(_count("pack", mask, rows), *x.shape[2:])
    forward = Pass() if rows is None else _taken(y)
    return Cost(forward, both([_put(y, x, mask, rows)], x.size) if x.needs_grad else Pass())


def unpack(x: Spec, mask: Spec, rows: int | None = None) -> Cost:
    """`pack` the other way. In a captured step a copy each way, 0 at padding."""
    count = _count("unpack", mask, rows)
    if len(x) != count:
        raise ShapeError(f"unpack: {len(x)} rows for a mask {mask.shape} with {count} real tokens")
    y = x.like(*mask.shape, *x.shape[1:])
    backward = _put(x, y, mask, None) if rows is None else launch(x, x, x.like(count, dtype=LONG))
    forward = both([_put(x, y, mask, rows)], y.size)
    return Cost(forward, both([backward], x.size) if x.needs_grad else Pass())


def packing_of(mask: Spec, other: Spec, rows: int | None = None) -> Cost:
    """Nothing is launched where the mask is on the host: it counts, and copies. In a captured step the
    numbers of all positions are written."""
    _count("packing_of", mask, rows)
    return Cost(launch(mask.like(mask.size, dtype=LONG)) if rows is None else Pass())


def pack_labels(labels: Spec, mask: Spec, ignore_index: int, rows: int | None = None) -> Cost:
    """Nothing is launched where both are on the host. In a captured step a copy with `ignore_index` at
    padding."""
    _count("pack_labels", mask, rows)
    y = labels.like(*labels.shape, dtype=labels.dtype if labels.dtype.kind in "iu" else LONG)
    return Cost(launch(_bits(mask), y, y, flops=y.size) if rows is None else Pass())


def _count(name: str, mask: Spec, rows: int | None) -> int:
    if rows is not None and not 0 <= rows <= mask.size:
        raise ShapeError(f"{name}: a mask {mask.shape} has from 0 to {mask.size} real tokens, not {rows}")
    return mask.size if rows is None else rows


def _taken(y: Spec) -> Pass:
    return launch(y, y, y.like(len(y), dtype=LONG), flops=y.size)


def _put(values: Spec, grid: Spec, mask: Spec, rows: int | None) -> Pass:
    """Rows put among zeros, or all of them with zeros in place of some."""
    if rows is None:
        return launch(_bits(mask), values, grid)
    return launch(grid) + launch(values, values, values.like(rows, dtype=LONG))


def _bits(mask: Spec) -> Spec:
    return mask.like(*mask.shape, dtype=bool)


def getitem(x: Spec, index: Any) -> Cost:
    """Numbers and slices: another look at x; backward dy is put among zeros. Arrays of numbers: elements are
    read and written; backward their places are found, sorted, and dy is added. Of an array that is larger
    than what is asked for, so many elements count."""
    parts = index if isinstance(index, list) else [index]
    arrays = [part for part in parts if isinstance(part, Spec)]
    if any(part.dtype == bool for part in arrays):
        raise ValueError("the cost of an index of bools hangs on how many are True; give numbers")
    plain = tuple(0 if isinstance(part, Spec) else part for part in parts)
    rest: Any = np.broadcast_to(np.zeros((), bool), x.shape)[plain]
    found = x.like(math.prod(np.broadcast_shapes(*(part.shape for part in arrays))) * rest.size, 1)
    if not arrays:
        backward = launch(x) + launch(found, found)
        return Cost(Pass(), both([backward], x.size) if x.needs_grad else Pass())
    count = min(x.size, found.size)
    whole, places = x.like(x.size, dtype=LONG), x.like(found.size, dtype=LONG)
    ids = [part.like(*part.shape, dtype=part.dtype if part.dtype.kind in "iu" else LONG) for part in arrays]
    size = int(x.dtype.itemsize)
    backward = launch(x) + launch(whole) + launch(8 * count, *ids, places)
    backward += added_rows(places, found, count * size)
    forward = launch(count * size, *ids, found, flops=found.size)
    return Cost(forward, both([backward], x.size) if x.needs_grad else Pass())


FORMULAS: dict[str, Callable[..., Cost]] = {
    "getitem": getitem,
    "pack": pack,
    "pack_labels": pack_labels,
    "packing_of": packing_of,
    "unpack": unpack,
}
