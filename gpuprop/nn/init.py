"""Initial weights: drawn on the host, one random stream a weight, then copied to the current device.

The same seed gives the same bits on every device. Each function returns a new Parameter.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from ..backend.random import host_generator
from ..tensors import Parameter

Shape = tuple[int, ...]


def parameter(values: Any, order: Shape | None = None, dtype: Any = np.float32) -> Parameter:
    """A parameter on the current device from host values."""
    return Parameter(np.asarray(values, dtype=dtype), order)


def uniform(shape: Shape, bound: float, order: Shape | None = None) -> Parameter:
    """Uniform in [-bound, bound)."""
    return parameter(host_generator().uniform(-bound, bound, shape), order)


def normal(shape: Shape, std: float, order: Shape | None = None) -> Parameter:
    """Normal with mean 0."""
    return parameter(host_generator().normal(0.0, std, shape), order)


def constant(shape: Shape, value: float = 0.0, order: Shape | None = None) -> Parameter:
    """All equal; draws nothing."""
    return parameter(np.full(shape, value), order)


def fan_in_uniform(shape: Shape, order: Shape | None = None, fan_in: int | None = None) -> Parameter:
    """Uniform with bound 1/√fan_in, PyTorch's default for Linear and Conv1d. fan_in defaults to the product
    of all axes but the first (the outputs)."""
    fan_in = math.prod(shape[1:]) if fan_in is None else fan_in
    return uniform(shape, 1.0 / math.sqrt(max(fan_in, 1)), order)


def xavier_uniform(shape: Shape, order: Shape | None = None) -> Parameter:
    """Uniform with bound √(6 / (fan_in + fan_out)) for a weight (out, in) (Glorot and Bengio 2010)."""
    return uniform(shape, math.sqrt(6.0 / (shape[0] + math.prod(shape[1:]))), order)
