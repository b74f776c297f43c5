"""Adam and AdamW."""

from __future__ import annotations

import math
from typing import Any, ClassVar

from ..backend.arrays import Array, get_xp
from .fused import FusedAdam
from .norm import in_kernels
from .optimizer import Optimizer, seen_by


class Adam(Optimizer):
    """m ← β₁ m + (1 - β₁) g     v ← β₂ v + (1 - β₂) g²     p ← p - lr m̂ / (√v̂ + ε)

    with m̂ = m / (1 - β₁ᵗ), v̂ = v / (1 - β₂ᵗ) (Kingma and Ba 2015, algorithm 1). weight_decay λ adds λ p to
    g; see AdamW for the decoupled form. Kept are m / (1 - β₁) and v / (1 - β₂), which saves two of eleven
    passes over the parameters; the factors go into the step's size and into ε.
    """

    slots = ("m", "v")
    decoupled = False
    more_options: ClassVar[dict[str, Any]] = {}  # of a group, with their defaults

    def __init__(
        self,
        parameters: Any,
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
    ) -> None:
        if not all(0.0 <= b < 1.0 for b in betas):
            raise ValueError(f"{type(self).__name__}: betas are at least 0 and below 1, not {betas}")
        options = {"lr": lr, "betas": betas, "eps": eps, "weight_decay": weight_decay}
        super().__init__(parameters, options | self.more_options)
        self._fused: FusedAdam | None = None

    def fused(self) -> FusedAdam | None:
        if not in_kernels(self.arenas):
            return None
        if self._fused is None:
            self._fused = FusedAdam(self.arenas, self._count, self.decoupled)
        return self._fused

    def update(self, group: dict[str, Any], p: Array, g: Array, moments: list[Array], t: Array) -> None:
        xp = get_xp(p)
        m, v = moments
        lr, decay = group["lr"], group["weight_decay"]
        beta1, beta2 = group["betas"]
        if decay and self.decoupled:
            p *= 1.0 - lr * decay
        elif decay:
            g = g + decay * p
        steps = self.steps
        root = math.sqrt((1.0 - beta2) / (1.0 - beta2**steps))  # √v̂ = root √(v kept)
        m *= beta1
        m += g
        v *= beta2
        v += xp.multiply(g, g, out=t)
        xp.sqrt(v, out=t)
        t += seen_by(p.dtype, group["eps"] / self.root_beside_eps(group, root))
        xp.divide(m, t, out=t)
        t *= lr * (1.0 - beta1) / (1.0 - beta1**steps) / root
        p -= t

    def root_beside_eps(self, group: dict[str, Any], root: float) -> float:
        """What √(v kept) is multiplied with where ε is added to it."""
        return root


class AdamW(Adam):
    """Adam with decoupled weight decay: p ← p - lr λ p before the step (Loshchilov and Hutter 2019)."""

    decoupled = True

    def __init__(
        self,
        parameters: Any,
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 1e-2,
    ) -> None:
        super().__init__(parameters, lr, betas, eps, weight_decay)
