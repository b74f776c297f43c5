"""Vectors of tokens that know where they stand: how the Transformer and the convolutional model begin."""

from __future__ import annotations

import math
from typing import Any

from ..backend.arrays import Array, get_xp
from ..nn import init
from ..nn.dropout import Dropout
from ..nn.embedding import Embedding
from ..nn.module import Module
from ..nn.positions import LearnedPositions, SinusoidalPositions
from ..ops.packing import Packing, packing_of
from ..tensors import Tensor
from .classifier import token_ids

POSITIONS = ("sinusoidal", "learned")


class PositionedEmbedding(Module):
    """x = dropout(√E · table[ids] + position). The table starts normal with standard deviation 1/√E, so that
    it can also be the output layer's weights (Press and Wolf 2017).

    positions: "sinusoidal", for any length, or "learned", for texts of at most max_positions.
    """

    def __init__(
        self, rows: int, columns: int, padding_idx: int, positions: str, max_positions: int, dropout: float
    ) -> None:
        self.scale = math.sqrt(columns)
        self.padding_idx = padding_idx
        self.table = Embedding(rows, columns, padding_idx=padding_idx)
        self.table.weight = init.normal((rows, columns), columns**-0.5)
        self.table.weight.data[padding_idx] = 0
        sinusoidal = positions == "sinusoidal"
        self.positions = (
            SinusoidalPositions(columns) if sinusoidal else LearnedPositions(max_positions, columns)
        )
        self.dropout = Dropout(dropout)
        self.longest = None if sinusoidal else max_positions

    def readable(self, model: str, ids: Any, mask: Any) -> tuple[Array, Packing]:
        """Checked ids (B, L) and where their real tokens stand, for `forward`; see `token_ids`."""
        checked, real = token_ids(model, ids, mask, self.table.weight, self.padding_idx)
        return checked, packing_of(real if mask is None else mask, checked)

    def forward(self, ids: Array, real: Packing) -> Tensor:
        """ids (B, L) -> the rows of real tokens (N, E)."""
        length = ids.shape[1]
        x = self.table(ids.reshape(-1)[real.rows]) * self.scale
        return self.dropout(self.positions(x, real.rows % length, length), real)

    def at(self, ids: Array, place: int) -> Tensor:
        """ids (N,), all at one position -> (N, 1, E)."""
        places = get_xp(ids).full((len(ids), 1), place)
        x: Tensor = self.positions(self.table(ids[:, None]) * self.scale, places, place + 1)
        return self.dropout(x)
