"""What the two text classifiers share: a table of word vectors, with a row of zeros for padding."""

from __future__ import annotations

from typing import Any

import numpy as np

from ..backend.arrays import Array, get_xp, is_cupy, to_device
from ..errors import DataError, ShapeError
from ..nn import init
from ..nn.embedding import Embedding
from ..ops.embedding import check_ids
from ..ops.operands import beside, data_of, is_array
from ..tensors import Tensor
from .configured import ConfiguredModel


def uniform_embedding(rows: int, columns: int, padding_idx: int, bound: float) -> Embedding:
    """An Embedding that starts uniform in ±bound, its padding row at zero."""
    table = Embedding(rows, columns, padding_idx=padding_idx)
    table.weight = init.uniform((rows, columns), bound)
    table.weight.data[padding_idx] = 0
    return table


def token_ids(model: str, ids: Any, mask: Any, weight: Tensor, padding_idx: int) -> tuple[Array, Array]:
    """Ids and mask as arrays beside `weight`, with `padding_idx` wherever the mask is False.

    ids (B, L) integers   mask (B, L) bool or None: then padding is where ids == padding_idx
    """
    ids, mask = (x if x is None or is_array(x) else np.asarray(x) for x in (data_of(ids), data_of(mask)))
    on_host = isinstance(ids, np.ndarray) and (mask is None or isinstance(mask, np.ndarray))
    if not on_host:
        ids, mask = beside(ids, weight), None if mask is None else beside(mask, weight)
    if ids.ndim != 2 or ids.shape[1] == 0:
        raise ShapeError(
            f"{model} expects ids of shape (batch, length), length at least 1, but got {tuple(ids.shape)}"
        )
    if mask is not None and (tuple(mask.shape) != tuple(ids.shape) or mask.dtype != bool):
        raise ShapeError(
            f"{model} expects a mask of booleans shaped like ids, {tuple(ids.shape)}, "
            f"but got {mask.dtype} {tuple(mask.shape)}"
        )
    given = ids
    ids, mask = (
        (ids, ids != padding_idx) if mask is None else (get_xp(ids).where(mask, ids, padding_idx), mask)
    )
    if not on_host:
        return ids, mask
    if is_cupy(weight.data) and np.array_equal(ids, given):
        ids = given  # which a trainer has sent before
    check_ids(ids, int(weight.shape[0]))  # here, where nothing has to wait
    return beside(ids, weight), beside(mask, weight)


class EmbeddingClassifier(ConfiguredModel):
    """Base of classifiers that begin with word vectors: `embedding` holds them, row `padding_idx` is zero."""

    embedding: Embedding
    padding_idx: int
    static = False

    def load_embeddings(self, array: Any, freeze: bool = False) -> None:
        """Start from pretrained vectors (vocabulary_size, embedding_dim); with `freeze` they stay as they are
        (Kim 2014, section 3: "static" and "non-static").

        Raises DataError for a wrong shape or values that are not finite.
        """
        weight = self.embedding.weight
        values = np.array(array, dtype=weight.dtype)
        if values.shape != weight.shape:
            raise DataError(f"the vectors have shape {values.shape}, the model's table {weight.shape}")
        if not np.isfinite(values).all():
            row = int(np.argwhere(~np.isfinite(values))[0, 0])
            raise DataError(f"the vector of row {row} is not finite")
        values[self.padding_idx] = 0
        weight.data[...] = to_device(values, weight.device)
        self.static = freeze

    def embed(self, ids: Any, mask: Any) -> tuple[Tensor, Array]:
        """Word vectors (B, L, embedding_dim), zero at padding whatever its row holds, and the mask (B, L)."""
        ids, mask = token_ids(type(self).__name__, ids, mask, self.embedding.weight, self.padding_idx)
        vectors = self.embedding(ids, zero_padding=True)
        return (vectors.detach() if self.static else vectors), mask
