"""A step of Adam and AdamW."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial

from ..backend.table_rows import CHUNK
from ..optim.arena import ALIGNED
from ..optim.norm import MOST_PARTS
from .layers import sort
from .measure import INT, LONG, Cost, Pass, Spec, launch


def adam(*parameters: Spec, clip: bool = False) -> Cost:
    """All parameters in one launch: p, m and v are read and written, g is read, 28 bytes a float32 parameter.
    clip: by the norm of all gradients, which reads them once more."""
    first = parameters[0]
    starts = sum(-(-x.size // ALIGNED) * ALIGNED for x in parameters[:-1])
    each = first.like(starts + parameters[-1].size)
    norm = launch(each, first.sums(MOST_PARTS), flops=2 * each.size) if clip else Pass()
    return Cost(norm + launch(*[each] * 7, flops=each.size))


def sparse_adam(table: Spec, ids: Spec, *, clip: bool = False) -> Cost:
    """Rows of one table (V, D) for ids that are all different, as far as V allows: ids are sorted, rows of
    the gradient are read, and p, m and v of the table's rows are read and written. clip: the gradient is read
    once more, before."""
    n, width = ids.size, table.shape[1]
    labels, order = ids.like(n, dtype=ids.dtype if ids.dtype.kind in "iu" else LONG), ids.like(n, dtype=INT)
    values, chunks = table.like(n, width), math.ceil(n / CHUNK)
    partial_sums, over = table.like(chunks, 2, width), min(table.nbytes, table.like(chunks, width).nbytes)
    found = sort(labels)
    if clip:
        found += launch(order, order, values, partial_sums) + launch(order, partial_sums)
        found += Pass(flops=2 * values.size)
    found += launch(
        order, order, values, 6 * min(table.nbytes, values.nbytes), partial_sums, flops=values.size
    )
    return Cost(found + (launch(order, partial_sums, 6 * over) if chunks > 1 else Pass()))


FORMULAS: dict[str, Callable[..., Cost]] = {
    "Adam": partial(adam),
    "AdamW": partial(adam),
    "SparseAdam": sparse_adam,
}
