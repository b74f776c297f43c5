"""One block of memory for all parameters of a group, and one for their gradients.

Clipping, the optimizer and an all-reduce walk a few long arrays instead of many short ones. Each parameter's
`data` becomes a view of the block, and its gradient is written into the view of the other.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from ..backend.arrays import Array, get_xp
from ..backend.buffers import lasting_zeros
from ..row_gradient import RowGradient
from ..tensors import Parameter

Table = tuple[Parameter, RowGradient, int]  # with its gradient, and where it begins in the arena
ALIGNED = 16  # elements, 32 bytes of half types: kernels and tensor cores want 16 bytes at a time


class Arena:
    """data, grads: (n,) arrays holding the parameters one after another, each in its memory order.

    Each begins at a multiple of `ALIGNED` elements, with zeros before it.

    sparse: gradients are of rows, a `RowGradient` each, and `grads` is empty. work: arrays that kernels use
    on the way, made once.
    """

    def __init__(self, parameters: Sequence[Parameter], sparse: bool = False) -> None:
        self.parameters, self.sparse = list(parameters), sparse
        self.leaves = [p.leaf for p in self.parameters]
        first = self.parameters[0]
        for p in self.parameters:
            if p.dtype != first.dtype or p.device != first.device:
                raise ValueError(
                    f"the parameters of a group need one type and device: {first.dtype} on {first.device} "
                    f"and {p.dtype} on {p.device}; put them into separate groups"
                )
        xp = get_xp(first.data)
        starts = [0]
        for p in self.parameters:
            starts.append(-(-(starts[-1] + p.size) // ALIGNED) * ALIGNED)
        self.ranges = [(a, a + p.size) for a, p in zip(starts, self.parameters, strict=False)]
        self.size = self.ranges[-1][1]
        self.data = lasting_zeros(xp, self.size, first.dtype)
        self.grads = lasting_zeros(xp, 0 if sparse else self.size, first.dtype)
        self.work: dict[str, Array] = {}
        for p, (start, _) in zip(self.parameters, self.ranges, strict=True):
            self._adopt(p, start)

    def _adopt(self, p: Parameter, start: int) -> None:
        grad = p.leaf.grad
        stored = p.data.transpose(p.order)
        slot = self.data[start : start + p.size].reshape(stored.shape)
        slot[...] = stored
        p.data = p.as_seen(slot)
        grads = None if self.sparse else self.grads[start : start + p.size].reshape(stored.shape)
        p.leaf.set_buffer(None if grads is None else p.as_seen(grads))
        p.grad = grad

    def spans(self) -> Iterator[tuple[int, int]]:
        """Ranges of neighbouring parameters that have a gradient: usually one, the whole arena. None of a
        sparse one."""
        if self.sparse:
            return
        open_at: int | None = None
        for leaf, (start, _) in zip(self.leaves, self.ranges, strict=True):
            if leaf.grad is None and open_at is not None:
                yield open_at, start
                open_at = None
            elif leaf.grad is not None and open_at is None:
                open_at = start
        if open_at is not None:
            yield open_at, self.size

    def tables(self) -> Iterator[Table]:
        """(table, its gradient, where it begins) of each parameter of a sparse arena that has a gradient.
        RuntimeError where that is an array."""
        if not self.sparse:
            return
        for p, (start, _) in zip(self.parameters, self.ranges, strict=True):
            grad = p.leaf.grad
            if grad is None:
                continue
            if not isinstance(grad, RowGradient):
                raise RuntimeError(
                    f"SparseAdam takes gradients of rows, but that of the table {p.shape} is an array: use "
                    "nn.Embedding(..., sparse=True), or, where another layer uses the table too (tied "
                    'weights), put it into a group with "sparse": False'
                )
            yield p, grad, start

    def views(self, flat: Array) -> list[Array]:
        """A flat array laid out like the arena (moments, say) as one array a parameter, as users see it."""
        return [
            p.as_seen(flat[a:b].reshape([p.shape[axis] for axis in p.order]))
            for p, (a, b) in zip(self.parameters, self.ranges, strict=True)
        ]
