"""Op: one differentiable operation, forward and backward on plain arrays."""

from __future__ import annotations

from typing import Any

from .backprop import Context, Node, recording
from .tensors import Tensor


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
        record = True in needs_grad and recording()
        ctx = Context(needs_grad if record else (False,) * len(edges), edges)
        result = cls.forward(ctx, *arrays, **static)
        if not record:
            return Tensor(result) if not isinstance(result, tuple) else tuple(Tensor(y) for y in result)
        outputs = result if isinstance(result, tuple) else (result,)
        node = Node(cls, ctx, edges, len(outputs))
        if record is not True:
            record.recorded(node, outputs, static)
        if outputs is not result:
            return Tensor(result, (node, 0))
        return tuple(Tensor(y, (node, i)) for i, y in enumerate(outputs))
