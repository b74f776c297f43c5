"""Stochastic gradient descent."""

from __future__ import annotations

from typing import Any

from ..backend.arrays import Array, get_xp
from .optimizer import Optimizer


class SGD(Optimizer):
    """p ← p - lr v,  v ← μ v + g   (Sutskever et al. 2013, in PyTorch's form)

    With nesterov the step is g + μ v instead of v. weight_decay λ adds λ p to g.
    """

    slots = ("velocity",)

    def __init__(
        self,
        parameters: Any,
        lr: float = 1e-2,
        momentum: float = 0.0,
        weight_decay: float = 0.0,
        nesterov: bool = False,
    ) -> None:
        if nesterov and momentum == 0.0:
            raise ValueError("SGD: nesterov needs a momentum")
        options = {"lr": lr, "momentum": momentum, "weight_decay": weight_decay, "nesterov": nesterov}
        super().__init__(parameters, options)

    def update(self, group: dict[str, Any], p: Array, g: Array, moments: list[Array], t: Array) -> None:
        xp = get_xp(p)
        (v,) = moments
        lr, mu, decay = group["lr"], group["momentum"], group["weight_decay"]
        v *= mu
        v += g
        if decay:
            v += xp.multiply(p, decay, out=t)
        if not group["nesterov"]:
            p -= xp.multiply(v, lr, out=t)
            return
        if decay:  # the step is (g + λ p) + μ v
            p *= 1.0 - lr * decay
        p -= xp.multiply(v, lr * mu, out=t)
        p -= xp.multiply(g, lr, out=t)
