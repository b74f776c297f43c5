"""`gp.cost`: what an operation costs on a GPU."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from . import (
    convolutions,
    feed_forward,
    layers,
    losses,
    optimizers,
    recurrent,
    rows,
    sequences,
    simple,
    windows,
)
from .measure import LONG, Cost, Spec
from .shapes import fit

FORMULAS: dict[str, Callable[..., Cost]] = {
    **simple.FORMULAS,
    **layers.FORMULAS,
    **feed_forward.FORMULAS,
    **losses.FORMULAS,
    **sequences.FORMULAS,
    **windows.FORMULAS,
    **rows.FORMULAS,
    **convolutions.FORMULAS,
    **recurrent.FORMULAS,
    **optimizers.FORMULAS,
}


def cost(op: Any, *inputs: Any, dtype: Any = "float32", **options: Any) -> Cost:
    """Launches, bytes and FLOPs of `op` on a GPU, forward and backward, from shapes and types alone: nothing
    is computed, and no GPU is needed.

        gp.cost(ops.linear, (64, 300), (100, 300), (100,), activation="relu")
        gp.cost("softmax_cross_entropy", (8192, 131072), (8192,), dtype="bfloat16")
        gp.cost(optim.AdamW, (1_000_000,), clip=True)
        gp.cost(optim.SparseAdam, (100_000, 256), (64, 128))
        gp.cost(ops.pack, (64, 128, 256), (64, 128), rows=5000)

    op: a function of gp.ops, or its name; or Adam, AdamW or SparseAdam (a table and its ids), whose step is
    the forward pass here. inputs: as op takes them, each a shape, of type `dtype` and with a gradient (ids,
    targets and masks: of their own types, without); or an array or a tensor, of its type, with a gradient if
    it requires one; None for one that is left out; an index of `getitem` in NumPy's form, where a shape is
    that of an array of numbers. options: as op takes them; and `rows`, the number of real tokens, for `pack`,
    `unpack`, `packing_of` and `pack_labels`: without it they cost what they do in a captured step.

    Dense, contiguous inputs are supposed, a gradient of ones for the backward pass, and the epilogues of
    cublasLt, which float64 does without. Raises ValueError for an operation whose cost is not known or
    hangs on values (an index of bools), and ShapeError for inputs whose shapes do not fit each other.
    """
    name = op if isinstance(op, str) else getattr(op, "__name__", repr(op))
    if name not in FORMULAS:
        raise ValueError(f"the cost of {name} is not known; of these it is: {', '.join(sorted(FORMULAS))}")
    try:
        kind, given = np_dtype(dtype), {k: _option(v) for k, v in options.items()}
        specs = [_spec(x, kind) for x in inputs]
        fit(name, specs)
        return FORMULAS[name](*specs, **given)
    except (AttributeError, TypeError) as error:
        raise TypeError(
            f"gp.cost of {name} takes a shape, such as (64, 300), or an array for each input of the "
            f"operation, and options by name; not {inputs!r:.200} and {dict(options, dtype=dtype)!r:.200} "
            f"({error})"
        ) from error


def np_dtype(dtype: Any) -> Any:
    """The NumPy type, bfloat16 too where ml_dtypes is installed."""
    if isinstance(dtype, str) and dtype == "bfloat16":
        import ml_dtypes

        return np.dtype(ml_dtypes.bfloat16)
    return np.dtype(dtype)


def _spec(x: Any, dtype: Any) -> Any:
    """A shape or an array as a Spec; a list of them as a list; numbers and None as they are."""
    if isinstance(x, (list, tuple)) and x != [] and all(isinstance(n, int) for n in x):
        return Spec(tuple(x), dtype, True)
    if isinstance(x, (list, tuple)):
        return [_spec(part, dtype) for part in x]
    if hasattr(x, "shape") and hasattr(x, "dtype"):
        return Spec(tuple(x.shape), np.dtype(x.dtype), bool(getattr(x, "requires_grad", False)))
    return x


def _option(x: Any) -> Any:
    """An array among the options counts with its shape."""
    return _spec(x, LONG) if hasattr(x, "shape") and hasattr(x, "dtype") else x
