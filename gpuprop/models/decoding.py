"""Greedy and beam search over any model that can be decoded one token at a time.

A model takes part through three methods (`Decodable`); its state is whatever it likes to keep: encoder
outputs, projected keys, recurrent states, cached keys and values. Decisions are taken on the host, once a
step, for all sentences together; rows that are finished leave the batch. Nothing is random: of equal scores
the lower token wins.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np

from ..backend.arrays import Array, get_xp, to_host
from ..backprop import no_grad
from ..errors import DataError, TrainingError
from ..nn.module import Module

State = Any


class Decodable(Protocol):
    """What the searches need of a model. Arrays are NumPy or CuPy; `tokens` and `index` are on the host."""

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
    model: Decodable, source: Any, mask: Any, max_length: int, bos: int = 2, eos: int = 3
) -> list[Hypothesis]:
    """The likeliest next token again and again, until `eos` or `max_length` tokens, for each source row."""
    _check(max_length, 1, 0.0, 1)
    if len(source) == 0:
        return []
    with no_grad():
        state = model.start(source, mask)
        rows = np.arange(len(source))
        tokens = np.full(len(rows), bos, dtype=np.int64)
        decoded: list[list[int]] = [[] for _ in rows]
        total = np.zeros(len(rows))
        finished = np.zeros(len(rows), dtype=bool)
        for _ in range(max_length):
            scores, state = model.step(tokens, state)
            total[rows] += _refuse_nan(to_host(scores.max(axis=-1)))
            tokens = to_host(scores.argmax(axis=-1))
            finished[rows] = tokens == eos
            live = np.flatnonzero(tokens != eos)
            for i in live:
                decoded[rows[i]].append(int(tokens[i]))
            if len(live) == 0:
                break
            if len(live) < len(rows):
                state, rows, tokens = model.reorder(state, live), rows[live], tokens[live]
    return [
        Hypothesis(tuple(words), float(score), float(score), bool(end))
        for words, score, end in zip(decoded, total, finished, strict=True)
    ]


def beam_search(
    model: Decodable,
    source: Any,
    mask: Any,
    beam_size: int,
    max_length: int,
    alpha: float = 0.0,
    n_best: int = 1,
    bos: int = 2,
    eos: int = 3,
) -> list[list[Hypothesis]]:
    """For each row of `source` the `n_best` best hypotheses found (or as many as there are), best first.

    Each step extends the live hypotheses of a sentence by every token. Of the best 2 · beam_size extensions
    those that end and are among the first beam_size are finished; the first beam_size that do not end live
    on. A sentence is done when no live one can still reach the n best, or when beam_size are finished and no
    live one scores better than the n best now.
    What `max_length` cuts off competes as it stands. A score is log-probability / length_penalty(length,
    alpha), the length counting `eos`. beam_size 1 is greedy search; a beam wider than the number of sequences
    finds the best.
    """
    _check(max_length, beam_size, alpha, n_best)
    beams = [Beam(beam_size, n_best, max_length, alpha, eos) for _ in range(len(source))]
    if not beams:
        return []
    with no_grad():
        state = model.start(source, mask)
        open_beams = beams
        tokens = np.full(len(beams), bos, dtype=np.int64)
        for _ in range(max_length):
            scores, state = model.step(tokens, state)
            _refuse_nan(to_host(scores.max(axis=-1)))
            values, choices = top_k(scores, min(2 * beam_size, scores.shape[-1]))
            values, choices = to_host(values), to_host(choices)
            parents, first = [], 0
            for beam in open_beams:
                last = first + len(beam.live)
                parents += [first + i for i in beam.advance(values[first:last], choices[first:last])]
                first = last
            open_beams = [beam for beam in open_beams if beam.live]
            if not open_beams:
                break
            state = model.reorder(state, np.array(parents, dtype=np.int64))
            tokens = np.array([words[-1] for beam in open_beams for words, _ in beam.live], dtype=np.int64)
    return [beam.best() for beam in beams]


@dataclass
class Beam:
    """The hypotheses of one sentence: (tokens, log-probability) of the live ones, and the finished ones."""

    size: int
    n_best: int
    max_length: int
    alpha: float
    eos: int
    live: list[tuple[tuple[int, ...], float]] = field(default_factory=lambda: [((), 0.0)])
    finished: list[Hypothesis] = field(default_factory=list)

    def advance(self, values: np.ndarray[Any, Any], choices: np.ndarray[Any, Any]) -> list[int]:
        """Extend the live hypotheses, given the log-probabilities `values` (live, k) of the tokens `choices`
        (live, k), best first. Returns for each new live hypothesis which old one it continues."""
        before = np.array([total for _, total in self.live])[:, None]
        totals = (before + values.astype(np.float64)).reshape(-1)
        order = np.argsort(-totals, kind="stable")[: 2 * self.size]
        old, self.live = self.live, []
        parents: list[int] = []
        for rank, place in enumerate(order):
            parent, column = divmod(int(place), values.shape[1])
            words, token, total = old[parent][0], int(choices[parent, column]), float(totals[place])
            if total == -np.inf or len(self.live) == self.size:
                break
            if token != self.eos:
                self.live.append(((*words, token), total))
                parents.append(parent)
            elif rank < self.size:
                self._finish(words, total, len(words) + 1, True)
        if self._done():
            self.live, parents = [], []
        elif self.live and len(self.live[0][0]) == self.max_length:
            for words, total in self.live:
                self._finish(words, total, len(words), False)
            self.live, parents = [], []
        return parents

    def best(self) -> list[Hypothesis]:
        """The n best, best first; of equal scores the one found first."""
        return sorted(self.finished, key=lambda h: -h.score)[: self.n_best]

    def _finish(self, words: tuple[int, ...], total: float, length: int, ended: bool) -> None:
        score = total / length_penalty(length, self.alpha)
        self.finished.append(Hypothesis(words, total, score, ended))

    def _done(self) -> bool:
        if not self.live:
            return True
        if len(self.finished) < self.n_best:
            return False
        # log-probabilities only fall, and the longest possible text divides them by most; once there are
        # enough to choose from, what a live one has now must do
        words, total = self.live[0]
        length = len(words) if len(self.finished) >= self.size else self.max_length
        return total / length_penalty(length, self.alpha) <= self.best()[-1].score


def top_k(x: Array, k: int) -> tuple[Array, Array]:
    """The k largest of each row of x (N, V), largest first, and their columns, both (N, k); of equal values
    the lower column comes first."""
    xp = get_xp(x)
    if k < x.shape[1]:
        bound = xp.partition(x, x.shape[1] - k, axis=1)[:, x.shape[1] - k, None]
        above, ties = x > bound, x == bound
        room = k - above.sum(axis=1, keepdims=True)
        columns = xp.nonzero(above | (ties & (ties.cumsum(axis=1) <= room)))[1].reshape(-1, k)
    else:
        columns = xp.broadcast_to(xp.arange(k), x.shape)
    values = xp.take_along_axis(x, columns, axis=1)
    order = _stable_descending(values)
    return xp.take_along_axis(values, order, axis=1), xp.take_along_axis(columns, order, axis=1)


def _stable_descending(values: Array) -> Array:
    """Places that sort each row downwards, equal values in their order (CuPy's argsort is not stable)."""
    xp = get_xp(values)
    if xp is np:
        return np.argsort(-values, axis=1, kind="stable")
    return xp.asarray(np.argsort(-to_host(values), axis=1, kind="stable"))


def _refuse_nan(largest: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    if np.isnan(largest).any():
        raise TrainingError("the model's log-probabilities are not numbers (NaN): its weights are broken")
    return largest


def _check(max_length: int, beam_size: int, alpha: float, n_best: int) -> None:
    for name, value in (("max_length", max_length), ("beam_size", beam_size), ("n_best", n_best)):
        if isinstance(value, bool) or not hasattr(value, "__index__") or value.__index__() < 1:
            raise DataError(f"{name} must be a whole number of at least 1, not {value!r}")
    if not 0.0 <= alpha < np.inf:
        raise DataError(f"the length penalty must be a number of at least 0, not {alpha!r}")
    if n_best > beam_size:
        raise DataError(f"n_best {n_best} is more than a beam of {beam_size} finds: make beam_size {n_best}")
