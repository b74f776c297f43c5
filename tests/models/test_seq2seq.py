"""The recurrent encoder-decoder: gradients, padding, decoding step by step, copying and reversing."""

import itertools

import numpy as np
import pytest
from model_checks import as_float64, assert_close, gradients, random_texts, widen

import gpuprop as gp
from gpuprop.models import Seq2Seq

BOS, EOS = 2, 3
KINDS = [(*pair, "") for pair in itertools.product(["gru", "lstm"], ["dot", "additive"])]
KINDS += [("gru", "dot", "feeding"), ("lstm", "additive", "feeding")]


@pytest.fixture(params=KINDS, ids="-".join)
def tiny(request, device):
    cell, attention, feeding = request.param

    def build(**options):
        gp.manual_seed(7)
        sizes = {"embedding_dim": 3, "hidden_size": 4, **options}
        return Seq2Seq(9, 7, cell=cell, attention=attention, input_feeding=bool(feeding), **sizes)

    return build


def pairs(lengths, target_lengths, seed=0):
    source, mask = random_texts(lengths, 9, seed)
    target, _ = random_texts(target_lengths, 7, seed + 1)
    target_in = np.concatenate([np.full((len(lengths), 1), BOS), target], axis=1)
    target_out = np.concatenate([target, np.zeros((len(lengths), 1), dtype=np.int64)], axis=1)
    target_out[np.arange(len(lengths)), target_lengths] = EOS
    kept = np.arange(target_out.shape[1]) <= np.array(target_lengths)[:, None]
    return source, mask, target_in, np.where(kept, target_out, -100)


def loss_of(model, batch):
    source, mask, target_in, target_out = batch
    return gp.nn.SequenceCrossEntropyLoss()(model(source, mask, target_in), target_out)


def test_logits_have_one_row_a_target_position(tiny):
    source, mask, target_in, _ = pairs([5, 2, 3], [4, 1, 2])
    logits = tiny()(source, mask, target_in)
    assert logits.shape == (3, 5, 7)
    assert logits.dtype == np.float32


@pytest.mark.parametrize("num_layers", [1, 2])
def test_gradients_of_the_whole_model(tiny, num_layers):
    model = as_float64(tiny(embedding_dim=2, hidden_size=2, num_layers=num_layers)).eval()
    batch = pairs([3, 1], [1, 2])
    gp.gradcheck(lambda *_: loss_of(model, batch), list(model.parameters()))


@pytest.mark.parametrize(("dtype", "tolerance"), [("float64", 1e-10), ("float32", 1e-4)])
def test_padding_changes_nothing(tiny, dtype, tolerance):
    model = tiny(num_layers=2)
    model = (as_float64(model) if dtype == "float64" else model).eval()
    source, mask, target_in, target_out = pairs([5, 1, 3], [4, 1, 2])
    loss = loss_of(model, (source, mask, target_in, target_out))
    before = gradients(model, loss)
    wide_source, wide_mask = widen(source, mask, 4)
    wide_in, wide_out = (
        np.pad(target_in, ((0, 0), (0, 3))),
        np.pad(target_out, ((0, 0), (0, 3)), constant_values=-100),
    )
    wide = loss_of(model, (wide_source, wide_mask, wide_in, wide_out))
    after = gradients(model, wide)
    assert_close(wide.numpy(), loss.numpy(), tolerance)
    assert before.keys() == after.keys() == dict(model.named_parameters()).keys()
    for name in before:
        assert_close(after[name], before[name], tolerance)


@pytest.mark.parametrize(("dtype", "tolerance"), [("float64", 1e-10), ("float32", 1e-4)])
def test_a_batch_of_one_gives_the_row_of_the_batch(tiny, dtype, tolerance):
    model = tiny()
    model = (as_float64(model) if dtype == "float64" else model).eval()
    lengths, target_lengths = [5, 1, 3], [4, 1, 2]
    source, mask, target_in, _ = pairs(lengths, target_lengths)
    together = model(source, mask, target_in).numpy()
    for row, (s, t) in enumerate(zip(lengths, target_lengths, strict=True)):
        one = slice(row, row + 1)
        alone = model(source[one, :s], mask[one, :s], target_in[one, : t + 1]).numpy()
        assert_close(alone[0], together[row, : t + 1], tolerance)


def test_a_position_does_not_see_later_targets(tiny):
    model = tiny().eval()
    source, mask, target_in, _ = pairs([4, 4], [5, 5])
    before = model(source, mask, target_in).numpy()
    target_in[:, 3] = (target_in[:, 3] + 1) % 7
    after = model(source, mask, target_in).numpy()
    np.testing.assert_array_equal(before[:, :3], after[:, :3])
    assert not np.array_equal(before[:, 3], after[:, 3])


def test_steps_of_decoding_are_the_whole_model_step_by_step(tiny):
    model = as_float64(tiny(num_layers=2)).eval()
    source, mask, target_in, _ = pairs([5, 2, 3], [4, 4, 4])
    logits = model(source, mask, target_in).numpy().copy()
    logits[..., [0, BOS]] = -np.inf
    expected = gp.ops.log_softmax(logits).numpy()
    state = model.start(source, mask)
    rows = np.arange(3)
    for time in range(target_in.shape[1]):
        scores, state = model.step(target_in[rows, time], state)
        np.testing.assert_allclose(gp.tensor(scores).numpy(), expected[rows, time], rtol=1e-10)
        # rows are swapped, repeated and dropped on the way
        index = np.array([2, 0, 0]) if time == 1 else np.array([1, 2]) if time == 2 else np.arange(len(rows))
        state, rows = model.reorder(state, index), rows[index]


def every_sequence(model, source, mask, max_length):
    """(score, tokens, finished) of all sequences of one source row, scored by the whole model."""
    words = [w for w in range(7) if w not in (0, BOS, EOS)]
    found = []
    for n in range(max_length + 1):
        for sequence in itertools.product(words, repeat=n):
            finished = n < max_length
            logits = model(source, mask, np.array([[BOS, *sequence]])).numpy()[0].copy()
            logits[..., [0, BOS]] = -np.inf
            log_p = gp.ops.log_softmax(logits).numpy()
            tokens = [*sequence, EOS] if finished else list(sequence)
            found.append((sum(log_p[i, t] for i, t in enumerate(tokens)), sequence, finished))
    return sorted(found, reverse=True)


def test_beam_search_is_exhaustive_search_when_the_beam_is_wide(tiny):
    model = as_float64(tiny()).eval()
    source, mask, *_ = pairs([5, 2], [1, 1])
    for row, best in enumerate(model.beam(source, mask, beam_size=400, max_length=3, n_best=5)):
        one = slice(row, row + 1)
        expected = every_sequence(model, source[one], mask[one], 3)[:5]
        assert [(h.tokens, h.finished) for h in best] == [(e[1], e[2]) for e in expected]
        np.testing.assert_allclose([h.score for h in best], [e[0] for e in expected], rtol=1e-9)


def test_a_beam_of_one_is_greedy_and_dropout_is_off_while_decoding(tiny):
    model = tiny(dropout=0.5).train()
    source, mask, *_ = pairs([5, 2, 4, 1], [1, 1, 1, 1])
    greedy = model.greedy(source, mask, max_length=8)
    assert greedy == model.greedy(source, mask, max_length=8)
    assert [list(found[0].tokens) for found in model.beam(source, mask, beam_size=1, max_length=8)] == greedy
    assert all(len(tokens) <= 8 and not {0, BOS, EOS} & set(tokens) for tokens in greedy)
    assert model.training
    assert model.decoder.dropout.training


def test_the_memory_is_kept_while_rows_stay_with_their_source(tiny):
    model = tiny().eval()
    source, mask, *_ = pairs([5, 2], [1, 1])
    state = model.start(source, mask)
    assert model.reorder(state, np.array([0, 1])).memory is state.memory
    assert model.reorder(state, np.array([1, 0])).memory is not state.memory
    tiled = model.reorder(state, np.array([0, 0, 1, 1]))
    assert model.reorder(tiled, np.array([1, 0, 3, 3])).memory is tiled.memory


def train(model, make_batch, steps, lr=0.02):
    optimizer = gp.optim.Adam(model.parameters(), lr=lr)
    schedule = gp.optim.LinearWarmupLR(optimizer, 0, total_steps=steps)
    losses = []
    for step in range(steps):
        loss = loss_of(model, make_batch(step))
        optimizer.zero_grad()
        loss.backward()
        gp.optim.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        losses.append(loss.item())
    return losses


@pytest.mark.parametrize("task", ["copy", "reverse"])
@pytest.mark.parametrize(("cell", "attention", "feeding"), KINDS)
def test_learns_to_copy_and_to_reverse(cell, attention, feeding, task, device):
    if device == "emulated":
        pytest.skip("the emulator checks single operations; training on it takes minutes")
    size, rows = 10, 32

    def make_batch(seed):
        lengths = np.random.default_rng(seed).integers(1, 7, rows)
        source, mask = random_texts(lengths, size, seed, width=6)
        target = source.copy()
        if task == "reverse":
            for row, n in enumerate(lengths):
                target[row, :n] = source[row, :n][::-1]
        target_in = np.concatenate([np.full((rows, 1), BOS), target], axis=1)
        target_out = np.pad(target, ((0, 0), (0, 1)))
        target_out[np.arange(rows), lengths] = EOS
        kept = np.arange(7) <= lengths[:, None]
        return source, mask, target_in, np.where(kept, target_out, -100)

    gp.manual_seed(1)
    sizes = {"embedding_dim": 16, "hidden_size": 32, "input_feeding": bool(feeding)}
    model = Seq2Seq(size, size, cell=cell, attention=attention, **sizes)
    train(model, make_batch, 400)
    source, mask, _, target_out = make_batch(10_001)
    expected = [[int(t) for t in row if t not in (EOS, -100)] for row in target_out]
    assert model.greedy(source, mask, max_length=10) == expected
    assert [list(h[0].tokens) for h in model.beam(source, mask, beam_size=3, max_length=10)] == expected


@pytest.mark.parametrize("cell", ["gru", "lstm"])
def test_the_same_seed_trains_the_same_bits(cell):
    def run():
        gp.manual_seed(4)
        model = Seq2Seq(9, 7, embedding_dim=6, hidden_size=8, num_layers=2, cell=cell, dropout=0.3)
        losses = train(model, lambda step: pairs([5, 2, 3], [4, 1, 2], step), 6)
        return losses, model.state_dict()

    (first_losses, first), (second_losses, second) = run(), run()
    assert first_losses == second_losses
    for name in first:
        np.testing.assert_array_equal(first[name], second[name])


def test_a_wrong_target_id_names_the_table(tiny):
    source, mask, target_in, _ = pairs([3], [2])
    target_in[0, 1] = 7
    with pytest.raises(gp.DataError, match="id 7"):
        tiny()(source, mask, target_in)
