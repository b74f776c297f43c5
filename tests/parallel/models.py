"""Small tasks of every model family, and a trainer that keeps the loss of each step."""

import numpy as np
from families import FAMILIES, build

import gpuprop as gp
from gpuprop.models import FeedForwardClassifier, TextCNN
from gpuprop.text import TextField, create_tokenizer, pair_batches, text_batches
from gpuprop.training import Classification, SequenceToSequence

WORDS = [f"w{i}" for i in range(20)]
CLASSIFIERS = ("cnn", "feedforward")
ALL = (*CLASSIFIERS, *FAMILIES)


def field(words=WORDS):
    return TextField.build([" ".join(words)], create_tokenizer("whitespace"))


def make_task(family, dropout=0.3):
    gp.manual_seed(3)
    if family == "cnn":
        model = TextCNN(24, 3, embedding_dim=6, filters=4, dropout=dropout, embedding_dropout=0.2)
    elif family == "feedforward":
        model = FeedForwardClassifier(24, 3, embedding_dim=6, hidden=[16], dropout=dropout, word_dropout=0.2)
    else:
        model = build(family, width=4, layers=2, sizes=(24, 24), dropout=dropout)
        return SequenceToSequence(model, field(), field(), 10, label_smoothing=0.1)
    weights = np.array([1.0, 2.0, 0.5])
    return Classification(model, field(), ["a", "b", "c"], weights, label_smoothing=0.1)


def to_type(task, dtype):
    for p in task.model.parameters():
        p.data = p.in_memory_order(p.data.astype(dtype))
        p.leaf.dtype = p.data.dtype
    return task


def rows_of(rng, rows, longest):
    return [rng.integers(4, 24, n).tolist() for n in rng.integers(1, longest + 1, rows)]


def make_batches(family, rows, batch):
    rng = np.random.default_rng(5)
    sources = rows_of(rng, rows, 9)
    if family in CLASSIFIERS:
        return text_batches(sources, rng.integers(0, 3, rows), batch, seed=2)
    return pair_batches(sources, rows_of(rng, rows, 7), batch, seed=2)


class Recorder(gp.Trainer):
    """Keeps the mean loss of each step."""

    def _step(self, batches):
        losses = super()._step(batches)
        self.seen = getattr(self, "seen", [])
        total = sum(weight for _, weight in losses)
        self.seen.append(sum(loss.item() * weight for loss, weight in losses) / total)
        return losses


def train(family, dtype, steps, rows=45, batch=16, parallel=False, **options):
    """(losses of each step, trainer) of a training over batches of `batch` rows, of all ranks together."""
    task = to_type(make_task(family), dtype)
    optimizer = gp.optim.Adam(task.model.parameters(), lr=0.01)
    trainer = Recorder(
        task.model,
        task.loss,
        optimizer,
        count=task.count,
        progress="off",
        parallel=parallel,
        clip_norm=0.5,
        **options,
    )
    batches = make_batches(family, rows, batch)
    accumulate = options.get("accumulate", 1)
    trainer.fit(batches, -(-steps // -(-len(batches) // accumulate)))
    return trainer.seen[:steps], trainer
