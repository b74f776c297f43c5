"""What all encoder-decoders share: sizes and special tokens, decoding, and a picture of attention."""

from __future__ import annotations

from typing import Any

import numpy as np

from .. import ops
from ..backend.arrays import Array
from ..errors import DataError
from ..nn.embedding import Embedding
from ..tensors import Tensor
from .beam import beam_search
from .configured import MOST_ROWS, ConfiguredModel, check_table, whole
from .decoding import Hypothesis, State, check_search, evaluating, greedy_search
from .sampling import sample

TIED = ("none", "target", "all")
"""Which tables over a vocabulary are one: none; the target's embedding and the output layer's weights; or
these and the source's embedding too, which needs one vocabulary for both sides (Press and Wolf 2017)."""


class EncoderDecoder(ConfiguredModel):
    """A model that reads a source text and writes a target text, one token after another.

    Subclasses define `forward`, and `start`, `step` and `reorder` of `Decodable`, in which a step costs the
    same whatever was computed for the tokens before it.
    """

    def forward(self, source: Any, source_mask: Any, target_in: Any, target_mask: Any = None) -> Tensor:
        """Logits (B, T, V) of each next token, the right tokens before it given (teacher forcing).

        source (B, S), source_mask (B, S) or None (what is not padding), target_in (B, T): begins with `<s>`.
        target_mask (B, T), True = real token: the logits of these only, packed rows (N, V).
        """
        raise NotImplementedError(f"{type(self).__name__} needs a forward")

    @property
    def source_table(self) -> Embedding:
        """The vectors of source tokens."""
        raise NotImplementedError(f"{type(self).__name__} needs a source_table")

    def alignment(self, source: Any, source_mask: Any, target_in: Any) -> np.ndarray[Any, Any]:
        """Attention of each target position over the source (B, T, S), rows that add up to 1, on the host."""
        raise NotImplementedError(f"{type(self).__name__} has no attention to show")

    @property
    def longest(self) -> int | None:
        """The longest text that the model's positions allow, in tokens, `<s>` included; None: any."""
        return None

    @property
    def longest_source(self) -> int | None:
        """The longest source that can be read, in tokens; None: any."""
        return self.longest

    @property
    def longest_target(self) -> int | None:
        """The longest target that can be learned, in tokens, for `<s>` stands before it; None: any."""
        return None if self.longest is None else self.longest - 1

    def start(self, source: Any, mask: Any = None) -> State:
        """`Decodable`: read the source."""
        raise NotImplementedError(f"{type(self).__name__} needs a start")

    def step(self, tokens: np.ndarray[Any, Any], state: State) -> tuple[Array, State]:
        """`Decodable`: read one token a row."""
        raise NotImplementedError(f"{type(self).__name__} needs a step")

    def reorder(self, state: State, index: np.ndarray[Any, Any]) -> State:
        """`Decodable`: choose rows."""
        raise NotImplementedError(f"{type(self).__name__} needs a reorder")

    def greedy(self, source: Any, source_mask: Any = None, max_length: int = 100) -> list[list[int]]:
        """The target ids of each row, without `<s>` and `</s>`, at most `max_length`; see `greedy_search`."""
        return [list(best[0].tokens) for best in self.beam(source, source_mask, 1, max_length)]

    def beam(
        self,
        source: Any,
        source_mask: Any = None,
        beam_size: int = 5,
        max_length: int = 100,
        length_penalty: float = 0.0,
        n_best: int = 1,
    ) -> list[list[Hypothesis]]:
        """The `n_best` best hypotheses of each row, best first; see `beam_search`."""
        check_search(max_length, beam_size, length_penalty, n_best)
        longest = self._within(max_length)
        with evaluating(self):
            if beam_size == 1:
                ends = self._ends
                found = greedy_search(self, source, source_mask, longest, *ends, alpha=length_penalty)
                return [[hypothesis] for hypothesis in found]
            return beam_search(
                self, source, source_mask, beam_size, longest, length_penalty, n_best, *self._ends
            )

    def sample(
        self,
        source: Any,
        source_mask: Any = None,
        max_length: int = 100,
        temperature: float = 1.0,
        top_k: int | None = None,
        seed: int = 0,
        rows: Any = None,
        draw: int = 0,
    ) -> list[Hypothesis]:
        """A text of each row drawn by the model's own probabilities; see `sample`."""
        check_search(max_length, 1, 0.0, 1)
        with evaluating(self):
            return sample(
                self, source, source_mask, self._within(max_length), temperature, top_k, seed, rows, draw,
                *self._ends,
            )  # fmt: skip

    def _within(self, max_length: int) -> int:
        """What of `max_length` the model's positions allow."""
        return max_length if self.longest is None else min(max_length, self.longest)

    @property
    def _ends(self) -> tuple[int, int]:
        return self._config["bos_idx"], self._config["eos_idx"]

    def _next_scores(self, logits: Array) -> Array:
        """Log-probabilities (N, V) of the next token; padding and `<s>` are never proposed. Changes its
        argument."""
        logits[:, [self._config["padding_idx"], self._config["bos_idx"]]] = -np.inf
        scores: Array = ops.log_softmax(logits).data
        return scores


def vocabulary_config(
    source_vocabulary_size: int,
    target_vocabulary_size: int,
    padding_idx: int,
    bos_idx: int,
    eos_idx: int,
    tied: str,
    widest: int,
) -> dict[str, Any]:
    """The checked part of a configuration that all encoder-decoders share. widest: columns of the largest
    table over a vocabulary."""
    config = {
        "source_vocabulary_size": whole("source_vocabulary_size", source_vocabulary_size, MOST_ROWS),
        "target_vocabulary_size": whole("target_vocabulary_size", target_vocabulary_size, MOST_ROWS),
    }
    config["padding_idx"] = whole("padding_idx", padding_idx, min(config.values()) - 1, least=0)
    for name, value in (("bos_idx", bos_idx), ("eos_idx", eos_idx)):
        config[name] = whole(name, value, target_vocabulary_size - 1, least=0)
    if tied == "all" and source_vocabulary_size != target_vocabulary_size:
        raise DataError(
            f"tied 'all' needs one vocabulary for both sides, but they have {source_vocabulary_size} and "
            f"{target_vocabulary_size} entries: build them together, or tie 'target' only"
        )
    for rows in (source_vocabulary_size, target_vocabulary_size):
        check_table("the embedding", rows, widest)
    return config
