"""Learning-rate schedules. Call `step()` after each optimizer step (ReduceLROnPlateau: each validation)."""

from __future__ import annotations

import math
from typing import Any

from .optimizer import Optimizer


class Schedule:
    """lr = base lr x factor(steps so far). A subclass defines `factor`."""

    def __init__(self, optimizer: Optimizer) -> None:
        self.optimizer = optimizer
        self.base_lrs = [float(g["lr"]) for g in optimizer.param_groups]
        self.steps = 0
        self._apply()

    def factor(self, step: int) -> float:
        raise NotImplementedError

    def _apply(self) -> None:
        for group, lr in zip(self.optimizer.param_groups, self.base_lrs, strict=True):
            group["lr"] = lr * self.factor(self.steps)

    def step(self) -> None:
        """One more step was taken: set the learning rate of the next."""
        self.steps += 1
        self._apply()

    def state_dict(self) -> dict[str, Any]:
        """What `load_state_dict` needs to go on."""
        return {"steps": self.steps, "base_lrs": self.base_lrs}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on where `state_dict` was taken."""
        self.steps = int(state["steps"])
        self.base_lrs = [float(lr) for lr in state["base_lrs"]]
        self._apply()


class ConstantLR(Schedule):
    """The base learning rate throughout."""

    def factor(self, step: int) -> float:
        return 1.0


class StepLR(Schedule):
    """Multiply by gamma every step_size steps."""

    def __init__(self, optimizer: Optimizer, step_size: int, gamma: float = 0.1) -> None:
        if step_size < 1:
            raise ValueError(f"step_size must be at least 1, not {step_size}")
        self.step_size, self.gamma = step_size, gamma
        super().__init__(optimizer)

    def factor(self, step: int) -> float:
        return float(self.gamma ** (step // self.step_size))


class LinearWarmupLR(Schedule):
    """Rise linearly over warmup_steps, then stay; with total_steps fall linearly to 0 at total_steps."""

    def __init__(self, optimizer: Optimizer, warmup_steps: int, total_steps: int | None = None) -> None:
        if warmup_steps < 0 or (total_steps is not None and total_steps <= warmup_steps):
            raise ValueError(f"need 0 <= warmup_steps < total_steps, not {warmup_steps} and {total_steps}")
        self.warmup_steps, self.total_steps = warmup_steps, total_steps
        super().__init__(optimizer)

    def factor(self, step: int) -> float:
        if step < self.warmup_steps:
            return (step + 1) / self.warmup_steps
        if self.total_steps is None:
            return 1.0
        return max(0.0, (self.total_steps - step) / (self.total_steps - self.warmup_steps))


class CosineLR(Schedule):
    """Half a cosine from the base rate to min_factor of it over total_steps, after a linear warm-up
    (Loshchilov and Hutter 2017, without restarts)."""

    def __init__(
        self, optimizer: Optimizer, total_steps: int, warmup_steps: int = 0, min_factor: float = 0.0
    ) -> None:
        if not 0 <= warmup_steps < total_steps:
            raise ValueError(f"need 0 <= warmup_steps < total_steps, not {warmup_steps} and {total_steps}")
        self.total_steps, self.warmup_steps, self.min_factor = total_steps, warmup_steps, min_factor
        super().__init__(optimizer)

    def factor(self, step: int) -> float:
        if step < self.warmup_steps:
            return (step + 1) / self.warmup_steps
        done = min(1.0, (step - self.warmup_steps) / (self.total_steps - self.warmup_steps))
        return self.min_factor + (1.0 - self.min_factor) * 0.5 * (1.0 + math.cos(math.pi * done))


class InverseSquareRootLR(Schedule):
    """Rise linearly over warmup_steps to the base rate, then fall with 1/√step (Vaswani et al. 2017,
    section 5.3, scaled so that the peak is the base rate)."""

    def __init__(self, optimizer: Optimizer, warmup_steps: int = 4000) -> None:
        if warmup_steps < 1:
            raise ValueError(f"warmup_steps must be at least 1, not {warmup_steps}")
        self.warmup_steps = warmup_steps
        super().__init__(optimizer)

    def factor(self, step: int) -> float:
        t = step + 1
        return min(t / self.warmup_steps, math.sqrt(self.warmup_steps / t))


class ReduceLROnPlateau(Schedule):
    """Multiply by `decay` when the watched value has not improved for more than `patience` validations."""

    def __init__(
        self,
        optimizer: Optimizer,
        mode: str = "min",
        decay: float = 0.5,
        patience: int = 2,
        min_factor: float = 1e-3,
    ) -> None:
        if mode not in ("min", "max"):
            raise ValueError(f"mode is 'min' or 'max', not {mode!r}")
        if not 0.0 < decay < 1.0:
            raise ValueError(f"decay must be between 0 and 1, not {decay!r}")
        self.mode, self.decay, self.patience, self.min_factor = mode, decay, patience, min_factor
        self.best: float | None = None
        self.waited = 0
        self.scale = 1.0
        super().__init__(optimizer)

    def factor(self, step: int) -> float:
        return self.scale

    def step(self, value: float | None = None) -> None:
        """Report a validation's value."""
        if value is None:
            raise TypeError("ReduceLROnPlateau.step needs the value that is watched")
        better = self.best is None or (value < self.best if self.mode == "min" else value > self.best)
        self.best = value if better else self.best
        self.waited = 0 if better else self.waited + 1
        if self.waited > self.patience:
            self.scale = max(self.min_factor, self.scale * self.decay)
            self.waited = 0
        super().step()

    def state_dict(self) -> dict[str, Any]:
        return {**super().state_dict(), "best": self.best, "waited": self.waited, "scale": self.scale}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.best, self.waited, self.scale = state["best"], int(state["waited"]), float(state["scale"])
        super().load_state_dict(state)
