"""What decides whether a step changes the weights, all in device memory: values that are not finite, and the
loss scale of float16. Formulas for NumPy, one launch each by kernels (step.cu)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ..backend import kernels
from ..backend.arrays import Array, get_xp

FIRST_SCALE, LEAST_SCALE, MOST_SCALE = 2.0**15, 2.0**-10, 2.0**24
GROW_AFTER = 2000  # steps without overflow


def judge(
    losses: Sequence[Array], norm: Array | None, lost: Array | None, overflow: Array | None, so_far: Array
) -> tuple[Array, Array]:
    """(whether something of this step or one before was not finite, whether to skip the update), bools ().

    losses: of one element each; norm: [Σ g², ...] of all gradients, or None where they do not count; lost,
    overflow: bools of a loss scale, or None; so_far: a bool (), of the steps before, which is brought up to
    date.
    """
    xp = get_xp(so_far)
    if not kernels.usable(so_far):
        bad = so_far
        for loss in losses:
            bad = bad | ~xp.isfinite(loss).all()
        if norm is not None:
            bad = bad | ~xp.isfinite(norm[0])
        bad = xp.asarray(bad if lost is None else bad | lost)
        so_far[...] = bad
        return bad, bad if overflow is None else xp.asarray(bad | overflow)
    bad, skip = xp.empty((), bool), xp.empty((), bool)
    for k, loss in enumerate(losses):
        wide = xp.asarray(loss, dtype=np.float64 if loss.dtype == np.float64 else np.float32)
        others = (norm, lost, overflow) if k == len(losses) - 1 else (None, None, None)
        types = (wide.dtype, np.float32 if norm is None else norm.dtype)
        kernel = kernels.project("step", f"judge_step<{', '.join(map(kernels.c_type, types))}>")
        kernel(1, 1, (wide, *others, so_far, bad, skip))
    return bad, skip


@dataclass
class LossScale:
    """In device memory: scale float32 (), what losses are multiplied with; used, what those of the step that
    was judged last were; since int64 (), steps since the last overflow, or since the scale grew; skipped
    int64 (), steps that overflowed; lost, a bool (): gradients did, although the scale was the least."""

    scale: Array
    used: Array
    since: Array
    skipped: Array
    lost: Array

    @classmethod
    def beside(cls, like: Array) -> LossScale:
        """The first one, in the memory of this array's device."""
        xp = get_xp(like)
        scale, used = (xp.full((), FIRST_SCALE, np.float32) for _ in range(2))
        since, skipped = (xp.zeros((), np.int64) for _ in range(2))
        return cls(scale, used, since, skipped, xp.zeros((), bool))

    def judge(self, norm: Array) -> Array:
        """Whether gradients overflowed, a bool (): the scale is then halved, and doubled after `GROW_AFTER`
        steps in which none did. norm: [Σ g², ...] of the gradients as they are."""
        xp = get_xp(norm)
        if kernels.usable(norm):
            overflow = xp.empty((), bool)
            limits = (LEAST_SCALE, MOST_SCALE, GROW_AFTER)
            numbers = (self.scale, self.used, self.since, self.skipped, self.lost, overflow)
            name = f"loss_scale<{kernels.c_type(norm.dtype)}>"
            kernels.project("step", name)(1, 1, (norm, *limits, *numbers))
            return overflow
        overflow, grows = ~xp.isfinite(norm[0]), self.since + 1 >= GROW_AFTER
        self.used[...] = self.scale
        self.lost |= overflow & (self.scale <= LEAST_SCALE)
        factor = xp.where(overflow, 0.5, xp.where(grows, 2.0, 1.0))
        self.scale[...] = xp.clip(self.scale * factor, LEAST_SCALE, MOST_SCALE)
        self.since[...] = xp.where(overflow | grows, 0, self.since + 1)
        self.skipped += overflow
        return xp.asarray(overflow)
