"""Embedding: a vector for each id."""

from __future__ import annotations

from typing import Any

from .. import ops
from ..tensors import Tensor
from . import init
from .checks import positive
from .module import Module


class Embedding(Module):
    """Rows of a table.   ids (...,) integers -> (..., embedding_dim)

    weight (num_embeddings, embedding_dim), normal with standard deviation 1; the row `padding_idx` starts
    at zero and gets no gradient. sparse: the gradient holds only the rows that occur among the ids, for
    `optim.SparseAdam`.
    """

    def __init__(
        self, num_embeddings: int, embedding_dim: int, padding_idx: int | None = None, *, sparse: bool = False
    ) -> None:
        self.num_embeddings = positive("Embedding", "num_embeddings", num_embeddings)
        self.embedding_dim = positive("Embedding", "embedding_dim", embedding_dim)
        if padding_idx is not None and not 0 <= padding_idx < num_embeddings:
            raise ValueError(f"Embedding: padding_idx {padding_idx} is outside 0..{num_embeddings - 1}")
        self.padding_idx, self.sparse = padding_idx, sparse
        self.weight = init.normal((num_embeddings, embedding_dim), 1.0)
        if padding_idx is not None:
            self.weight.data[padding_idx] = 0

    def forward(self, ids: Any, *, zero_padding: bool = False) -> Tensor:
        """zero_padding: the vector of `padding_idx` is zeros, whatever its row holds."""
        return ops.embedding(
            ids, self.weight, padding_idx=self.padding_idx, zero_padding=zero_padding, sparse=self.sparse
        )

    def extra_repr(self) -> str:
        padding = "" if self.padding_idx is None else f", padding_idx={self.padding_idx}"
        sparse = ", sparse=True" if self.sparse else ""
        return f"{self.num_embeddings}, {self.embedding_dim}{padding}{sparse}"
