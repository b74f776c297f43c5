"""Operations that CuPy composes, most of them element by element: one launch each."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

import numpy as np

from ..backend.half import is_half
from .measure import LONG, Cost, Pass, Spec, add_up, both, launch

# Forward and backward: launches, and how many arrays like x they move together.
ELEMENTWISE = {
    "absolute": (1, 2, 2, 5),
    "exp": (1, 2, 1, 3),
    "gelu": (1, 2, 1, 3),
    "log": (1, 2, 1, 3),
    "relu": (1, 2, 1, 3),
    "sigmoid": (4, 8, 3, 8),
    "sqrt": (1, 2, 2, 5),
    "tanh": (1, 2, 3, 8),
}


def elementwise(counts: tuple[int, int, int, int], x: Spec, **_: Any) -> Cost:
    launches, arrays, more_launches, more_arrays = counts
    backward = Pass(more_launches, more_arrays * x.nbytes, x.size) if x.needs_grad else Pass()
    return Cost(Pass(launches, arrays * x.nbytes, x.size), backward)


def power(x: Spec, exponent: float) -> Cost:
    """x² is a product x x, whose backward makes 2 x; other powers n x^(n-1) in two launches."""
    square = exponent == 2
    backward = [launch(2 * x.nbytes)] * (1 if square else 2) + [launch(3 * x.nbytes)]
    forward = launch(3 * x.nbytes if square else 2 * x.nbytes, flops=x.size)
    return Cost(forward, both(backward, x.size) if x.needs_grad else Pass())


def binary(name: str, a: Any, b: Any) -> Cost:
    """a and b: arrays, of which one may repeat, or numbers."""
    a, b = (x if isinstance(x, Spec) else None for x in (a, b))
    arrays = [x for x in (a, b) if x is not None]
    y = arrays[0].like(*np.broadcast_shapes(*(x.shape for x in arrays)))
    found, flops = Pass(), 0
    for x, other in ((a, b), (b, a)):
        if x is None or not x.needs_grad:
            continue
        flops += x.size
        if name == "multiply":
            found += launch(y, other, y)
        elif name == "divide":
            found += _through_quotient(x is a, x, y, b)
        found += _unbroadcast(y, x)
        if name == "subtract" and x is b:
            found += launch(2 * x.nbytes)
    if name == "divide" and b is not None and b.needs_grad and not (a is not None and a.needs_grad):
        found += launch(y, b, y)  # dy / b is made in any case
    return Cost(launch(a, b, y, flops=y.size), both([found], flops))


def _through_quotient(above: bool, x: Spec, y: Spec, b: Spec | None) -> Pass:
    return launch(y, b, y) if above else launch(2 * y.nbytes) + launch(3 * y.nbytes)


def _unbroadcast(y: Spec, x: Spec) -> Pass:
    """The sums over the axes along which x was repeated."""
    if x.shape == y.shape:
        return Pass()
    middle = y.like(*y.shape[y.ndim - x.ndim :])
    again = any(n == 1 and m != 1 for n, m in zip(x.shape, middle.shape, strict=True))
    return add_up(y, middle) + (add_up(middle, x) if again else Pass())


def _reduced(x: Spec, axis: Any, keepdims: bool = False) -> Spec:
    axes = range(x.ndim) if axis is None else [a % x.ndim for a in np.atleast_1d(axis)]
    return x.like(*(1 if i in axes else n for i, n in enumerate(x.shape) if keepdims or i not in axes))


def total(x: Spec, axis: Any = None, keepdims: bool = False) -> Cost:
    """Backward repeats dy without copying it."""
    backward = Pass(0, 0, x.size) if x.needs_grad else Pass()
    return Cost(both([add_up(x, _reduced(x, axis))], x.size), backward)


def mean(x: Spec, axis: Any = None, keepdims: bool = False) -> Cost:
    y = _reduced(x, axis)
    wide, of_wide = x.sums(*x.shape), y.sums(*y.shape)
    forward = launch(x, y)
    if is_half(x.dtype):
        forward = launch(x, wide) + launch(wide, of_wide) + launch(of_wide, y)
    return Cost(both([forward], x.size), launch(y, y, flops=x.size) if x.needs_grad else Pass())


def maximum(x: Spec, axis: Any = None, keepdims: bool = False) -> Cost:
    """Backward: where x is its largest, how many of them there are, and dy shared among them."""
    y = _reduced(x, axis)
    hit, count = x.like(*x.shape, dtype=bool), y.like(*y.shape, dtype=LONG)
    backward = both(
        [launch(x, y, hit), launch(hit, count), launch(count, y), launch(y, y, y), launch(hit, y, x)], x.size
    )
    return Cost(launch(x, y, flops=x.size), backward if x.needs_grad else Pass())


def softmax(x: Spec, axis: int = -1) -> Cost:
    y = _reduced(x, axis)
    forward = [launch(x, y), launch(x, y, x), launch(x, x), add_up(x, y), launch(x, y, x)]
    backward = [launch(x, x, x), add_up(x, y), launch(x, y, x), launch(x, x, x)]
    return Cost(both(forward, x.size), both(backward, x.size) if x.needs_grad else Pass())


def log_softmax(x: Spec, axis: int = -1) -> Cost:
    y = _reduced(x, axis)
    forward = [launch(x, y), launch(x, y, x), launch(x, x), add_up(x, y), launch(y, y), launch(x, y, x)]
    backward = [launch(x, x), add_up(x, y), launch(x, y, x), launch(x, x, x)]
    return Cost(both(forward, x.size), both(backward, x.size) if x.needs_grad else Pass())


def view(x: Spec, *_: Any) -> Cost:
    """Another look at the same memory."""
    return Cost(Pass(), Pass(0, 0, x.size) if x.needs_grad else Pass())


def joined(tensors: Sequence[Spec], axis: int = 0) -> Cost:
    """Backward cuts without copying."""
    size = sum(x.nbytes for x in tensors)
    wanted = sum(x.size for x in tensors if x.needs_grad)
    return Cost(launch(2 * size, flops=sum(x.size for x in tensors)), Pass(0, 0, wanted))


def split_heads(x: Spec, heads: int, parts: int = 1, mask: None = None) -> Cost:
    """One copy in the order of heads; backward each part's gradient is put into its place."""
    _whole(mask)
    moved = launch(2 * x.nbytes // parts).times(parts)
    return Cost(launch(x, x, flops=x.size), both([moved], x.size) if x.needs_grad else Pass())


def join_heads(x: Spec, mask: None = None) -> Cost:
    """A copy in another order; backward another look at dy."""
    _whole(mask)
    return Cost(launch(x, x, flops=x.size), Pass(0, 0, x.size) if x.needs_grad else Pass())


def _whole(mask: None) -> None:
    if mask is not None:
        raise ValueError("the cost of packed rows hangs on the mask; it is known of whole batches")


def cast(x: Spec, dtype: Any) -> Cost:
    y = x.like(*x.shape, dtype=dtype)
    if y.dtype == x.dtype:
        return Cost(Pass())
    one = launch(x, y, flops=x.size)
    return Cost(one, one if x.needs_grad else Pass())


def glu(x: Spec) -> Cost:
    """σ of one half in four launches, then the product; backward four."""
    half = x.nbytes // 2
    forward = Pass(5, 11 * half, math.prod(x.shape) // 2)
    return Cost(forward, Pass(4, 11 * half, x.size) if x.needs_grad else Pass())


FORMULAS: dict[str, Callable[..., Cost]] = {
    **{name: partial(elementwise, counts) for name, counts in ELEMENTWISE.items()},
    **{name: partial(binary, name) for name in ("add", "subtract", "multiply", "divide")},
    **dict.fromkeys(("reshape", "transpose", "swapaxes"), view),
    **dict.fromkeys(("concatenate", "stack"), joined),
    "cast": cast,
    "glu": glu,
    "join_heads": join_heads,
    "log_softmax": log_softmax,
    "max": maximum,
    "mean": mean,
    "power": power,
    "softmax": softmax,
    "split_heads": split_heads,
    "sum": total,
}
