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
from collections.abc import Callable, Iterator, Sequence
from typing import Any, ClassVar

import numpy as np

from .backend.arrays import Array, asarray, device_of, get_xp, to_device, to_host
from .backend.device import Device, get_device, resolve
from .backend.floats import flushed
from .tensor_methods import TensorMethods

_creation = itertools.count(1)
_recording: contextvars.ContextVar[bool] = contextvars.ContextVar("gpuprop_recording", default=True)


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
    return _recording.get()


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
        self.grad: Array | None = None
        self.buffer: Array | None = None
        self.rows: Array | None = None
        self.seen = False

    def set_buffer(self, buffer: Array | None) -> None:
        """Other memory for the gradient; the gradient itself is forgotten."""
        self.buffer, self.grad, self.rows, self.seen = buffer, None, None, False

    def accumulate(self, grad: Array) -> None:
        if grad is self.buffer:  # written through `Context.destination`
            self.grad = grad
            return
        if self.buffer is not None:
            self.rows = None
            if self.grad is None:
                self.buffer[...] = grad
                self.grad = self.buffer
            else:
                self.buffer += grad
        else:  # a gradient may be shared with other edges: never changed in place
            self.grad = grad if self.grad is None else self.grad + grad


class Node:
    """One recorded operation: the gradients of its outputs so far, and where its inputs came from."""

    __slots__ = ("ctx", "edges", "grads", "index", "op")

    def __init__(self, op: type[Op], ctx: Context, edges: tuple[Edge | None, ...], outputs: int) -> None:
        self.op = op
        self.ctx: Context | None = ctx
        self.edges = edges
        self.index = next(_creation)
        self.grads: list[Array | None] = [None] * outputs

    def accumulate(self, output: int, grad: Array) -> None:
        before = self.grads[output]
        self.grads[output] = grad if before is None else before + grad

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
        for edge, grad in zip(self.edges, grads, strict=True):
            if edge is None or grad is None:
                continue
            target, output = edge
            if isinstance(target, Leaf):
                if tuple(grad.shape) != target.shape:
                    raise RuntimeError(
                        f"{self.op.__name__}.backward returned a gradient of shape {tuple(grad.shape)} "
                        f"for an input of shape {target.shape}"
                    )
                target.accumulate(grad)
            else:
                target.accumulate(output, grad)


Edge = tuple["Node | Leaf", int]


class Tensor(TensorMethods):
    """An array with a place on the tape.

    data: a NumPy or CuPy array; grad: an array of the same shape after `backward`, or None.
    Arithmetic, reductions and shapes are methods as in NumPy; see `gpuprop.ops`.
    """

    __slots__ = ("__weakref__", "_checks", "_leaf", "data", "edge")
    __array_ufunc__ = None  # NumPy arrays on the left hand the operator over to us

    def __init__(self, data: Array, edge: Edge | None = None) -> None:
        self.data = data
        self.edge = edge
        self._leaf: Leaf | None = None
        self._checks: tuple[Callable[[], None], ...] = ()

    @property
    def shape(self) -> tuple[int, ...]:
        return tuple(self.data.shape)

    @property
    def ndim(self) -> int:
        return int(self.data.ndim)

    @property
    def size(self) -> int:
        return int(self.data.size)

    @property
    def dtype(self) -> Any:
        return self.data.dtype

    @property
    def device(self) -> Device:
        return device_of(self.data)

    @property
    def requires_grad(self) -> bool:
        return self.edge is not None

    @requires_grad.setter
    def requires_grad(self, wanted: bool) -> None:
        if wanted and self.edge is None:
            if self.data.dtype.kind != "f" and str(self.data.dtype) != "bfloat16":
                raise TypeError(f"only floating-point tensors have gradients, not {self.data.dtype}")
            if self._leaf is None:
                self._leaf = Leaf(self.shape, self.data.dtype)
            self.edge = (self._leaf, 0)
        elif not wanted and self.edge is not None:
            if self._leaf is None:
                raise RuntimeError("a computed tensor cannot stop requiring its gradient: use detach()")
            self._leaf.grad = self.edge = None  # the leaf stays, and with it the optimizer's memory for it

    @property
    def grad(self) -> Array | None:
        if self._leaf is None or self._leaf.grad is None:
            return None
        self._leaf.seen = True
        return self._leaf.grad

    @grad.setter
    def grad(self, value: Array | None) -> None:
        if self._leaf is None:
            raise RuntimeError("only leaves (parameters, tensors with requires_grad=True) keep a gradient")
        self._leaf.grad = None
        if value is not None:
            self._leaf.accumulate(value)

    def add_check(self, check: Callable[[], None]) -> Tensor:
        """Run `check` when the value is next read by the host (labels out of range on a GPU, say), so that
        no step has to wait for the device. Returns self."""
        self._checks = (*self._checks, check)
        return self

    def numpy(self) -> np.ndarray[Any, Any]:
        """The value on the host (no copy where it already is there). Waits for the device."""
        host = to_host(self.data)
        checks, self._checks = self._checks, ()
        for check in checks:
            check()
        return host

    def item(self) -> Any:
        """The value of a tensor of one element as a Python number. Waits for the device."""
        return self.numpy().item()

    def detach(self) -> Tensor:
        """The same data without the tape."""
        return Tensor(self.data)

    def to(self, device: str | Device) -> Tensor:
        """A copy on another device (self when already there). The copy is a leaf without gradient."""
        data = to_device(self.data, resolve(device))
        return self if data is self.data else Tensor(data)

    def backward(self, grad: Array | None = None) -> None:
        """Add dL/dx to the `grad` of every leaf x that this tensor was computed from.

        grad: dL/d(self), of this tensor's shape; one for a tensor of one element.
        """
        if self.edge is None:
            raise RuntimeError("nothing to differentiate: no input of this tensor requires a gradient")
        if grad is None:
            if self.size != 1:
                raise RuntimeError(f"backward() of a tensor of shape {self.shape} needs a grad of that shape")
            grad = get_xp(self.data).ones_like(self.data)
        elif isinstance(grad, Tensor):
            grad = grad.data
        if tuple(grad.shape) != self.shape:
            raise RuntimeError(
                f"backward() got a grad of shape {tuple(grad.shape)} for a tensor of shape {self.shape}"
            )
        root, output = self.edge
        if isinstance(root, Leaf):
            root.accumulate(grad)
            return
        root.accumulate(output, grad)
        with flushed():
            for node in _newest_first(root):
                node.run_backward()

    def __len__(self) -> int:
        return int(self.data.shape[0])

    def __bool__(self) -> bool:
        return bool(self.numpy())

    def __float__(self) -> float:
        return float(self.item())

    def __int__(self) -> int:
        return int(self.item())

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray[Any, Any]:
        return np.asarray(self.numpy(), dtype=dtype)

    def __dlpack__(self, **options: Any) -> Any:
        return self.data.__dlpack__(**options)

    def __dlpack_device__(self) -> Any:
        return self.data.__dlpack_device__()

    def __repr__(self) -> str:
        body = np.array2string(to_host(self.data), precision=4, threshold=20, separator=", ")
        grad = ", requires_grad=True" if self.requires_grad else ""
        return f"Tensor({body}, dtype={self.dtype}, device='{self.device}'{grad})"


class Parameter(Tensor):
    """A leaf that is trained.

    order: the memory order of the axes when it differs from what users see. `Linear.weight` is shown as
    (out, in) and kept as (in, out) with order (1, 0), because that product is faster on both devices.
    """

    __slots__ = ("order",)

    def __init__(self, data: Array, order: tuple[int, ...] | None = None) -> None:
        super().__init__(data)
        self.order = order if order is not None else tuple(range(data.ndim))
        self.requires_grad = True
        self.data = self.in_memory_order(data)

    @property
    def leaf(self) -> Leaf:
        assert self._leaf is not None
        return self._leaf

    def in_memory_order(self, values: Array) -> Array:
        """`values` (shape as users see it) laid out in this parameter's memory order."""
        xp = get_xp(values)
        return self.as_seen(xp.ascontiguousarray(values.transpose(self.order)))

    def as_seen(self, stored: Array) -> Array:
        """A view, shaped as users see it, of memory in this parameter's order."""
        inverse = sorted(range(len(self.order)), key=self.order.__getitem__)
        return stored.transpose(inverse)

    def __repr__(self) -> str:
        return f"Parameter(shape={self.shape}, dtype={self.dtype}, device='{self.device}')"


class Op:
    """One differentiable operation. Subclass it with two static methods on plain arrays:

        forward(ctx, *arrays, **static)   the value (an array, or a tuple of arrays)
        backward(ctx, *dy)                one gradient per input; None where there is none

    `ctx.save(...)` keeps what backward needs. A gradient that was returned is never changed in place.
    """

    @staticmethod
    def forward(ctx: Context, *arrays: Any, **static: Any) -> Any:
        raise NotImplementedError("an Op needs a forward")

    @staticmethod
    def backward(ctx: Context, *dy: Any) -> Any:
        raise NotImplementedError("an Op needs a backward")

    @classmethod
    def apply(cls, *inputs: Any, **static: Any) -> Any:
        """Run forward on the inputs (tensors, arrays, numbers or None) and record a node for backward."""
        edges = tuple([x.edge if isinstance(x, Tensor) else None for x in inputs])
        arrays = [x.data if isinstance(x, Tensor) else x for x in inputs]
        needs_grad = tuple([e is not None for e in edges])
        record = True in needs_grad and _recording.get()
        ctx = Context(needs_grad if record else (False,) * len(edges), edges)
        result = cls.forward(ctx, *arrays, **static)
        if not isinstance(result, tuple):
            return Tensor(result, (Node(cls, ctx, edges, 1), 0) if record else None)
        node = Node(cls, ctx, edges, len(result)) if record else None
        return tuple(Tensor(y, None if node is None else (node, i)) for i, y in enumerate(result))


def _newest_first(root: Node) -> list[Node]:
    """Every node the root was computed from. A node is younger than its inputs, so descending creation
    order visits each one after all its users; collected with a stack, since recursion overflows on long
    recurrent nets."""
    seen = {root}
    stack = [root]
    while stack:
        for edge in stack.pop().edges:
            if edge is not None and isinstance(edge[0], Node) and edge[0] not in seen:
                seen.add(edge[0])
                stack.append(edge[0])
    return sorted(seen, key=lambda node: node.index, reverse=True)


def tensor(
    data: Any, *, requires_grad: bool = False, dtype: Any = None, device: str | Device | None = None
) -> Tensor:
    """A tensor on `device` (default: the current one) from an array, a DLPack object, a number or a list.

    Arrays keep their type; Python floats become float32 and Python integers int64. The data of an array
    that is already on the device is shared, not copied.
    """
    if isinstance(data, Tensor):
        data = data.data
    array = asarray(data)
    if dtype is None and array.dtype == np.float64 and not hasattr(data, "dtype"):
        dtype = np.float32
    if dtype is not None:
        array = array.astype(dtype, copy=False)
    array = to_device(array, resolve(device) if device is not None else get_device())
    result = Tensor(array)
    if requires_grad:
        result.requires_grad = True
    return result


def arrays_of(values: Sequence[Any]) -> list[Array]:
    """The plain arrays behind tensors; anything else unchanged."""
    return [v.data if isinstance(v, Tensor) else v for v in values]
