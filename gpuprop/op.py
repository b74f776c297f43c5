"""Op: one differentiable operation, forward and backward on plain arrays."""

from __future__ import annotations

from typing import Any

from .backprop import Context, Edge, Node, recording
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
        edges: list[Edge | None] = []
        arrays, needs = [], []
        for x in inputs:  # one loop: this is what every operation pays
            if isinstance(x, Tensor):
                arrays.append(x.data)
                edge = x.edge
                edges.append(edge)
                needs.append(edge is not None)
            else:
                arrays.append(x)
                edges.append(None)
                needs.append(False)
        if True not in needs or not (record := recording()):
            result = cls.forward(Context((False,) * len(edges)), *arrays, **static)
            return tuple(Tensor(y) for y in result) if isinstance(result, tuple) else Tensor(result)
        ctx = Context(tuple(needs), tuple(edges))
        result = cls.forward(ctx, *arrays, **static)
        outputs = result if isinstance(result, tuple) else (result,)
        node = Node(cls, ctx, len(outputs))
        if record is not True:
            record.recorded(node, outputs, static)
        if outputs is result:
            return tuple(Tensor(y, (node, i)) for i, y in enumerate(outputs))
        return Tensor(result, (node, 0))
