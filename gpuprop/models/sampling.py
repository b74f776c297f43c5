"""Sampling: texts drawn by a model's own probabilities, the same ones on every device.

The random number behind a token depends on the seed, the source row, the draw and the position alone
(Philox), so that no split of the rows into batches changes what a row gets.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from ..backend.arrays import Array, device_of, get_xp, to_device, to_host
from ..backend.random import SAMPLE_STREAM
from ..errors import DataError
from .beam import top_k as largest
from .decoding import Decodable, Hypothesis, check_search, follow, refuse_nan


def sample(
    model: Decodable,
    source: Any,
    mask: Any,
    max_length: int,
    temperature: float = 1.0,
    top_k: int | None = None,
    seed: int = 0,
    rows: Any = None,
    draw: int = 0,
    bos: int = 2,
    eos: int = 3,
) -> list[Hypothesis]:
    """For each source row a text of at most `max_length` tokens, each token drawn with probability
    softmax(log p / temperature), over the `top_k` likeliest (None: over all).

    temperature: below 1 the likely become likelier, above 1 all become more equal. rows (B,): the numbers of
    the rows in the data (default 0, 1, ...), and `draw` which text of a row, for other random numbers.
    Scores are log-probabilities of the model itself, whatever the temperature.
    """
    check_search(max_length, 1, 0.0, 1)
    _check(temperature, top_k, seed, draw)
    numbers = np.arange(len(source)) if rows is None else np.asarray(rows)
    chances = (
        np.stack([uniforms(seed, int(row), draw, max_length) for row in numbers]) if len(source) else None
    )

    def choose(scores: Array, places: Any, time: int) -> tuple[Any, Any]:
        assert chances is not None
        xp = get_xp(scores)
        refuse_nan(to_host(scores.max(axis=-1)))
        tokens = None
        if top_k is not None and top_k < scores.shape[1]:
            scores, tokens = largest(scores, top_k)
        chosen = draw_columns(scores, to_device(chances[places, time], device_of(scores)), temperature)[
            :, None
        ]
        gained = xp.take_along_axis(scores, chosen, axis=1)[:, 0]
        if tokens is not None:
            chosen = xp.take_along_axis(tokens, chosen, axis=1)
        return to_host(chosen[:, 0]), to_host(gained)

    return follow(model, source, mask, max_length, choose, bos, eos, 0.0)


def uniforms(seed: int, row: int, draw: int, count: int) -> np.ndarray[Any, Any]:
    """The random numbers of the first `count` positions of a row, in [0, 1), float64."""
    key = np.array([seed, SAMPLE_STREAM], dtype=np.uint64)
    counter = np.array([0, row, draw, 0], dtype=np.uint64)
    return np.random.Generator(np.random.Philox(key=key, counter=counter)).random(count)


def draw_columns(scores: Array, chances: Array, temperature: float) -> Array:
    """A column (N,) of each row of log-probabilities (N, V): the first whose cumulative probability passes
    the row's random number, in float64."""
    xp = get_xp(scores)
    scores = scores.astype(np.float64)
    with np.errstate(over="ignore"):  # a very low temperature leaves the likeliest alone
        weights = xp.exp((scores - scores.max(axis=1, keepdims=True)) / temperature)
    passed = weights.cumsum(axis=1)
    return (passed > chances[:, None] * passed[:, -1:]).argmax(axis=1)


def _check(temperature: float, top_k: int | None, seed: int, draw: int) -> None:
    if not (math.isfinite(temperature) and temperature > 0.0):
        raise DataError(f"the temperature must be a finite number above 0, not {temperature!r}")
    if top_k is not None and (isinstance(top_k, bool) or not hasattr(top_k, "__index__") or top_k < 1):
        raise DataError(f"top_k must be a whole number of at least 1, or None for all tokens, not {top_k!r}")
    for name, value in (("seed", seed), ("draw", draw)):
        if isinstance(value, bool) or not hasattr(value, "__index__") or not 0 <= value < 1 << 64:
            raise DataError(f"{name} must be a whole number from 0 to 2^64 - 1, not {value!r}")
