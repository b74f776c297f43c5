"""Beam search over any model that can be decoded one token at a time, for all sentences at once."""

from __future__ import annotations

import bisect
from typing import Any

import numpy as np

from ..backend.arrays import Array, get_xp, to_host
from ..backprop import no_grad
from .decoding import Decodable, Hypothesis, check_search, length_penalty, refuse_nan

BLOCK = 64  # columns of which `top_k` first compares the largest
Host = np.ndarray[Any, Any]


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
    check_search(max_length, beam_size, alpha, n_best)
    if len(source) == 0:
        return []
    beams = Beams(len(source), beam_size, n_best, max_length, alpha, eos)
    with no_grad():
        state = model.start(source, mask)
        tokens = np.full(len(source), bos, dtype=np.int64)
        while True:
            scores, state = model.step(tokens, state)
            values, choices = top_k(scores, min(2 * beam_size, scores.shape[-1]))
            parents, tokens = beams.advance(to_host(values), to_host(choices))
            if len(parents) == 0:
                return beams.best()
            state = model.reorder(state, parents)


class Beams:
    """The hypotheses of all sentences: the live ones of those still searched, and the finished ones.

    The N live ones stand together by sentence, best first: `owner` (N,) says whose, as a place in `searched`
    (S,), `totals` (N,) their log-probabilities, `words` (N, length) their tokens.
    """

    def __init__(
        self, sentences: int, size: int, n_best: int, max_length: int, alpha: float, eos: int
    ) -> None:
        self.size, self.n_best, self.max_length, self.alpha, self.eos = size, n_best, max_length, alpha, eos
        self.searched = np.arange(sentences)
        self.owner = np.arange(sentences)
        self.totals = np.zeros(sentences)
        self.words = np.empty((sentences, 0), dtype=np.int64)
        self.finished: list[list[Hypothesis]] = [[] for _ in range(sentences)]
        self.falling: list[list[float]] = [[] for _ in range(sentences)]  # their scores, negative, sorted
        self.nth = np.full(sentences, -np.inf)  # the score of the n-th best finished one
        self.count = np.zeros(sentences, dtype=np.int64)

    def advance(self, values: Host, choices: Host) -> tuple[Host, Host]:
        """Extend the live hypotheses, given the log-probabilities `values` (N, k) of the tokens `choices`
        (N, k), best first. Returns for each new live one which old one it continues, and its last token."""
        totals, parents, tokens = self._ranked(values, choices)
        real = totals > -np.inf
        ends = real & (tokens == self.eos)
        lives = real & ~ends
        lives &= lives.cumsum(axis=1) <= self.size
        length = self.words.shape[1] + 1
        for sentence, rank in zip(*np.nonzero(ends[:, : self.size]), strict=True):
            words = self.words[parents[sentence, rank]]
            self._finish(self.searched[sentence], words, totals[sentence, rank], length, True)
        best = np.where(lives.any(axis=1), totals[np.arange(len(lives)), lives.argmax(axis=1)], -np.inf)
        lives &= ~self._done(best, length)[:, None]
        return self._go_on(lives, totals, parents, tokens)

    def best(self) -> list[list[Hypothesis]]:
        """The n best of each sentence, best first; of equal scores the one found first."""
        return [sorted(found, key=lambda h: -h.score)[: self.n_best] for found in self.finished]

    def _ranked(self, values: Host, choices: Host) -> tuple[Host, Host, Host]:
        """The best 2 · size extensions of each sentence, best first, (S, c): log-probability (-inf: there are
        no more), which live one they extend, and the token."""
        first = np.searchsorted(self.owner, np.arange(len(self.searched)))
        slot = np.arange(len(self.owner)) - first[self.owner]
        width = values.shape[1]
        every = np.full((len(self.searched), self.size, width), -np.inf)
        every[self.owner, slot] = self.totals[:, None] + values
        every = every.reshape(len(every), -1)
        order = np.argsort(-every, axis=1, kind="stable")[:, : 2 * self.size]
        parents = np.minimum(first[:, None] + order // width, len(self.owner) - 1)
        return np.take_along_axis(every, order, axis=1), parents, choices[parents, order % width]

    def _done(self, best: Host, length: int) -> Host:
        """Which sentences have what they need; best (S,): the log-probability of their best live one."""
        count, nth = self.count[self.searched], self.nth[self.searched]
        # log-probabilities only fall, and the longest possible text divides them by most; once there are
        # enough to choose from, what a live one has now must do
        now, last = (length_penalty(n, self.alpha) for n in (length, self.max_length))
        hope = best / np.where(count >= self.size, now, last)
        return np.isneginf(best) | ((count >= self.n_best) & (hope <= nth))

    def _go_on(self, lives: Host, totals: Host, parents: Host, tokens: Host) -> tuple[Host, Host]:
        """Let these extensions (S, c) be the live ones; at `max_length` they are finished as they stand."""
        chosen, last = parents[lives], tokens[lives]
        self.words = np.concatenate([self.words[chosen], last[:, None]], axis=1)
        self.totals = totals[lives]
        self.owner = np.nonzero(lives)[0]
        if self.words.shape[1] == self.max_length:
            for owner, words, total in zip(self.owner, self.words, self.totals, strict=True):
                self._finish(self.searched[owner], words, total, self.max_length, False)
            return chosen[:0], last[:0]
        searched = lives.any(axis=1)
        self.searched, self.owner = self.searched[searched], (searched.cumsum() - 1)[self.owner]
        return chosen, last

    def _finish(self, sentence: int, words: Host, total: float, length: int, ended: bool) -> None:
        score = float(total) / length_penalty(length, self.alpha)
        self.finished[sentence].append(Hypothesis(tuple(words.tolist()), float(total), score, ended))
        self.count[sentence] += 1
        falling = self.falling[sentence]
        bisect.insort(falling, -score)
        if len(falling) >= self.n_best:
            self.nth[sentence] = -falling[self.n_best - 1]


def top_k(x: Array, k: int) -> tuple[Array, Array]:
    """The k largest of each row of x (N, V), largest first, and their columns, both (N, k); of equal values
    the lower column comes first. Raises TrainingError for NaN.

    Long rows are searched in blocks: only the k blocks whose largest values are the largest can hold one.
    """
    xp = get_xp(x)
    blocks = x.shape[1] // BLOCK
    if blocks <= 2 * k:
        return _top_k_of_all(x, k)
    even = x[:, : blocks * BLOCK].reshape(len(x), blocks, BLOCK)
    _, chosen = _top_k_of_all(even.max(axis=2), k)
    columns = xp.sort(chosen, axis=1)[:, :, None] * BLOCK + xp.arange(BLOCK)
    rest = xp.broadcast_to(xp.arange(blocks * BLOCK, x.shape[1]), (len(x), x.shape[1] % BLOCK))
    columns = xp.concatenate([columns.reshape(len(x), -1), rest], axis=1)
    values, places = _top_k_of_all(xp.take_along_axis(x, columns, axis=1), k)
    return values, xp.take_along_axis(columns, places, axis=1)


def _top_k_of_all(x: Array, k: int) -> tuple[Array, Array]:
    xp = get_xp(x)
    if k < x.shape[1]:
        # NaN counts as largest here
        largest = xp.partition(x, x.shape[1] - k, axis=1)[:, x.shape[1] - k :]
        refuse_nan(to_host(largest))
        bound = largest[:, :1]
        kept = x >= bound
        if int(kept.sum()) > k * len(x):
            above, ties = x > bound, x == bound
            kept = above | (ties & (ties.cumsum(axis=1) <= k - above.sum(axis=1, keepdims=True)))
        columns = xp.nonzero(kept)[1].reshape(-1, k)
    else:
        refuse_nan(to_host(x))
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
