"""Decoding any model one token at a time: greedily here, by a beam in `beam`, by chance in `sampling`.

A model takes part through three methods (`Decodable`); its state is whatever it likes to keep: encoder
outputs, projected keys, recurrent states, cached keys and values. Decisions are taken on the host, once a
step, for all sentences together; rows that are finished leave the batch. Of equal scores the lower token
wins.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from ..backend.arrays import Array, to_host
from ..backprop import no_grad
from ..errors import DataError, TrainingError
from ..nn.module import Module

State = Any


STEEPEST = 20.0  # the largest exponent of a length penalty: more would leave the numbers


class Decodable(Protocol):
    """What decoding needs of a model. Arrays are NumPy or CuPy; `tokens` and `index` are on the host."""

    def start(self, source: Any, mask: Any) -> State:
        """Read the source (B, S), mask (B, S): a state of B rows."""

    def step(self, tokens: np.ndarray[Any, Any], state: State) -> tuple[Array, State]:
        """Read one token a row, (N,): log-probabilities (N, V) of the next one, and the new state."""

    def reorder(self, state: State, index: np.ndarray[Any, Any]) -> State:
        """The state whose row i is row index[i]; rows may repeat or be missing."""


@dataclass(frozen=True)
class Hypothesis:
    """One decoded sequence, without `<s>` and `</s>`."""

    tokens: tuple[int, ...]
    log_probability: float  # of all tokens, and of </s> where it was reached
    score: float  # log_probability over the length penalty: what hypotheses are ranked by
    finished: bool  # False where max_length cut it off


@contextlib.contextmanager
def evaluating(model: Module) -> Iterator[None]:
    """Inside, the model is in evaluation mode: decoding with dropout would be another model every step."""
    before = [(module, module.training) for module in model.modules()]
    model.eval()
    try:
        yield
    finally:
        for module, training in before:
            module.training = training


def length_penalty(length: int, alpha: float) -> float:
    """((5 + length) / 6)^alpha, by which a log-probability is divided (Wu et al. 2016, equation 14)."""
    return float(((5.0 + length) / 6.0) ** alpha)


def greedy_search(
    model: Decodable,
    source: Any,
    mask: Any,
    max_length: int,
    bos: int = 2,
    eos: int = 3,
    alpha: float = 0.0,
) -> list[Hypothesis]:
    """The likeliest next token again and again, until `eos` or `max_length` tokens, for each source row.

    A score is log-probability / length_penalty(length, alpha), the length counting `eos`.
    """
    check_search(max_length, 1, alpha, 1)

    def likeliest(scores: Array, rows: Any, time: int) -> tuple[Any, Any]:
        return to_host(scores.argmax(axis=-1)), refuse_nan(to_host(scores.max(axis=-1)))

    return follow(model, source, mask, max_length, likeliest, bos, eos, alpha)


def follow(
    model: Decodable,
    source: Any,
    mask: Any,
    max_length: int,
    choose: Callable[[Array, np.ndarray[Any, Any], int], tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]],
    bos: int,
    eos: int,
    alpha: float,
) -> list[Hypothesis]:
    """One hypothesis a source row, by choosing one token after another. choose(log-probabilities (N, V), the
    source rows (N,) they are of, position): the tokens (N,) and their log-probabilities, on the host."""
    if len(source) == 0:
        return []
    with no_grad():
        state = model.start(source, mask)
        rows = np.arange(len(source))
        tokens = np.full(len(rows), bos, dtype=np.int64)
        decoded: list[list[int]] = [[] for _ in rows]
        total = np.zeros(len(rows))
        finished = np.zeros(len(rows), dtype=bool)
        for time in range(max_length):
            scores, state = model.step(tokens, state)
            tokens, gained = choose(scores, rows, time)
            total[rows] += gained
            finished[rows] = tokens == eos
            live = np.flatnonzero(tokens != eos)
            for i in live:
                decoded[rows[i]].append(int(tokens[i]))
            if len(live) == 0:
                break
            if len(live) < len(rows):
                state, rows, tokens = model.reorder(state, live), rows[live], tokens[live]
    lengths = [len(words) + int(end) for words, end in zip(decoded, finished, strict=True)]
    return [
        Hypothesis(tuple(words), float(score), float(score) / length_penalty(length, alpha), bool(end))
        for words, length, score, end in zip(decoded, lengths, total, finished, strict=True)
    ]


def refuse_nan(largest: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """The argument, or TrainingError where a value is NaN."""
    if np.isnan(largest).any():
        raise TrainingError("the model's log-probabilities are not numbers (NaN): its weights are broken")
    return largest


def check_search(max_length: int, beam_size: int, alpha: float, n_best: int) -> None:
    """Raise DataError for numbers that no search can go by."""
    for name, value in (("max_length", max_length), ("beam_size", beam_size), ("n_best", n_best)):
        if isinstance(value, bool) or not hasattr(value, "__index__") or value.__index__() < 1:
            raise DataError(f"{name} must be a whole number of at least 1, not {value!r}")
    if not 0.0 <= alpha <= STEEPEST:
        raise DataError(f"the length penalty must be a number from 0 to {STEEPEST:g}, not {alpha!r}")
    if n_best > beam_size:
        raise DataError(f"n_best {n_best} is more than a beam of {beam_size} finds: make beam_size {n_best}")
