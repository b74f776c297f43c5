"""Training with SparseAdam: groups of a model, what looks at gradients, resuming, several ranks."""

import numpy as np
import pytest

import gpuprop as gp
from gpuprop import models, nn, optim
from gpuprop.parallel.data_parallel import GradientReducer
from gpuprop.row_gradient import RowGradient
from gpuprop.training import session
from gpuprop.training.gradients import GradientLog, GradientRecorder, read_gradients
from gpuprop.training.sparse_tables import sparse_groups

WORDS = 60


class Classifier(nn.Module):
    def __init__(self):
        self.table = nn.Embedding(WORDS, 8, padding_idx=0)
        self.output = nn.Linear(8, 3)

    def forward(self, ids):
        return self.output(self.table(ids).mean(axis=1))


def batches(seed=0):
    rng = np.random.default_rng(seed)
    return [(rng.integers(0, 20, (6, 5)), rng.integers(0, 3, 6)) for _ in range(5)]


def trainer(optimizer="sparse-adam", **more):
    gp.manual_seed(1)
    model, criterion = Classifier(), nn.CrossEntropyLoss()
    update = session.make_optimizer(optimizer, model, lr=0.05, weight_decay=0.01)
    return gp.Trainer(model, lambda b: criterion(model(b[0]), b[1]), update, progress="off", **more)


def test_tables_that_are_only_looked_up_get_gradients_of_rows():
    made = {tied: models.Transformer(30, 30, 8, 2, 8, 1, tied=tied) for tied in ("none", "target", "all")}
    for model, tables in ((made["none"], 2), (made["target"], 1), (made["all"], 0), (Classifier(), 1)):
        groups = sparse_groups(model, 0.2)
        found = [group["params"] for group in groups if group["sparse"]]
        assert sum(map(len, found)) == tables
        assert sum(len(group["params"]) for group in groups) == len(list(model.parameters()))
        assert [group["weight_decay"] for group in groups if not group["sparse"]] == [0.2]
        assert sum(getattr(layer, "sparse", False) for layer in model.modules()) == tables


def test_a_frozen_table_is_left_out():
    model = Classifier()
    session.freeze(model.table.weight)
    (group,) = sparse_groups(model)
    assert (group["sparse"], model.table.sparse, len(group["params"])) == (False, False, 2)


@pytest.mark.parametrize("more", [{}, {"clip_norm": 0.1}, {"precision": "fp16"}, {"accumulate": 2}])
def test_rows_that_never_occur_stay_and_the_loss_falls(more):
    of = trainer(**more)
    before = of.model.table.weight.numpy().copy()
    history = of.fit(batches(), epochs=8)
    assert history[-1]["train_loss"] < 0.9 * history[0]["train_loss"]
    moved = (of.model.table.weight.numpy() != before).any(axis=1)
    assert moved[1:20].all()
    assert not moved[20:].any()
    assert isinstance(of.model.table.weight.leaf.grad, RowGradient)


def test_the_first_step_is_that_of_adamw_without_decay_of_the_table():
    """Rows that do not occur have no moments yet, so Adam does not move them either."""
    found = [trainer(name) for name in ("sparse-adam", "adamw")]
    for of in found:
        for group in of.optimizer.param_groups:
            group["eps"] = 1e-30
        if len(of.optimizer.param_groups) == 1:
            of.optimizer.param_groups[0]["weight_decay"] = 0.0
        else:
            of.optimizer.param_groups[1]["weight_decay"] = 0.0
        of.fit(batches()[:1], epochs=1)
    for p, q in zip(*(of.model.parameters() for of in found), strict=True):
        np.testing.assert_allclose(p.numpy(), q.numpy(), rtol=1e-5, atol=1e-6)


def test_records_and_judgements_see_the_rows(tmp_path):
    """Norms of the gradients as those of the whole table."""
    seen = []
    for name in ("sparse-adam", "adamw"):
        folder = tmp_path / name
        folder.mkdir()
        of = trainer(name, observers=[GradientRecorder(GradientLog(folder, lambda: True), 1, None)])
        of.fit(batches()[:1], epochs=1)
        (record,) = read_gradients(folder)
        seen.append((record["gradient"], record["layers"]["table"]["gradient"]))
    np.testing.assert_allclose(*seen, rtol=1e-4)


def test_a_gradient_that_is_not_finite_stops_training_and_leaves_the_weights():
    of = trainer()
    of.model.table.weight.data[7] = 1e38
    before = of.model.table.weight.numpy().copy()
    bad = (np.full((6, 5), 7), np.zeros(6, int))
    with pytest.raises(gp.TrainingError, match="step 1"):
        of.fit([bad] * 3, epochs=1)
    np.testing.assert_array_equal(of.model.table.weight.numpy(), before)


def test_a_gradient_whose_square_overflows_is_found():
    of = trainer()
    of.model.output.weight.data[...] = np.eye(3, 8) * 1e25
    with pytest.raises(gp.TrainingError, match=r"gradients are too large.*the sum of the squares"):
        of.fit(batches(), epochs=1)


def test_explain_tells_of_the_rows(capsys):
    of = trainer()
    rows = gp.explain(of.loss(batches()[0])).rows
    (found,) = (row for row in rows if row.operation == "Embedding")
    assert (found.flops, found.bytes) == (30 * 8, 30 * (8 * 4 + 8 * 4 + 8 + 8))


def test_a_training_that_goes_on_gives_the_same_bits(tmp_path):
    whole = trainer(clip_norm=1.0)
    whole.fit(batches(), epochs=4)
    first = trainer(clip_norm=1.0, on_epoch=lambda record: first.save(tmp_path / "state"))
    first.fit(batches(), epochs=2)
    second = trainer(clip_norm=1.0)
    second.load(tmp_path / "state")
    second.fit(batches(), epochs=4)
    for p, q in zip(whole.model.parameters(), second.model.parameters(), strict=True):
        np.testing.assert_array_equal(p.numpy(), q.numpy())
    for a, b in zip(whole.optimizer.state, second.optimizer.state, strict=True):
        for slot in ("m", "v"):
            np.testing.assert_array_equal(a[slot], b[slot])


def test_several_ranks_are_told_what_to_use_instead():
    update = optim.SparseAdam(nn.Embedding(4, 2, sparse=True).parameters())
    with pytest.raises(gp.DataError, match=r"cannot add up gradients of rows.*optim\.Adam or AdamW"):
        GradientReducer(None, update.arenas)
