"""Gradients summed over the ranks in buckets, while backward still computes the gradients of earlier layers.

(Li et al. 2020, PyTorch distributed: experiences on accelerating data parallel training, section 3.2.)
A bucket is a part of the optimizer's flat memory of gradients, so nothing is copied. Each rank starts its
backward with its share of the weight, so that the sum over ranks is the mean over all rows.
"""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..backend.arrays import Array, bfloat16, get_xp
from ..backend.recording import capturing
from ..backprop import Leaf, Node, Watcher, recording, watching
from ..errors import DataError
from ..optim.arena import Arena
from .group import Group, Started

BUCKET_BYTES = 8 << 20
GRADIENTS = "gradients"  # what `Traffic` counts them as
TYPES = ("fp32", "bf16")


@dataclass
class Bucket:
    """Elements start .. stop of an arena, which are the gradients of `leaves`. waiting: how many of them
    backward is not done with."""

    arena: Arena
    start: int
    stop: int
    leaves: list[Leaf]
    waiting: int = 0

    @property
    def grads(self) -> Array:
        return self.arena.grads[self.start : self.stop]


class GradientReducer:
    """Sums the gradients in the `arenas` of an optimizer over a group.

    gradient_type "bf16": they travel rounded to bfloat16, at half the bytes, and are float32 again after.
    """

    def __init__(
        self,
        group: Group,
        arenas: Sequence[Arena],
        bucket_bytes: int = BUCKET_BYTES,
        gradient_type: str = "fp32",
    ) -> None:
        if gradient_type not in TYPES:
            raise DataError(f"gradients travel as one of {', '.join(TYPES)}, not {gradient_type!r}")
        if any(arena.sparse for arena in arenas):
            raise DataError(
                "several ranks cannot add up gradients of rows (optim.SparseAdam): each rank has other rows. "
                "Use optim.Adam or AdamW, whose gradients are of the whole table"
            )
        self.group, self.half = group, bfloat16() if gradient_type == "bf16" else None
        self.buckets = [b for arena in reversed(arenas) for b in _buckets(arena, bucket_bytes)]
        self.bucket_of = {leaf: bucket for bucket in self.buckets for leaf in bucket.leaves}
        self._started: list[tuple[Started, Bucket, Array]] = []
        self._next = 0
        self._present: dict[Any, Array] = {}

    def begin(self) -> None:
        """A step begins."""
        self._started, self._next = [], 0
        for bucket in self.buckets:
            bucket.waiting = len(bucket.leaves)

    @contextlib.contextmanager
    def overlapping(self) -> Iterator[None]:
        """Inside is the step's last backward: buckets leave as soon as it is done with them."""
        with watching(_Overlap(self, recording())):
            yield

    def ready(self, leaf: Leaf) -> None:
        """Backward is done with this leaf. Buckets leave in one order on all ranks."""
        bucket = self.bucket_of.get(leaf)
        if bucket is not None:
            bucket.waiting -= 1
            while self._next < len(self.buckets) and not self.buckets[self._next].waiting:
                self._send(self.buckets[self._next])
                self._next += 1

    def poll(self) -> None:
        """Drive on what is under way."""
        if self._started:
            self._started[-1][0].poll()

    def finish(self, loss: Any, key: Any = None) -> Array:
        """Send what is left and wait for all of it. loss: this rank's part of a sum, of one element; returns
        the sum. A parameter has a gradient afterwards where it has one on any rank. key: of a step that is
        captured, by which it finds what the ranks told each other when it ran before."""
        while self._next < len(self.buckets):
            self._send(self.buckets[self._next])
            self._next += 1
        for started, bucket, sent in self._started:
            started.finish()
            if sent.dtype != bucket.arena.grads.dtype:
                bucket.grads[...] = sent
        self._started = []
        xp = get_xp(self.buckets[0].arena.grads)  # a rank without rows has its zero on the host
        return self._finish_leaves(xp.asarray(loss, dtype=np.float64), key)

    def _send(self, bucket: Bucket) -> None:
        for leaf in bucket.leaves:
            assert leaf.buffer is not None
            leaf.rows = None  # other ranks may fill other rows
            if leaf.grad is None:
                leaf.buffer[...] = 0
        number = len(self._started)
        sent = bucket.grads if self.half is None else bucket.grads.astype(self.half)
        self._started.append((self.group.start_all_reduce(sent, "sum", GRADIENTS), bucket, sent))
        self._started[-1][0].what = f"all_reduce of gradients, bucket {number} ({sent.size} {sent.dtype})"

    def _finish_leaves(self, loss: Array, key: Any) -> Array:
        leaves = list(self.bucket_of)
        has = np.array([leaf.grad is not None for leaf in leaves], np.float64)
        on_host = isinstance(loss, np.ndarray)
        sums = np.append(has, loss) if on_host else has
        if capturing():
            sums = self._present[key]
        else:
            self.group.all_reduce(sums, what="loss and which parameters have gradients")
            if key is not None:
                self._present[key] = sums
        for leaf, count in zip(leaves, sums, strict=False):
            if count and leaf.grad is None:
                leaf.grad = leaf.buffer
        if on_host:
            return sums[-1:].reshape(())
        return self.group.all_reduce(loss.reshape(1), what="loss").reshape(())


class _Overlap(Watcher):
    """Tells a reducer when backward is done with a leaf: after the last operation that uses it."""

    def __init__(self, reducer: GradientReducer, before: bool | Watcher) -> None:
        self.reducer, self.before = reducer, None if isinstance(before, bool) else before
        self.uses: Counter[Leaf] = Counter()

    def starting(self, nodes: Sequence[Node]) -> None:
        if self.before is not None:
            self.before.starting(nodes)
        self.uses = Counter(_leaves(node for node in nodes))
        for leaf in self.reducer.bucket_of:
            if leaf not in self.uses:
                self.reducer.ready(leaf)

    def passing(self, node: Node) -> None:
        if self.before is not None:
            self.before.passing(node)
        else:
            node.run_backward()
        for leaf in _leaves([node]):
            self.uses[leaf] -= 1
            if not self.uses[leaf]:
                self.reducer.ready(leaf)
        self.reducer.poll()


def _leaves(nodes: Any) -> Iterator[Leaf]:
    return (e[0] for node in nodes for e in node.edges if e is not None and isinstance(e[0], Leaf))


def _buckets(arena: Arena, size: int) -> list[Bucket]:
    """The last parameters first, as backward comes to them first."""
    found: list[Bucket] = []
    for p, (start, stop) in zip(reversed(arena.parameters), reversed(arena.ranges), strict=True):
        open_bucket = found[-1] if found else None
        item = arena.grads.dtype.itemsize
        if open_bucket is not None and (open_bucket.stop - start) * item <= size:
            open_bucket.start = start
            open_bucket.leaves.append(p.leaf)
        else:
            found.append(Bucket(arena, start, stop, [p.leaf]))
    return found
