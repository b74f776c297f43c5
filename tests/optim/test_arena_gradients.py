"""Gradients written straight into the optimizer's block: right in every step, whoever else writes to it."""

import contextlib
import tracemalloc

import numpy as np
import pytest

import gpuprop as gp
from gpuprop import nn, ops, optim

rng = np.random.default_rng(0)


def table(rows=9, size=3):
    return gp.Parameter(rng.standard_normal((rows, size)))


def expected(ids, dy, rows=9):
    out = np.zeros((rows, dy.shape[-1]))
    np.add.at(out, ids, dy)
    return out


def backward(t, ids, dy, **options):
    ops.embedding(ids, t, **options).backward(dy)


def test_an_operation_is_offered_the_block_only_for_a_first_gradient():
    class Look(gp.Op):
        @staticmethod
        def forward(ctx, a, b):
            return a + b

        @staticmethod
        def backward(ctx, dy):
            offered.append([ctx.destination(i) for i in (0, 1)])
            return dy, dy

    offered = []
    p, q, free = (gp.Parameter(np.zeros(2)) for _ in range(3))
    optim.SGD([p, q], lr=0.1)
    Look.apply(p, q).sum().backward()
    assert offered[-1][0] is p.leaf.buffer
    assert offered[-1][1] is q.leaf.buffer
    Look.apply(p, free).sum().backward()  # p has a gradient by now, `free` no optimizer
    assert offered[-1] == [None, None]
    p.grad = None
    Look.apply(p, p).sum().backward()  # two gradients into one place
    assert offered[-1] == [None, None]
    np.testing.assert_array_equal(p.grad, [2, 2])


def test_the_gradient_of_a_table_is_right_in_every_step():
    t = table()
    optimizer = optim.SGD([t], lr=0.0)
    for step in range(6):
        ids = rng.integers(0, 9, 30 if step % 2 else 4)
        dy = rng.standard_normal((ids.size, 3))
        optimizer.zero_grad()
        backward(t, ids, dy)
        assert t.leaf.grad is t.leaf.buffer
        np.testing.assert_allclose(optimizer.arenas[0].grads.reshape(9, 3), expected(ids, dy))
        assert t.leaf.rows is not None  # only these are cleared next time


def test_rows_that_others_wrote_are_cleared_too():
    t = table()
    optimizer = optim.SGD([t], lr=0.0)
    ids, dy = np.array([1, 1, 4]), rng.standard_normal((3, 3))
    backward(t, ids, dy)
    held = t.grad  # the user has it now and may write to it
    optimizer.zero_grad()
    backward(t, ids, dy)
    held[7] = 5.0
    optimizer.zero_grad()
    backward(t, ids, dy)
    np.testing.assert_allclose(t.grad, expected(ids, dy))

    tied = table()
    optimizer = optim.SGD([tied], lr=0.0)
    for _ in range(2):  # a table that is the output layer as well: a dense gradient on top, or below
        optimizer.zero_grad()
        h = ops.embedding(ids, tied)
        ops.linear(h, tied).sum().backward()
        want = expected(ids, np.tile(tied.data.sum(0), (3, 1))) + tied.data[ids].sum(0)
        np.testing.assert_allclose(optimizer.arenas[0].grads.reshape(9, 3), want)


def test_a_second_backward_adds_and_padding_gets_nothing():
    t = table()
    optim.SGD([t], lr=0.0)
    ids, dy = np.array([[0, 2], [2, 0]]), rng.standard_normal((2, 2, 3))
    for _ in range(2):
        backward(t, ids, dy, padding_idx=0)
    want = 2 * expected(ids.ravel(), dy.reshape(-1, 3))
    want[0] = 0
    np.testing.assert_allclose(t.grad, want)


@pytest.mark.parametrize("ids", [[], [3], [2] * 12, [5, 1, 5, 1, 5, 1, 5, 1, 5, 1, 0]])
def test_ids_that_occur_never_once_and_often(ids):
    t, ids = table(), np.array(ids, int)
    dy = rng.standard_normal((ids.size, 3))
    optim.SGD([t], lr=0.0)
    backward(t, ids, dy)
    np.testing.assert_allclose(t.grad, expected(ids, dy))


def test_clipping_sees_the_whole_gradient_and_keeps_it_clean():
    t = table()
    optimizer = optim.SGD([t], lr=0.0)
    dy = np.full((2, 3), 2.0)
    for ids in (np.array([0, 1]), np.array([3, 4])):
        optimizer.zero_grad()
        backward(t, ids, dy)
        assert optim.clip_grad_norm_([t], 1.0).item() == pytest.approx(np.sqrt(24))
        np.testing.assert_allclose(t.leaf.buffer, expected(ids, dy) / np.sqrt(24), rtol=1e-6)
        optim.clip_grad_value_([t], 0.1)
        np.testing.assert_allclose(t.leaf.buffer, expected(ids, np.full((2, 3), 0.1)))


@pytest.mark.parametrize("make", [optim.Adam, optim.AdamW])
def test_moments_of_idle_weights_end_as_zero(make, monkeypatch):
    """Flushed where the processor can, cleared now and then elsewhere: never subnormal."""
    for flush in (True, False):
        monkeypatch.setattr("gpuprop.optim.optimizer.CAN_FLUSH", flush)
        if not flush:
            monkeypatch.setattr("gpuprop.optim.optimizer.flushed", contextlib.nullcontext)
        p = gp.Parameter(np.ones(4, np.float32))
        optimizer = make([p], lr=1e-3, betas=(0.5, 0.6))
        p.grad = np.ones(4, np.float32)
        optimizer.step()
        p.leaf.buffer.fill(0)
        for _ in range(400):
            optimizer.step()
        for moment in optimizer.state[0].values():
            np.testing.assert_array_equal(moment, 0)


def test_a_steady_step_keeps_nothing():
    gp.manual_seed(0)
    model = nn.Sequential(nn.Linear(64, 256, activation="relu"), nn.Linear(256, 10))
    optimizer, criterion = optim.Adam(model.parameters()), nn.CrossEntropyLoss()
    x, y = rng.standard_normal((128, 64)).astype(np.float32), rng.integers(0, 10, 128)

    def step():
        optimizer.zero_grad()
        criterion(model(x), y).backward()
        optimizer.step()

    for _ in range(3):
        step()
    tracemalloc.start()
    step()
    before, _ = tracemalloc.get_traced_memory()
    for _ in range(10):
        step()
    after, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert after - before < 20_000
    assert peak - before < 2**20


def test_every_parameter_begins_at_a_multiple_of_16_bytes_in_any_type():
    params = [gp.Parameter(np.full(n, 1 + n, np.float32)) for n in (3, 16, 17, 1)]
    optimizer = optim.Adam(params, lr=0.1)
    (arena,) = optimizer.arenas
    assert arena.ranges == [(0, 3), (16, 32), (32, 49), (64, 65)]
    assert arena.size == 65
    for p in params:
        p.grad = np.ones(p.shape, np.float32)
    optimizer.step()
    between = np.ones(arena.size, bool)
    for start, stop in arena.ranges:
        between[start:stop] = False
    assert not arena.data[between].any()
    for p in params:
        np.testing.assert_allclose(p.numpy(), 0.9 + p.size, rtol=1e-6)
