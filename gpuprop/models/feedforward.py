"""A feed-forward text classifier: the average of word and n-gram vectors, then layers."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

from .. import ops
from ..backend.arrays import Array, get_xp
from ..backend.random import new_stream
from ..nn.dropout import Dropout
from ..nn.feed_forward import feed_forward
from ..nn.linear import Linear
from ..nn.module import ModuleList
from ..nn.pooling import MeanOverTime
from ..tensors import Tensor
from .classifier import EmbeddingClassifier, uniform_embedding
from .configured import MOST_ROWS, MOST_UNITS, check_table, probability, whole, wholes


class FeedForwardClassifier(EmbeddingClassifier):
    """logits = W h_n + b,   h_i = relu(W_i h_{i-1} + b_i),   h_0 = mean of the vectors of the text's features

    The ids are words and, where the text was encoded so, its bigrams. Without hidden layers this is
    fastText's classifier (Joulin et al. 2016); with them a deep averaging network (Iyyer et al. 2015).

    hidden: sizes of the hidden layers, () for none. dropout: on h_0 and after each hidden layer.
    word_dropout: the share of features left out of the average in training (Iyyer et al. 2015, section 4).
    """

    options_of_graphs = ("training", "word_dropout")

    def __init__(
        self,
        vocabulary_size: int,
        num_classes: int,
        embedding_dim: int = 100,
        hidden: Sequence[int] = (),
        dropout: float = 0.0,
        word_dropout: float = 0.0,
        padding_idx: int = 0,
    ) -> None:
        vocabulary_size = whole("vocabulary_size", vocabulary_size, MOST_ROWS)
        num_classes = whole("num_classes", num_classes, MOST_UNITS)
        embedding_dim = whole("embedding_dim", embedding_dim, MOST_UNITS)
        hidden = wholes("hidden", hidden, MOST_UNITS)
        self.word_dropout = probability("word_dropout", word_dropout)
        self.padding_idx = whole("padding_idx", padding_idx, vocabulary_size - 1, least=0)
        check_table("the embedding", vocabulary_size, embedding_dim)
        self._config = {
            "vocabulary_size": vocabulary_size,
            "num_classes": num_classes,
            "embedding_dim": embedding_dim,
            "hidden": hidden,
            "dropout": probability("dropout", dropout),
            "word_dropout": self.word_dropout,
            "padding_idx": self.padding_idx,
        }
        bound = 1.0 / embedding_dim
        self.embedding = uniform_embedding(vocabulary_size, embedding_dim, self.padding_idx, bound)
        self.stream = new_stream()
        self.average = MeanOverTime()
        self.dropout = Dropout(self._config["dropout"])
        sizes = [embedding_dim, *hidden]
        self.hidden = ModuleList([Linear(a, b, activation="relu") for a, b in pairwise(sizes)])
        self.output = Linear(sizes[-1], num_classes)

    def forward(self, ids: Any, mask: Any = None) -> Tensor:
        """Logits (B, num_classes) of ids (B, L); mask (B, L) is True at real tokens (None: not padding)."""
        x, mask = self.embed(ids, mask)
        h = self.dropout(self.average(x, self._thinned(mask)))
        if not len(self.hidden):
            return self.output(h)
        return feed_forward(h, [*self.hidden, self.output], "relu", self.dropout)

    def _thinned(self, mask: Array) -> Array:
        """The mask with a share of its words left out in training; a row that would lose all keeps all."""
        if not self.training or self.word_dropout == 0.0:
            return mask
        xp = get_xp(mask)
        drawn = ops.dropout(xp.ones(mask.shape, "float32"), self.word_dropout, stream=self.stream).data > 0
        kept = mask & drawn
        return xp.where(kept.any(axis=1, keepdims=True), kept, mask)
