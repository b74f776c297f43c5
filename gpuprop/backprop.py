"""Backpropagation: a tape of explicit operations.

An operation is a class with `forward` and `backward` on plain arrays. Applying it to tensors records a
node; `Tensor.backward` visits the nodes newest first and hands each gradient on, which is the chain rule
    dL/dx = Σ_y  dL/dy · dy/dx      over every y that was computed from x
(Griewank and Walther 2008, Evaluating Derivatives, ch. 3: reverse mode).

Edges point at nodes and leaves, never at activations, and a node forgets what it saved as soon as the walk
has passed it, so memory falls while the gradient flows back.
"""

from __future__ import annotations

import contextlib
import contextvars
import itertools
import operator
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from typing import Any, ClassVar

from .backend.arrays import Array
from .backend.buffers import plus
from .backend.floats import flushed
from .backend.half import is_half
from .backend.recording import again
from .row_gradient import RowGradient

_creation = itertools.count(1)
_index = operator.attrgetter("index")
_recording: contextvars.ContextVar[bool | Watcher] = contextvars.ContextVar("gpuprop_recording", default=True)


class Watcher:
    """Sees each operation as it is recorded, and each node as the gradient passes it; see `watching`."""

    def recorded(self, node: Node, outputs: tuple[Any, ...], static: Mapping[str, Any]) -> None:
        """An operation was recorded as `node`: `outputs` are its arrays, `static` its keyword arguments."""

    def starting(self, nodes: Sequence[Node]) -> None:
        """A backward pass begins, over these nodes in this order."""

    def passing(self, node: Node) -> None:
        """All gradients of the node's outputs are there: hand them on with `node.run_backward()`."""
        node.run_backward()


@contextlib.contextmanager
def watching(watcher: Watcher) -> Iterator[None]:
    """Inside, `watcher` sees what is recorded and what flows back. Costs nothing outside."""
    token = _recording.set(watcher)
    try:
        yield
    finally:
        _recording.reset(token)


@contextlib.contextmanager
def no_grad() -> Iterator[None]:
    """Operations inside record nothing; use it for evaluation and for updates of parameters."""
    token = _recording.set(False)
    try:
        yield
    finally:
        _recording.reset(token)


def is_grad_enabled() -> bool:
    """False inside `no_grad`."""
    return _recording.get() is not False


recording = _recording.get  # whether operations are recorded, or who watches them


class Context:
    """What one operation's forward keeps for its backward.

    needs_grad[i] tells whether input i wants a gradient, so that backward can skip work.
    """

    __slots__ = ("edges", "needs_grad", "saved")

    def __init__(self, needs_grad: tuple[bool, ...], edges: tuple[Edge | None, ...] = ()) -> None:
        self.needs_grad = needs_grad
        self.edges = edges
        self.saved: tuple[Any, ...] = ()

    def save(self, *values: Any) -> None:
        self.saved = values

    def leaf(self, i: int) -> Leaf | None:
        """The leaf behind input i when this operation's gradient is the first to be written into its buffer
        (the optimizer's block of gradients); else None."""
        leaf = self.edges[i][0] if self.edges and self.edges[i] is not None else None  # type: ignore[index]
        if not isinstance(leaf, Leaf) or leaf.buffer is None or leaf.grad is not None:
            return None
        return leaf if sum(e is not None and e[0] is leaf for e in self.edges) == 1 else None

    def destination(self, i: int) -> Array | None:
        """Memory for the gradient of input i, of its shape, to be overwritten and returned by backward; None
        when backward has to make its own. Saves a copy of each parameter's gradient."""
        leaf = self.leaf(i)
        if leaf is None:
            return None
        leaf.rows = None
        return leaf.buffer


class Leaf:
    """The end of the tape: where a gradient is kept. `buffer`, when set, is memory for it (a view of the
    optimizer's flat arena); the first gradient overwrites it, further ones are added.

    rows: of a buffer that an embedding wrote, the rows that are not zero, so that the next one clears only
    those; None when unknown. seen: the user got hold of the buffer and may write to it at any time.
    """

    __slots__ = ("buffer", "dtype", "grad", "rows", "seen", "shape")
    index: ClassVar[int] = 0

    def __init__(self, shape: tuple[int, ...], dtype: Any) -> None:
        self.shape, self.dtype = shape, dtype
        self.grad: Array | RowGradient | None = None
        self.buffer: Array | None = None
        self.rows: Array | None = None
        self.seen = False

    def set_buffer(self, buffer: Array | None) -> None:
        """Other memory for the gradient; the gradient itself is forgotten."""
        self.buffer, self.grad, self.rows, self.seen = buffer, None, None, False

    def accumulate(self, grad: Array | RowGradient) -> None:
        if grad is self.buffer:  # written through `Context.destination`
            self.grad = grad
            return
        if isinstance(grad, RowGradient) or isinstance(self.grad, RowGradient):
            self._accumulate_rows(grad)
        elif self.buffer is not None:
            self.rows = None
            if self.grad is None:
                self.buffer[...] = grad
                self.grad = self.buffer
            else:
                self.buffer += grad
        else:  # a gradient may be shared with other edges: never changed in place
            grad = grad.astype(self.dtype, copy=False) if is_half(self.dtype) else grad
            self.grad = grad if self.grad is None else plus(self.grad, grad)

    def _accumulate_rows(self, grad: Array | RowGradient) -> None:
        """Rows stay rows as long as nothing else comes, and where no optimizer has memory for the whole."""
        if self.buffer is not None and isinstance(grad, RowGradient):
            self.accumulate(grad.to_dense())
        else:
            before, grad = self.grad, grad.astype(self.dtype)
            if before is not None:
                grad = before + grad if isinstance(before, RowGradient) else grad + before
            self.keep(grad)

    def keep(self, grad: Array | RowGradient) -> None:
        """Take what is no buffer for the gradient; where the step is captured, after each replay again."""
        self.grad = grad
        again(partial(setattr, self, "grad", grad))


class Node:
    """One recorded operation: the gradients of its outputs so far, and where its inputs came from."""

    __slots__ = ("ctx", "edges", "grads", "index", "op")

    def __init__(self, op: Any, ctx: Context, outputs: int) -> None:
        self.op = op
        self.ctx: Context | None = ctx
        self.edges = ctx.edges
        self.index = next(_creation)
        self.grads: list[Array | None] = [None] * outputs

    def accumulate(self, output: int, grad: Array) -> None:
        before = self.grads[output]
        self.grads[output] = grad if before is None else plus(before, grad)

    def run_backward(self) -> None:
        if self.ctx is None:
            raise RuntimeError(
                f"backward through {self.op.__name__} a second time: what it saved was freed by the first "
                "backward; run forward again, or add the losses before one backward"
            )
        grads = self.op.backward(self.ctx, *self.grads)
        self.ctx, self.grads = None, [None] * len(self.grads)
        if not isinstance(grads, tuple):
            grads = (grads,)
        if len(grads) != len(self.edges):
            raise RuntimeError(
                f"{self.op.__name__}.backward returned {len(grads)} gradients for {len(self.edges)} inputs"
            )
        for edge, grad in zip(self.edges, grads):  # noqa: B905  (counted above; strict costs every operation)
            if edge is None or grad is None:
                continue
            target, output = edge
            if isinstance(target, Node):
                before = target.grads[output]
                target.grads[output] = grad if before is None else plus(before, grad)
            elif tuple(grad.shape) == target.shape:
                target.accumulate(grad)
            else:
                raise RuntimeError(
                    f"{self.op.__name__}.backward returned a gradient of shape {tuple(grad.shape)} "
                    f"for an input of shape {target.shape}"
                )


Edge = tuple["Node | Leaf", int]


def backward_from(edge: Edge, grad: Array) -> None:
    """Hand dL/d(what the edge points at) back to every leaf it was computed from."""
    root, output = edge
    if isinstance(root, Leaf):
        root.accumulate(grad)
        return
    root.accumulate(output, grad)
    watcher = _recording.get()
    visit = Node.run_backward if isinstance(watcher, bool) else watcher.passing
    nodes = _newest_first(root)
    if not isinstance(watcher, bool):
        watcher.starting(nodes)
    with flushed():
        for node in nodes:
            visit(node)


def _newest_first(root: Node) -> list[Node]:
    """Every node the root was computed from. A node is younger than its inputs, so descending creation
    order visits each one after all its users; collected with a stack, since recursion overflows on long
    recurrent nets."""
    seen = {root}
    stack = [root]
    while stack:
        for edge in stack.pop().edges:
            if edge is not None and (node := edge[0]) not in seen and isinstance(node, Node):
                seen.add(node)
                stack.append(node)
    return sorted(seen, key=_index, reverse=True)
