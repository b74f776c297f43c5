"""Clipping of gradients."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import numpy as np

from ..backend.arrays import Array, get_xp
from ..row_gradient import RowGradient
from ..tensors import Parameter, Tensor
from .norm import squares


def clip_grad_norm_(parameters: Iterable[Parameter], max_norm: float) -> Tensor:
    """Scale all gradients so that their joint 2-norm is at most max_norm (Pascanu et al. 2013, algorithm 1).

    Returns the norm before clipping, as a tensor: reading it is what waits for a GPU.
    """
    check_max_norm(max_norm)
    with_grad = [p for p in parameters if p.leaf.grad is not None]
    if not with_grad:
        return Tensor(np.zeros((), np.float32))
    norm = get_xp(*(p.data for p in with_grad)).sqrt(sum(squares(p) for p in with_grad))
    scale_gradients(with_grad, norm, max_norm)
    return Tensor(norm)


def scale_gradients(parameters: Iterable[Parameter], norm: Array, max_norm: float) -> None:
    """Scale gradients whose joint 2-norm is `norm`, so that it is at most max_norm."""
    xp = np if isinstance(norm, np.generic) else get_xp(norm)
    scale = xp.minimum(max_norm / (norm + 1e-6), 1.0)
    if xp is not np or scale != 1.0:
        for p in parameters:
            if p.leaf.grad is not None:
                _replace(p, lambda g, out: xp.multiply(g, scale.astype(g.dtype), out=out))


def check_max_norm(max_norm: float) -> None:
    """ValueError unless it is above 0."""
    if not max_norm > 0:
        raise ValueError(f"max_norm must be above 0, not {max_norm!r}")


def clip_grad_value_(parameters: Iterable[Parameter], clip_value: float) -> None:
    """Limit each element of each gradient to [-clip_value, clip_value]. One of rows waits for a GPU."""
    if not clip_value > 0:
        raise ValueError(f"clip_value must be above 0, not {clip_value!r}")
    for p in parameters:
        if isinstance(p.leaf.grad, RowGradient):
            p.leaf.grad = p.leaf.grad.coalesce()
        if p.leaf.grad is not None:
            _replace(p, lambda g, out: get_xp(g).clip(g, -clip_value, clip_value, out=out))


def _replace(p: Parameter, change: Callable[[Array, Array | None], Array]) -> None:
    """Store change(gradient, where to); one outside an arena may be shared, so it is never changed."""
    leaf = p.leaf
    if isinstance(leaf.grad, RowGradient):
        leaf.keep(leaf.grad.changed(lambda values: change(values, None)))
        return
    leaf.grad = change(leaf.grad, leaf.buffer if leaf.grad is leaf.buffer else None)
