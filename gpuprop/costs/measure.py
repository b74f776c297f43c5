"""What is counted: launches, bytes and floating-point operations."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from ..backend.half import is_half
from ..backprop import Context
from ..flops import Shape, amount, backward_flops

LONG, INT = np.dtype(np.int64), np.dtype(np.int32)


@dataclass(frozen=True)
class Spec:
    """What is known of an array: its shape and type, and whether its gradient is wanted."""

    shape: Shape
    dtype: Any
    needs_grad: bool = False

    @property
    def ndim(self) -> int:
        return len(self.shape)

    @property
    def size(self) -> int:
        return math.prod(self.shape)

    @property
    def nbytes(self) -> int:
        return self.size * int(self.dtype.itemsize)

    def __len__(self) -> int:
        return self.shape[0]

    def like(self, *shape: int, dtype: Any = None) -> Spec:
        """Of another shape, without a gradient."""
        return Spec(shape, self.dtype if dtype is None else np.dtype(dtype))

    def rows(self) -> Spec:
        """(..., C) as (N, C)."""
        return replace(self, shape=(math.prod(self.shape[:-1]), self.shape[-1]))

    def sums(self, *shape: int) -> Spec:
        """In the type that sums are kept in: float64 for float64, else float32."""
        return self.like(*shape, dtype=np.float64 if self.dtype == np.float64 else np.float32)


@dataclass(frozen=True)
class Pass:
    """launches: of kernels, by us or by a library. bytes: of the arrays that each launch reads or writes,
    twice of one that it reads and writes; numbers and flags do not count. flops: 2 M K N for each product of
    (M, K) and (K, N); operations without products count one an element of the result, forward, and of the
    gradients, backward (`gpuprop.flops`)."""

    launches: int = 0
    bytes: int = 0
    flops: int = 0

    def __add__(self, other: Pass) -> Pass:
        return Pass(self.launches + other.launches, self.bytes + other.bytes, self.flops + other.flops)

    def times(self, n: int) -> Pass:
        return Pass(self.launches * n, self.bytes * n, self.flops * n)


@dataclass(frozen=True)
class Cost:
    """Of an operation on a GPU: its forward and its backward pass."""

    forward: Pass
    backward: Pass = Pass()

    @property
    def total(self) -> Pass:
        """Of both together."""
        return self.forward + self.backward

    def __repr__(self) -> str:
        lines = [f"{'':8}  {'launches':>8}  {'bytes':>10}  {'FLOPs':>8}"]
        for name in ("forward", "backward", "total"):
            part = getattr(self, name)
            numbers = f"{amount(part.bytes, 1024, 'B'):>10}  {amount(part.flops, 1000, ''):>8}"
            lines.append(f"{name:8}  {part.launches:8}  {numbers}")
        return "\n".join(lines)


def launch(*arrays: Spec | int | None, flops: int = 0) -> Pass:
    """One launch that moves these arrays, or so many bytes."""
    return Pass(1, sum(a if isinstance(a, int) else a.nbytes for a in arrays if a is not None), flops)


def add_up(x: Spec, y: Spec) -> Pass:
    """Σ x into y; half types are added up in float32, then rounded."""
    if not is_half(x.dtype):
        return launch(x, y)
    wide = y.sums(*y.shape)
    return launch(x, wide) + launch(wide, y)


def both(passes: Iterable[Pass], flops: int = 0) -> Pass:
    """The passes one after the other, and more floating-point operations."""
    found = Pass(0, 0, flops)
    for part in passes:
        found += part
    return found


def gradient_flops(op: Any, saved: Sequence[Any], y: Spec, *inputs: Spec | None) -> int:
    """Of the backward pass of `op`, as `gp.explain` counts them, from what it saves and its inputs."""
    needs = tuple(x is not None and x.needs_grad for x in inputs)
    ctx = Context(needs)
    ctx.save(*saved)
    wanted = [x.shape if x is not None and x.needs_grad else None for x in inputs]
    return backward_flops(op, ctx, [y.shape], wanted)
