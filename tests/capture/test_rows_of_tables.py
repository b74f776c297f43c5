"""Steps of SparseAdam as one launch, on a fake GPU that refuses what waits or allocates: the same bits."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from test_capture import MODELS, WORDS, batch

import gpuprop as gp
from gpuprop import nn, optim
from gpuprop.row_gradient import RowGradient
from gpuprop.training.sparse_tables import sparse_groups


def train(
    steps: int, captured: bool, clip: bool, uses: int = 1
) -> tuple[list[Any], list[np.ndarray], Any, Any]:
    """uses: how often a step looks up the table."""
    gp.manual_seed(1)
    made, criterion = MODELS["mlp"](), nn.CrossEntropyLoss()
    update = optim.SparseAdam(sparse_groups(made, 0.1), lr=1e-2)
    schedule = optim.CosineLR(update, steps)

    def step(ids: Any, mask: Any, labels: Any) -> Any:
        update.zero_grad()
        for _ in range(uses):
            loss = criterion(made(ids, mask), labels)
            loss.backward()
        norm = update.clip_grad_norm(0.5) if clip else loss
        update.step()
        return loss, norm

    run = gp.capture(step) if captured else step
    found = []
    for i in range(steps):
        loss, norm = run(*batch(i))
        found += [loss.item(), norm.item()]
        schedule.step()
    return found, [p.numpy().copy() for p in made.parameters()], run, update


@pytest.mark.parametrize(("clip", "uses"), [(False, 1), (True, 1), (True, 2)])
def test_captured_steps_give_the_bits_of_steps_that_are_not(any_gpu: str, clip: bool, uses: int) -> None:
    losses, weights, _, _ = train(5, False, clip, uses)
    found, new, run, update = train(5, True, clip, uses)
    assert (run.ran, run.captured, run.replayed) == (1, 1, 3)
    assert update.steps == 5
    assert found == losses
    assert all(np.array_equal(a, b) for a, b in zip(new, weights, strict=True))


def test_values_are_those_of_the_cpu(any_gpu: str) -> None:
    losses, weights, _, _ = train(5, True, True)
    with gp.use_device("cpu"):
        wanted, exact, _, _ = train(5, False, True)
    np.testing.assert_allclose(losses, wanted, rtol=1e-4)
    for a, b in zip(weights, exact, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("more", [{}, {"clip_norm": 0.5}, {"precision": "fp16", "accumulate": 2}])
def test_the_trainer(any_gpu: str, more: dict[str, Any]) -> None:
    found = []
    for capture in (False, True):
        gp.manual_seed(3)
        made, criterion = MODELS["mlp"](), nn.CrossEntropyLoss()
        update = optim.SparseAdam(sparse_groups(made))

        def loss(b: Any, made: Any = made, criterion: Any = criterion) -> Any:
            return criterion(made(b[0], b[1]), b[2])

        of = gp.Trainer(made, loss, update, progress="off", capture=capture, **more)
        of.fit([batch(i, rows=6 if i % 3 else 4) for i in range(4)], epochs=2)
        kept = [(r["train_loss"], r["step"], r.get("loss_scale")) for r in of.history]
        found.append((kept, [p.numpy().tobytes() for p in made.parameters()]))
    assert found[0] == found[1]


def test_after_a_replay_the_gradient_is_that_of_its_graph(any_gpu: str) -> None:
    """Two graphs of different sizes, in turn: what observers look at is not of the one captured last."""
    table = nn.Embedding(WORDS, 4, sparse=True)
    update = optim.SparseAdam(table.parameters(), lr=0.0)

    def step(ids: Any) -> Any:
        update.zero_grad()
        loss = table(ids).sum()
        loss.backward()
        update.step()
        return loss

    run = gp.capture(step)
    for i in range(4):
        for size in (3, 5):
            ids = np.random.default_rng(i).permutation(WORDS)[:size]
            run(ids)
            grad = table.weight.grad
            assert isinstance(grad, RowGradient)
            assert np.flatnonzero(np.asarray(grad).any(1)).tolist() == sorted(ids.tolist())


def test_launches_and_memory_do_not_know_the_size_of_the_table(
    fake_gpu: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ids are copied and ranked; then two launches, or four with the norm. Nothing is made that is as large
    as the table."""
    asked: list[int] = []
    allocate = type(fake_gpu).allocate
    monkeypatch.setattr(
        type(fake_gpu), "allocate", lambda machine, size: asked.append(size) or allocate(machine, size)
    )
    seen = []
    for rows in (50, 5000):
        table = nn.Embedding(rows, 64, sparse=True)
        update = optim.SparseAdam(table.parameters())
        ids, dy = gp.tensor(np.arange(96) % 40), gp.tensor(np.ones((96, 64), np.float32)).data
        for _ in range(2):
            y = table(ids)
            update.zero_grad()
            fake_gpu.costs.clear(), asked.clear()
            y.backward(dy)
            update.clip_grad_norm(1.0)
            update.step()
        seen.append(([cost.name for cost in fake_gpu.costs], asked.copy()))
    assert seen[0] == seen[1]
    names, sizes = seen[0]
    assert names[1:] == ["rank_ids", "sparse_norm", "sparse_norm_finish", "sparse_adam", "sparse_adam_finish"]
    assert 0 < max(sizes) <= 96 * 64 * 4


@pytest.mark.parametrize("rows_first", [True, False])
def test_a_table_that_another_layer_uses_has_a_whole_gradient(any_gpu: str, rows_first: bool) -> None:
    start = np.random.default_rng(0).standard_normal((9, 4))
    table, ids = gp.Parameter(gp.tensor(start).data), np.array([1, 2, 1])
    losses = [gp.ops.embedding(ids, table, sparse=True).sum(), (table * table).sum()]
    for loss in losses if rows_first else losses[::-1]:
        loss.backward()
    want = 2 * start
    np.add.at(want, ids, 1.0)
    np.testing.assert_allclose(gp.Tensor(table.grad).numpy(), want, rtol=1e-12)


@pytest.mark.parametrize("dtype", ["float16", "float32"])
@pytest.mark.parametrize("ids", [[3, 4, 3, 7, 3, 4], [4], [3, 3], []])
def test_sums_and_clipped_values(any_gpu: str, dtype: str, ids: list[int]) -> None:
    table = gp.Parameter(gp.tensor(np.ones((9, 8), dtype)).data)
    gp.ops.embedding(np.array(ids, np.int64), table, padding_idx=4, sparse=True).backward(
        np.ones((len(ids), 8), dtype)
    )
    want = np.zeros((9, 8))
    np.add.at(want, [i for i in ids if i != 4], 1.0)
    assert isinstance(table.grad, RowGradient)
    np.testing.assert_array_equal(np.asarray(table.grad), want)
    assert gp.Tensor(table.grad.coalesce().ids).numpy().tolist() == sorted(set(ids) - {4})
    optim.clip_grad_value_([table], 2.0)
    np.testing.assert_array_equal(np.asarray(table.grad), np.minimum(want, 2.0))


@pytest.mark.parametrize("device", ["cpu", "emulated", "cuda"])
def test_one_id_and_one_number_keep_their_shape(fake_gpu: Any, device: str) -> None:
    """CuPy's and NumPy's ascontiguousarray give the one element of an array () an axis."""
    with gp.use_device(device):
        table = gp.Parameter(np.arange(12.0).reshape(4, 3))
        y = gp.ops.embedding(2, table)
        dropped = gp.ops.dropout(gp.tensor(np.array(5.0)), 0.5)
        assert (y.shape, dropped.shape) == ((3,), ())
        (y * dropped).sum().backward()
        np.testing.assert_array_equal(y.numpy(), [6.0, 7.0, 8.0])
        assert gp.Tensor(table.grad).numpy()[2].tolist() == [dropped.item()] * 3
