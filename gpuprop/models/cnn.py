"""The convolutional sentence classifier of Kim (2014)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ..backend.arrays import get_xp
from ..errors import DataError
from ..nn.conv import Conv1d, conv_max_over_time
from ..nn.dropout import Dropout
from ..nn.linear import Linear
from ..tensors import Tensor
from .classifier import EmbeddingClassifier, uniform_embedding
from .configured import MOST_ROWS, MOST_UNITS, check_table, positive_or_none, probability, whole, wholes


class TextCNN(EmbeddingClassifier):
    """Convolutional Neural Networks for Sentence Classification (Kim 2014, EMNLP, section 2).

        c_t = relu(w · x_{t : t+width-1} + b)        a filter over windows of word vectors
        z   = max_t c_t                              of each filter, over time
        logits = W dropout(z) + b

    widths: window sizes in words, each with `filters` filters. As in the paper's code a text stands between
    width - 1 zero vectors on either side, so a short text has windows too; windows without any real word
    never win, whatever the padding of the batch. max_norm: the largest length of a row of W, None for no
    limit (the paper: 3). embedding_dropout: on the word vectors (not in the paper).
    """

    options_of_graphs = ("training", "max_norm")

    def __init__(
        self,
        vocabulary_size: int,
        num_classes: int,
        embedding_dim: int = 300,
        widths: Sequence[int] = (3, 4, 5),
        filters: int = 100,
        dropout: float = 0.5,
        embedding_dropout: float = 0.0,
        max_norm: float | None = None,
        padding_idx: int = 0,
    ) -> None:
        vocabulary_size = whole("vocabulary_size", vocabulary_size, MOST_ROWS)
        num_classes = whole("num_classes", num_classes, MOST_UNITS)
        embedding_dim = whole("embedding_dim", embedding_dim, MOST_UNITS)
        self.widths = wholes("widths", widths, 1024)
        if not self.widths:
            raise DataError("widths must name at least one window size")
        filters = whole("filters", filters, MOST_UNITS)
        self.max_norm = positive_or_none("max_norm", max_norm)
        self.padding_idx = whole("padding_idx", padding_idx, vocabulary_size - 1, least=0)
        check_table("the embedding", vocabulary_size, embedding_dim)
        for width in self.widths:
            check_table("a convolution's weight", width * embedding_dim, filters)
        self._config = {
            "vocabulary_size": vocabulary_size,
            "num_classes": num_classes,
            "embedding_dim": embedding_dim,
            "widths": self.widths,
            "filters": filters,
            "dropout": probability("dropout", dropout),
            "embedding_dropout": probability("embedding_dropout", embedding_dropout),
            "max_norm": self.max_norm,
            "padding_idx": self.padding_idx,
        }
        self.embedding = uniform_embedding(vocabulary_size, embedding_dim, self.padding_idx, 0.25)
        self.embedding_dropout = Dropout(self._config["embedding_dropout"])
        self.convolutions = [
            Conv1d(embedding_dim, filters, width, padding=(width - 1, width - 1)) for width in self.widths
        ]
        self.dropout = Dropout(self._config["dropout"])
        self.output = Linear(filters * len(self.widths), num_classes)

    def forward(self, ids: Any, mask: Any = None) -> Tensor:
        """Logits (B, num_classes) of ids (B, L); mask (B, L) is True at real tokens, which come first in each
        row (default: not padding)."""
        if self.training and self.max_norm is not None:
            self._limit_norm(self.max_norm)
        x, mask = self.embed(ids, mask)
        features = conv_max_over_time(self.embedding_dropout(x), self.convolutions, mask)
        return self.output(self.dropout(features))

    def _limit_norm(self, limit: float) -> None:
        """Scale rows of the last weight down to `limit` before they are used (Kim 2014, section 2.1)."""
        weight = self.output.weight
        values = weight.data if weight.master is None else weight.master
        norms = get_xp(values).sqrt((values * values).sum(axis=1, keepdims=True))
        values *= limit / get_xp(values).maximum(norms, limit)
        if weight.master is not None:
            weight.data[...] = values
