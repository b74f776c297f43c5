"""Adam and AdamW in one launch a block of parameters (kernels/adam.cu).

Whatever changes from step to step is read from device memory, so that a captured step can be replayed.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from ..backend import kernels
from ..backend.arrays import Array, get_xp
from . import sparse_kernels
from .arena import Arena
from .norm import THREADS, blocks

MOST_BLOCKS = 2048  # some for every processor of a GPU; each thread then walks on


class FusedAdam:
    """The update of `Adam` and `AdamW`.

    steps: int64 (1,), counted by the kernel. options: lr, beta1, beta2, eps, weight_decay of each group,
    float64 (5,) in device memory.
    """

    def __init__(self, arenas: Sequence[Arena], steps: Array, decoupled: bool) -> None:
        self.arenas, self.steps, self.decoupled = list(arenas), steps, decoupled
        xp = get_xp(steps)
        self.options = [xp.zeros(5, np.float64) for _ in self.arenas]
        self._known: list[tuple[float, ...] | None] = [None] * len(self.arenas)
        self.arrived = xp.zeros(1, np.uint32)

    def refresh(self, groups: Sequence[dict[str, Any]]) -> None:
        """Bring options that changed, such as the learning rate, to the device."""
        for k, group in enumerate(groups):
            values = (group["lr"], *group["betas"], group["eps"], group["weight_decay"])
            if values != self._known[k]:
                self.options[k][...] = get_xp(self.options[k]).asarray(np.array(values, np.float64))
                self._known[k] = values

    def step(
        self,
        state: Sequence[dict[str, Array]],
        clip: tuple[Array | None, float],
        scale: Array | None,
        skip: Array | None,
    ) -> None:
        """Update all parameters that have a gradient, and count the step, unless skip is True.

        state: m and v of each group. clip: what `gradient_norm` gave, and the largest norm. scale: what the
        gradients were multiplied with, float32 (). skip: a bool ().
        """
        spans = [(k, *span) for k, arena in enumerate(self.arenas) for span in arena.spans()]
        sparse = [(k, arena) for k, arena in enumerate(self.arenas) if arena.sparse]
        tables = [(k, *table) for k, arena in sparse for table in arena.tables() if table[1].ids.size]
        if not spans and not tables:
            self.steps += 1 if skip is None else 1 - skip
        for place, (k, start, stop) in enumerate(spans, 1):
            arena, moments = self.arenas[k], state[k]
            kernel = kernels.project("adam", f"adam<{', '.join(kernels.c_types(arena.data.dtype))}>")
            arrays = (arena.data, arena.grads, moments["m"], moments["v"], start, stop)
            scalars = (self.options[k], self.decoupled, *clip, scale, skip, self.steps, self.arrived)
            grid = blocks(stop - start, arena.data.dtype, MOST_BLOCKS)
            kernel(grid, THREADS, (*arrays, *scalars, place == len(spans) + len(tables)))
        for place, (k, p, grad, start) in enumerate(tables, 1):
            m, v = (state[k][slot][start : start + p.size].reshape(p.shape) for slot in ("m", "v"))
            of_step = (self.options[k], *clip, scale, skip, self.steps, self.arrived)
            sparse_kernels.update(grad, (p.data, m, v), of_step, last=place == len(tables))
