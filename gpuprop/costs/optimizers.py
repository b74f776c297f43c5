"""A step of Adam and AdamW."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

from ..optim.arena import ALIGNED
from ..optim.norm import MOST_PARTS
from .measure import Cost, Pass, Spec, launch


def adam(*parameters: Spec, clip: bool = False) -> Cost:
    """All parameters in one launch: p, m and v are read and written, g is read, 28 bytes a float32 parameter.
    clip: by the norm of all gradients, which reads them once more."""
    first = parameters[0]
    starts = sum(-(-x.size // ALIGNED) * ALIGNED for x in parameters[:-1])
    each = first.like(starts + parameters[-1].size)
    norm = launch(each, first.sums(MOST_PARTS), flops=2 * each.size) if clip else Pass()
    return Cost(norm + launch(*[each] * 7, flops=each.size))


FORMULAS: dict[str, Callable[..., Cost]] = {"Adam": partial(adam), "AdamW": partial(adam)}
