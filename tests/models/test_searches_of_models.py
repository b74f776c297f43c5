"""Beam search, greedy search and sampling through the real models, on every device."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from model_checks import as_float64, random_texts

import gpuprop as gp
from gpuprop.backend.device import available_devices
from gpuprop.models import ConvSeq2Seq, Seq2Seq, Transformer
from gpuprop.models.decoding import length_penalty
from gpuprop.models.sampling import draw_columns, uniforms

BOS, EOS, SIZE = 2, 3, 6
WORDS = (1, 4, 5)
MAKERS = {
    "gru": lambda **options: Seq2Seq(9, SIZE, 3, 4, **options),
    "lstm": lambda **options: Seq2Seq(9, SIZE, 3, 4, cell="lstm", input_feeding=True, **options),
    "conv": lambda **options: ConvSeq2Seq(9, SIZE, 3, 4, num_layers=2, **options),
    "transformer": lambda **options: Transformer(9, SIZE, 4, 2, 6, 2, **options),
    "learned positions": lambda **options: Transformer(
        9, SIZE, 4, 2, 6, 2, positions="learned", max_positions=5, **options
    ),
}


@pytest.fixture(params=MAKERS)
def name(request):
    return request.param


def model_of(name, seed=3, **options):
    gp.manual_seed(seed)
    return as_float64(MAKERS[name](**options)).eval()


SOURCE, MASK = random_texts([5, 2, 4], 9, 1)


def every_sequence(model, row, max_length, alpha):
    """(score, log-probability, tokens, finished) of all sequences of a source row, best first, scored by the
    whole model at once."""
    count = len(WORDS)
    one = slice(row, row + 1)
    found = []
    for n in range(max_length + 1):
        sequences = np.array(list(itertools.product(WORDS, repeat=n)), dtype=np.int64).reshape(count**n, n)
        target = np.pad(sequences, ((0, 0), (1, 0)), constant_values=BOS)
        source, mask = (np.repeat(a[one], len(target), axis=0) for a in (SOURCE, MASK))
        logits = model(source, mask, target).numpy().copy()
        logits[..., [0, BOS]] = -np.inf
        log_p = gp.ops.log_softmax(logits).numpy()
        for i, sequence in enumerate(sequences.tolist()):
            tokens = sequence if n == max_length else [*sequence, EOS]
            total = sum(log_p[i, t, token] for t, token in enumerate(tokens))
            score = total / length_penalty(len(tokens), alpha)
            found.append((score, total, tuple(sequence), n < max_length))
    return sorted(found, reverse=True)


@settings(max_examples=40)
@given(
    name=st.sampled_from(sorted(MAKERS)),
    seed=st.integers(0, 2**31),
    alpha=st.sampled_from([0.0, 0.6, 1.0, 2.5]),
    n_best=st.integers(1, 6),
)
def test_a_wide_beam_finds_the_n_best_that_trying_everything_finds(name, seed, alpha, n_best):
    model = model_of(name, seed)
    found = model.beam(SOURCE, MASK, beam_size=60, max_length=3, length_penalty=alpha, n_best=n_best)
    for row, best in enumerate(found):
        expected = every_sequence(model, row, 3, alpha)[:n_best]
        assert [(h.tokens, h.finished) for h in best] == [e[2:] for e in expected]
        np.testing.assert_allclose([h.score for h in best], [e[0] for e in expected], rtol=1e-9)
        np.testing.assert_allclose([h.log_probability for h in best], [e[1] for e in expected], rtol=1e-9)


@pytest.mark.parametrize("beam_size", [1, 2, 5])
def test_no_text_is_longer_than_asked_or_than_positions_allow(name, beam_size):
    model = model_of(name)
    for max_length in (1, 4, 50):
        most = min(max_length, model.longest or max_length)
        found = [h for several in model.beam(SOURCE, MASK, beam_size, max_length, 1.0) for h in several]
        found += model.sample(SOURCE, MASK, max_length, seed=beam_size)
        for hypothesis in found:
            assert len(hypothesis.tokens) <= most
            assert hypothesis.finished or len(hypothesis.tokens) == most


def test_beams_and_samples_are_the_same_on_every_device(name):
    results = []
    for device in available_devices():
        with gp.use_device(device):
            model = model_of(name)
            beams = model.beam(SOURCE, MASK, 3, 5, 1.0, n_best=3)
            drawn = model.sample(SOURCE, MASK, 5, temperature=1.5, top_k=3, seed=4)
            results.append([[(h.tokens, h.finished) for h in found] for found in [*beams, drawn]])
    assert all(result == results[0] for result in results)


def test_samples_do_not_depend_on_how_rows_are_split(name):
    model = model_of(name)
    together = model.sample(SOURCE, MASK, 6, seed=9, rows=[10, 11, 12])
    for row in range(3):
        one, length = slice(row, row + 1), MASK[row].sum()
        alone = model.sample(SOURCE[one, :length], MASK[one, :length], 6, seed=9, rows=[10 + row])
        assert alone[0].tokens == together[row].tokens
        assert alone[0].log_probability == pytest.approx(together[row].log_probability)


def test_seeds_and_draws_give_other_texts_and_the_same_again():
    model = model_of("gru")
    texts = {
        (seed, draw): [h.tokens for h in model.sample(SOURCE, MASK, 8, seed=seed, draw=draw)]
        for seed in (0, 1)
        for draw in (0, 1)
    }
    assert len({str(text) for text in texts.values()}) == 4
    assert texts[0, 1] == [h.tokens for h in model.sample(SOURCE, MASK, 8, seed=0, draw=1)]


@pytest.mark.parametrize("options", [{"top_k": 1, "temperature": 3.0}, {"temperature": 1e-6}])
def test_only_the_likeliest_token_is_greedy_search(name, options):
    model = model_of(name)
    sampled = model.sample(SOURCE, MASK, 6, **options)
    assert [list(h.tokens) for h in sampled] == model.greedy(SOURCE, MASK, 6)
    greedy = [found[0].log_probability for found in model.beam(SOURCE, MASK, 1, 6)]
    np.testing.assert_allclose([h.log_probability for h in sampled], greedy)


@pytest.mark.parametrize(("temperature", "top_k"), [(1.0, None), (0.5, None), (2.0, 2)])
def test_tokens_come_as_often_as_their_probabilities_say(temperature, top_k):
    """The first token of many draws against softmax(log p / T) over the likeliest; 5 standard deviations."""
    model = model_of("gru")
    source, mask = (np.repeat(a[:1], 4000, axis=0) for a in (SOURCE, MASK))
    log_p = gp.tensor(model.step(np.array([BOS]), model.start(SOURCE[:1], MASK[:1]))[0]).numpy()[0]
    weights = np.exp(log_p / temperature)
    if top_k is not None:
        weights[np.argsort(-log_p)[top_k:]] = 0.0
    wanted = weights / weights.sum()
    drawn = model.sample(source, mask, 1, temperature, top_k, seed=1)
    first = [h.tokens[0] if h.tokens else EOS for h in drawn]
    share = np.bincount(first, minlength=SIZE) / 4000
    assert (np.abs(share - wanted) <= 5 * np.sqrt(wanted * (1 - wanted) / 4000)).all()


@given(seed=st.integers(0, 2**64 - 1), row=st.integers(0, 2**64 - 1), count=st.integers(1, 40))
def test_a_position_has_one_random_number_however_long_the_text_may_be(seed, row, count):
    long = uniforms(seed, row, 0, 50)
    np.testing.assert_array_equal(uniforms(seed, row, 0, count), long[:count])
    assert ((long >= 0) & (long < 1)).all()
    assert not np.array_equal(long, uniforms(seed, row, 1, 50))
    assert not np.array_equal(long, uniforms(seed, row ^ 1, 0, 50))


def test_what_cannot_happen_is_never_drawn(device):
    scores = np.log(np.array([[1e-300, 0.5, 1e-300, 0.5, 1e-300]])).astype(np.float32)
    scores[scores < -100] = -np.inf
    chances = np.array([0.0, 0.49, 0.51, np.nextafter(1.0, 0.0)])
    columns = draw_columns(*(gp.tensor(a).data for a in (np.repeat(scores, 4, axis=0), chances)), 1.0)
    assert gp.tensor(columns).numpy().tolist() == [1, 1, 3, 3]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"temperature": 0.0}, "temperature must be a finite number above 0, not 0.0"),
        ({"temperature": float("nan")}, "temperature .* nan"),
        ({"top_k": 0}, "top_k must be a whole number of at least 1, or None for all tokens, not 0"),
        ({"seed": -1}, "seed .* -1"),
        ({"max_length": 0}, "max_length"),
    ],
)
def test_bad_options_of_sampling_are_refused(options, message):
    with pytest.raises(gp.DataError, match=message):
        model_of("gru").sample(SOURCE, MASK, **options)


def test_no_rows_no_samples():
    assert model_of("gru").sample(SOURCE[:0], MASK[:0]) == []
