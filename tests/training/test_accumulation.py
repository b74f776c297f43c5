"""A step over several batches is the step over one large batch."""

import numpy as np
import pytest
from model_checks import as_float64, assert_close

import gpuprop as gp
from gpuprop import nn
from gpuprop.backend.arrays import to_host
from gpuprop.models import ConvSeq2Seq, FeedForwardClassifier, Seq2Seq, TextCNN, Transformer
from gpuprop.text import TextField, create_tokenizer
from gpuprop.text.batches import collate_pairs, collate_text
from gpuprop.training import Classification, SequenceToSequence
from gpuprop.training.accumulation import backward_of_mean, groups_of

WORDS = [f"w{i}" for i in range(20)]
CUTS = ((0, 5), (5, 6), (6, 12))


def field():
    return TextField.build([" ".join(WORDS)], create_tokenizer("whitespace"))


def texts(rows, longest, seed):
    """Ids of `rows` texts, the first of them `longest` tokens long."""
    rng = np.random.default_rng(seed)
    lengths = [longest, *rng.integers(1, longest + 1, rows - 1)]
    return [rng.integers(4, 24, n).tolist() for n in lengths]


def classifier(kind, class_weights=None):
    gp.manual_seed(3)
    vocabulary = len(field().vocabulary)
    if kind == "cnn":
        model = TextCNN(vocabulary, 3, embedding_dim=6, filters=4, dropout=0.4, embedding_dropout=0.2)
    else:
        model = FeedForwardClassifier(
            vocabulary, 3, embedding_dim=6, hidden=[5], dropout=0.3, word_dropout=0.2
        )
    return Classification(model, field(), ["a", "b", "c"], class_weights, label_smoothing=0.1)


def text_parts():
    rows, labels = texts(12, 8, 0), np.random.default_rng(1).integers(0, 3, 12)
    return [collate_text(rows[a:b], labels[a:b], multiple_of=8) for a, b in ((0, 12), *CUTS)]


def translator():
    gp.manual_seed(3)
    size = len(field().vocabulary)
    model = Seq2Seq(size, size, embedding_dim=6, hidden_size=5, num_layers=2, dropout=0.3)
    return SequenceToSequence(model, field(), field(), 10, label_smoothing=0.1)


def transformer():
    gp.manual_seed(3)
    size = len(field().vocabulary)
    model = Transformer(size, size, 6, 2, 8, 2, dropout=0.3)
    return SequenceToSequence(model, field(), field(), 10, label_smoothing=0.1)


def convolutional():
    gp.manual_seed(3)
    size = len(field().vocabulary)
    model = ConvSeq2Seq(size, size, 6, 8, 2, dropout=0.3)
    return SequenceToSequence(model, field(), field(), 10, label_smoothing=0.1)


def pair_parts():
    sources, targets = texts(12, 8, 0), texts(12, 7, 1)
    return [collate_pairs(sources[a:b], targets[a:b], multiple_of=8) for a, b in ((0, 12), *CUTS)]


CASES = {
    "cnn": (lambda: classifier("cnn"), text_parts),
    "weighted": (lambda: classifier("cnn", np.array([0.3, 1.0, 7.0], np.float32)), text_parts),
    "feedforward": (lambda: classifier("feedforward"), text_parts),
    "seq2seq": (translator, pair_parts),
    "transformer": (transformer, pair_parts),
    "conv": (convolutional, pair_parts),
}


def gradients(make, dtype, batches):
    """Name -> gradient in the optimizer's block, and the mean loss."""
    task = make()
    if dtype is np.float64:
        as_float64(task.model)
    gp.optim.SGD(task.model.parameters(), lr=0.1)
    task.model.train()
    losses = backward_of_mean(task.loss, task.count, batches)
    mean = sum(loss.item() * n for loss, n in losses) / sum(n for _, n in losses)
    return {name: to_host(p.grad) for name, p in task.model.named_parameters()}, mean


@pytest.mark.parametrize(("dtype", "tolerance"), [(np.float64, 1e-10), (np.float32, 1e-4)])
@pytest.mark.parametrize("case", CASES)
def test_gradients_of_the_parts_are_those_of_the_whole(case, dtype, tolerance):
    make, cut = CASES[case]
    whole, *parts = cut()
    expected, loss = gradients(make, dtype, [whole])
    found, mean = gradients(make, dtype, parts)
    assert mean == pytest.approx(loss, rel=tolerance)
    assert max(np.abs(g).max() for g in expected.values()) > 1e-3
    for name, gradient in expected.items():
        assert gradient.dtype == dtype
        assert_close(found[name], gradient, tolerance)


def test_dropout_goes_on_within_an_outer_part_of_the_data():
    """As on one of several devices: the parts count their rows from where the outer part begins."""
    whole, *parts = text_parts()
    make = CASES["cnn"][0]
    with gp.backend.random.rows_from(100):
        expected, _ = gradients(make, np.float64, [whole])
        found, _ = gradients(make, np.float64, parts)
    for name, gradient in expected.items():
        assert_close(found[name], gradient, 1e-10)


def trainer(**options):
    gp.manual_seed(0)
    model = nn.Linear(3, 2)
    criterion = nn.CrossEntropyLoss()
    options = {"count": lambda batch: len(batch[0]), "progress": "off", **options}
    optimizer = gp.optim.SGD(model.parameters(), lr=0.1)
    return gp.Trainer(model, lambda b: criterion(model(b[0]), b[1]), optimizer, **options)


def batches(size, rows=40):
    rng = np.random.default_rng(0)
    x = rng.standard_normal((rows, 3)).astype(np.float32)
    y = (x[:, 0] > 0).astype(np.int64)
    return [(x[i : i + size], y[i : i + size]) for i in range(0, rows, size)]


def test_the_rest_of_an_epoch_is_a_smaller_step_and_schedules_count_steps():
    small = trainer(accumulate=3, clip_norm=0.5)
    small.schedule = gp.optim.StepLR(small.optimizer, step_size=4, gamma=0.5)
    small.fit(batches(4), epochs=2)  # 10 batches: steps of 12, 12, 12 and 4 rows
    large = trainer(clip_norm=0.5)
    large.schedule = gp.optim.StepLR(large.optimizer, step_size=4, gamma=0.5)
    large.fit(batches(12), epochs=2)
    assert [r["step"] for r in small.history] == [4, 8]
    for name in ("step", "lr"):
        assert [r[name] for r in small.history] == [r[name] for r in large.history]
    losses = [[r["train_loss"] for r in t.history] for t in (small, large)]
    assert losses[0] == pytest.approx(losses[1], rel=1e-5)
    for (_, a), (_, b) in zip(small.model.named_parameters(), large.model.named_parameters(), strict=True):
        assert_close(a.numpy(), b.numpy(), 1e-4)


def test_no_batch_is_taken_before_it_is_needed():
    taken = []
    groups = groups_of((taken.append(i) or i for i in range(5)), 2)
    assert next(groups) == [0, 1]
    assert taken == [0, 1]
    assert list(groups) == [[2, 3], [4]]


def test_wrong_use_is_explained():
    with pytest.raises(gp.DataError, match="accumulate is a number of batches of at least 1, not 0"):
        trainer(accumulate=0)
    with pytest.raises(gp.DataError, match="count gives 0 for the 2 batches of a step"):
        trainer(accumulate=2, count=lambda batch: 0).fit(batches(8), epochs=1)
