"""Greedy and beam search over a toy model whose probabilities are a table, and over every sequence."""

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import gpuprop as gp
from gpuprop.backend.arrays import to_device
from gpuprop.models.beam import beam_search, top_k
from gpuprop.models.decoding import Hypothesis, greedy_search, length_penalty

BOS, EOS = 0, 1
MASK = None


class Table:
    """log p(next | source row, last token, position): a step counts its calls and rows."""

    def __init__(self, scores):
        self.scores = scores  # (rows, length, V, V)
        self.rows_seen = []

    def start(self, source, mask):
        return np.array(source), 0

    def step(self, tokens, state):
        rows, time = state
        self.rows_seen.append(len(rows))
        assert tokens.shape == rows.shape
        return to_device(self.scores[rows, time, tokens]), (rows, time + 1)

    def reorder(self, state, index):
        return state[0][index], state[1]


def random_table(seed, rows, length, size, ties=False, sharpness=1.0):
    rng = np.random.default_rng(seed)
    logits = sharpness * rng.standard_normal((rows, length, size, size))
    if ties:
        logits = np.round(logits)
    logits[..., BOS] = -np.inf
    logits -= np.log(np.exp(logits).sum(axis=-1, keepdims=True))
    return Table(logits)


def score_of(table, row, words, ended, alpha):
    tokens = [*words, EOS] if ended else list(words)
    total, last = 0.0, BOS
    for time, token in enumerate(tokens):
        total += table.scores[row, time, last, token]
        last = token
    return total, total / length_penalty(len(tokens), alpha)


def every_hypothesis(table, row, max_length, alpha):
    """All sequences of words, ended or cut at max_length, best first."""
    words = range(2, table.scores.shape[-1])
    found = []
    for n in range(max_length + 1):
        for sequence in itertools.product(words, repeat=n):
            ended = n < max_length
            found.append((sequence, *score_of(table, row, sequence, ended, alpha), ended))
    return sorted(found, key=lambda entry: -entry[2])


tables = st.builds(
    random_table,
    seed=st.integers(0, 2**31),
    rows=st.integers(1, 4),
    length=st.integers(1, 4),
    size=st.integers(3, 5),
    ties=st.booleans(),
    sharpness=st.sampled_from([0.3, 1.0, 4.0]),
)
alphas = st.sampled_from([0.0, 0.6, 1.0, 3.0])


def search(table, beam_size, alpha=0.0, n_best=1, max_length=None):
    rows, length = table.scores.shape[:2]
    return beam_search(
        table, np.arange(rows), MASK, beam_size, max_length or length, alpha, n_best, bos=BOS, eos=EOS
    )


@given(table=tables, alpha=alphas)
def test_a_wide_beam_finds_what_trying_everything_finds(table, alpha):
    _, length, size, _ = table.scores.shape
    everything = size**length
    for row, found in enumerate(search(table, everything, alpha, n_best=3)):
        expected = every_hypothesis(table, row, length, alpha)[:3]
        assert len(found) == len(expected)
        np.testing.assert_allclose([h.score for h in found], [e[2] for e in expected], rtol=1e-12, atol=1e-12)
        for hypothesis in found:
            total, score = score_of(table, row, hypothesis.tokens, hypothesis.finished, alpha)
            given = [hypothesis.log_probability, hypothesis.score]
            np.testing.assert_allclose(given, [total, score], rtol=1e-12)


@given(table=tables, alpha=alphas)
def test_a_beam_of_one_is_greedy(table, alpha):
    rows, length = table.scores.shape[:2]
    greedy = greedy_search(table, np.arange(rows), MASK, length, BOS, EOS, alpha)
    beams = [found[0] for found in search(table, 1, alpha)]
    assert [h.tokens for h in beams] == [h.tokens for h in greedy]
    assert [h.finished for h in beams] == [h.finished for h in greedy]
    for name in ("log_probability", "score"):
        np.testing.assert_allclose(
            *[[getattr(h, name) for h in found] for found in (beams, greedy)], rtol=1e-12
        )


@given(table=tables, alpha=alphas, beam_size=st.integers(1, 4))
def test_beams_are_sorted_and_distinct_and_end_in_time(table, alpha, beam_size):
    length = table.scores.shape[1]
    for found in search(table, beam_size, alpha, n_best=beam_size):
        assert found
        assert [h.score for h in found] == sorted((h.score for h in found), reverse=True)
        assert len({(h.tokens, h.finished) for h in found}) == len(found)
        for hypothesis in found:
            assert len(hypothesis.tokens) <= length
            assert hypothesis.finished or len(hypothesis.tokens) == length
            assert not {BOS, EOS} & set(hypothesis.tokens)
    assert len(table.rows_seen) <= length
    assert max(table.rows_seen) <= beam_size * table.scores.shape[0]


@given(table=tables, alpha=alphas, beam_size=st.integers(1, 4))
def test_a_sentence_is_decoded_alone_as_in_a_batch(table, alpha, beam_size):
    together = search(table, beam_size, alpha)
    length = table.scores.shape[1]
    for row in range(table.scores.shape[0]):
        alone = beam_search(table, [row], MASK, beam_size, length, alpha, bos=BOS, eos=EOS)
        assert alone == [together[row]]


def test_finished_rows_leave_the_batch(device):
    table = random_table(0, 3, 6, 4)
    table.scores[0, 1, :, :] = np.log([1e-9, 1.0, 1e-9, 1e-9])  # row 0 ends after one word
    table.scores[1:, :, :, EOS] = -50.0
    greedy = greedy_search(table, np.arange(3), MASK, 6, bos=BOS, eos=EOS)
    assert table.rows_seen == [3, 3, 2, 2, 2, 2]
    assert [len(h.tokens) for h in greedy] == [1, 6, 6]
    assert [h.finished for h in greedy] == [True, False, False]


def test_a_longer_text_wins_under_a_length_penalty():
    table = random_table(0, 1, 3, 3)
    table.scores[...] = -50.0
    table.scores[0, 0, BOS] = [-50, np.log(0.5), np.log(0.45)]
    table.scores[0, 1, 2] = [-50, -50, np.log(0.9)]
    table.scores[0, 2, 2] = [-50, np.log(0.9), -50]
    (short,), (long,) = search(table, 2, 0.0)[0], search(table, 2, 3.0)[0]
    assert (short.tokens, short.finished) == ((), True)
    assert (long.tokens, long.finished) == ((2, 2), True)
    assert long.score == pytest.approx(np.log(0.45 * 0.9 * 0.9) / (8 / 6) ** 3)


@pytest.mark.parametrize("alpha", [0.0, 1.0])
def test_many_bad_endings_do_not_end_the_search(alpha):
    table = random_table(0, 1, 6, 4)
    table.scores[...] = [-np.inf, -6.0, -0.01, -9.0]
    table.scores[:, 5] = [-np.inf, 0.0, -50.0, -50.0]
    ((best,),) = search(table, 2, alpha)
    assert best.tokens == (2, 2, 2, 2, 2)
    assert best.log_probability == pytest.approx(-0.05)


def test_the_length_penalty_is_the_published_one():
    assert length_penalty(1, 0.7) == 1.0
    assert length_penalty(7, 1.0) == 2.0
    assert length_penalty(19, 0.5) == 2.0
    assert length_penalty(100, 0.0) == 1.0


@given(
    x=st.lists(st.lists(st.sampled_from([-np.inf, -3.0, 0.0, 2.0]), min_size=6, max_size=6), min_size=1),
    k=st.integers(1, 6),
)
def test_the_largest_come_first_and_ties_by_column(x, k):
    x = np.array(x)
    values, columns = top_k(x, k)
    for row, (value, column) in zip(x, zip(values, columns, strict=True), strict=True):
        order = sorted(range(6), key=lambda c: (-row[c], c))[:k]
        assert list(column) == order
        assert list(value) == [row[c] for c in order]


@given(
    seed=st.integers(0, 2**31),
    columns=st.integers(150, 700),
    k=st.integers(1, 5),
    values=st.sampled_from([2, 5, 1000]),
    share=st.sampled_from([0.01, 0.05, 1.0]),
)
def test_the_largest_of_long_rows_are_found_by_blocks(seed, columns, k, values, share):
    """Few different values: ties within blocks, between them and with the columns behind the last block."""
    rng = np.random.default_rng(seed)
    x = rng.integers(0, values, (4, columns)) * (rng.random((4, columns)) < share).astype(np.float64)
    x[x == 0] = -np.inf
    found, places = top_k(x, k)
    expected = np.argsort(-x, axis=1, kind="stable")[:, :k]
    np.testing.assert_array_equal(places, expected)
    np.testing.assert_array_equal(found, np.take_along_axis(x, expected, axis=1))


def test_the_largest_of_a_row_on_each_device(device):
    x = np.random.default_rng(0).integers(0, 9, (5, 1000)).astype(np.float32)
    values, columns = top_k(to_device(x), 7)
    expected = np.argsort(-x, axis=1, kind="stable")[:, :7]
    np.testing.assert_array_equal(gp.tensor(columns).numpy(), expected)
    np.testing.assert_array_equal(gp.tensor(values).numpy(), np.take_along_axis(x, expected, axis=1))


def test_a_model_of_nan_is_reported():
    table = random_table(0, 2, 3, 4)
    table.scores[1, 0, :, 2] = np.nan
    with pytest.raises(gp.TrainingError, match="NaN"):
        greedy_search(table, np.arange(2), MASK, 3, bos=BOS, eos=EOS)
    with pytest.raises(gp.TrainingError, match="NaN"):
        search(table, 2)
    for columns, k in ((1000, 3), (5, 5)):
        x = np.zeros((2, columns))
        x[1, columns - 1] = np.nan
        with pytest.raises(gp.TrainingError, match="NaN"):
            top_k(x, k)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"beam_size": 0}, "beam_size must be a whole number of at least 1, not 0"),
        ({"beam_size": 2.5}, "beam_size"),
        ({"beam_size": True}, "beam_size"),
        ({"beam_size": 2, "max_length": -3}, "max_length .* -3"),
        ({"beam_size": 2, "alpha": -1.0}, "length penalty .* -1.0"),
        ({"beam_size": 2, "alpha": 1e4}, "length penalty must be a number from 0 to 20, not 10000.0"),
        ({"beam_size": 2, "alpha": float("nan")}, "length penalty .* nan"),
        ({"beam_size": 2, "n_best": 3}, "n_best 3 .* make beam_size 3"),
    ],
)
def test_bad_options_are_refused(options, message):
    with pytest.raises(gp.DataError, match=message):
        search(random_table(0, 1, 2, 4), **options)


@given(table=tables)
def test_no_rows_give_no_results(table):
    empty = np.array([], dtype=np.int64)
    assert greedy_search(table, empty, MASK, 3, bos=BOS, eos=EOS) == []
    assert beam_search(table, empty, MASK, 2, 3, bos=BOS, eos=EOS) == []
    assert table.rows_seen == []


def test_hypotheses_compare_by_value():
    assert Hypothesis((2, 3), -1.0, -1.0, True) == Hypothesis((2, 3), -1.0, -1.0, True)
