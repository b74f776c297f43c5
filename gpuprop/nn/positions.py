"""Positions: what tells attention in which order tokens stand."""

from __future__ import annotations

from typing import Any

import numpy as np

from .. import ops
from ..backend.arrays import to_device
from ..backend.device import Device
from ..errors import DataError
from ..tensors import Tensor
from . import init
from .checks import positive
from .module import Module


class SinusoidalPositions(Module):
    """A vector for each position, of sines and cosines of many wavelengths (Vaswani et al. 2017, 3.5).

    PE(p, 2i) = sin(p / 10000^(2i/E))    PE(p, 2i+1) = cos(p / 10000^(2i/E))

    x (..., embedding_dim) and the position of each vector (...,), below `length` -> x + PE. Nothing is
    trained and no length is the longest: the table grows with what is asked for.
    """

    def __init__(self, embedding_dim: int) -> None:
        self.embedding_dim = positive("SinusoidalPositions", "embedding_dim", embedding_dim)
        self._tables: dict[tuple[Device, Any], Any] = {}

    def forward(self, x: Tensor, positions: Any, length: int) -> Tensor:
        place = (x.device, x.dtype)
        table = self._tables.get(place)
        if table is None or table.shape[0] < length:
            rows = max(64, 1 << (length - 1).bit_length())
            table = to_device(sinusoids(rows, self.embedding_dim), x.device).astype(x.dtype)
            self._tables[place] = table
        return x + ops.embedding(positions, table)

    def extra_repr(self) -> str:
        return str(self.embedding_dim)


class LearnedPositions(Module):
    """A trained vector for each position below max_positions (Gehring et al. 2017, section 3.1).

    x (..., embedding_dim) and the position of each vector (...,), below `length` -> their sum. weight
    (max_positions, embedding_dim), normal with standard deviation 1/√embedding_dim. Raises DataError for a
    text longer than max_positions.
    """

    def __init__(self, max_positions: int, embedding_dim: int) -> None:
        self.max_positions = positive("LearnedPositions", "max_positions", max_positions)
        self.embedding_dim = positive("LearnedPositions", "embedding_dim", embedding_dim)
        self.weight = init.normal((max_positions, embedding_dim), embedding_dim**-0.5)

    def forward(self, x: Tensor, positions: Any, length: int) -> Tensor:
        if length > self.max_positions:
            raise DataError(
                f"a text of {length} tokens is longer than the model's positions ({self.max_positions}): cut "
                "it (--max-length), or train with more positions or with sinusoidal ones"
            )
        return x + ops.embedding(positions, self.weight)

    def extra_repr(self) -> str:
        return f"{self.max_positions}, {self.embedding_dim}"


def sinusoids(length: int, embedding_dim: int) -> np.ndarray[Any, Any]:
    """The table of `SinusoidalPositions`, (length, embedding_dim) float32."""
    exponent = np.arange(0, embedding_dim, 2) / embedding_dim
    angle = np.arange(length)[:, None] / 10000.0**exponent
    table = np.empty((length, embedding_dim), np.float32)
    table[:, 0::2] = np.sin(angle)
    table[:, 1::2] = np.cos(angle)[:, : embedding_dim // 2]
    return table
