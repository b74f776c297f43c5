"""Optimizers that scale each step by a running size of the gradient: RMSprop and Adagrad."""

from __future__ import annotations

from typing import Any

from ..backend.arrays import Array, get_xp
from .optimizer import Optimizer, seen_by


class RMSprop(Optimizer):
    """v ← α v + (1 - α) g²     p ← p - lr g / (√v + ε)   (Tieleman and Hinton 2012, lecture 6.5)

    weight_decay λ adds λ p to g.
    """

    slots = ("v",)

    def __init__(
        self,
        parameters: Any,
        lr: float = 1e-2,
        alpha: float = 0.99,
        eps: float = 1e-8,
        weight_decay: float = 0.0,
    ) -> None:
        super().__init__(parameters, {"lr": lr, "alpha": alpha, "eps": eps, "weight_decay": weight_decay})

    def update(self, group: dict[str, Any], p: Array, g: Array, moments: list[Array], t: Array) -> None:
        xp = get_xp(p)
        (v,) = moments
        if group["weight_decay"]:
            g = g + group["weight_decay"] * p
        v *= group["alpha"]
        xp.multiply(g, g, out=t)
        t *= 1.0 - group["alpha"]
        v += t
        _scaled_step(p, g, v, t, group)


class Adagrad(Optimizer):
    """v ← v + g²     p ← p - lr g / (√v + ε)   (Duchi et al. 2011)

    weight_decay λ adds λ p to g.
    """

    slots = ("v",)

    def __init__(
        self, parameters: Any, lr: float = 1e-2, eps: float = 1e-10, weight_decay: float = 0.0
    ) -> None:
        super().__init__(parameters, {"lr": lr, "eps": eps, "weight_decay": weight_decay})

    def update(self, group: dict[str, Any], p: Array, g: Array, moments: list[Array], t: Array) -> None:
        (v,) = moments
        if group["weight_decay"]:
            g = g + group["weight_decay"] * p
        v += get_xp(p).multiply(g, g, out=t)
        _scaled_step(p, g, v, t, group)


def _scaled_step(p: Array, g: Array, v: Array, t: Array, group: dict[str, Any]) -> None:
    """p ← p - lr g / (√v + ε), with scratch t."""
    xp = get_xp(p)
    xp.sqrt(v, out=t)
    t += seen_by(p.dtype, group["eps"])
    xp.divide(g, t, out=t)
    t *= group["lr"]
    p -= t
