"""Work cut over threads: the same numbers, the same bits each time, errors that arrive."""

import signal
import sys
import threading
import time
from functools import partial

import numpy as np
import pytest

import gpuprop as gp
from gpuprop import nn, ops
from gpuprop.backend import floats, gemm, threads
from gpuprop.ops.blockwise import ROW, blockwise, maximum_with_zero
from gpuprop.testing import gradcheck

rng = np.random.default_rng(0)


@pytest.fixture
def three():
    before = gp.num_threads()
    gp.set_num_threads(3)
    yield
    gp.set_num_threads(before)


@pytest.fixture
def eager(three, monkeypatch):
    """Everything is cut, however small."""
    for module in (gemm, threads):
        monkeypatch.setattr(module, "LEAST", 1)
    monkeypatch.setattr(threads.pieces, "__defaults__", (1,))
    monkeypatch.setattr(threads.over_rows, "__kwdefaults__", {"products": False, "least": 1})
    monkeypatch.setattr("gpuprop.ops.blockwise.BLOCK", 8)
    monkeypatch.setattr(gemm, "LIBRARY_SPLITS", 1)


def test_rows_are_cut_into_a_piece_a_thread(three):
    assert threads.pieces(10, 1 << 30) == [(0, 3), (3, 6), (6, 10)]
    assert threads.pieces(2, 1 << 30) == [(0, 1), (1, 2)]
    assert threads.pieces(10, 100) == [(0, 10)]
    seen = []
    threads.over_rows(lambda a, b: seen.append((a, b, threads.pieces(10, 1 << 30))), 10, 1 << 30)
    assert sorted(seen) == [(0, 3, [(0, 10)]), (3, 6, [(0, 10)]), (6, 10, [(0, 10)])]  # not cut again


def test_the_error_of_a_piece_arrives_and_the_pool_goes_on(three):
    def work(start, stop):
        if start:
            raise ValueError(f"piece {start}")

    with pytest.raises(ValueError, match="piece 3"):
        threads.over_rows(work, 10, 1 << 30)
    done = []
    threads.over_rows(lambda a, b: done.append(b - a), 10, 1 << 30)
    assert sum(done) == 10


def test_a_piece_is_forgotten_when_it_has_ended(three):
    """Else the memory of its arrays could not be used again."""
    a = np.zeros(10)
    before = sys.getrefcount(a)
    threads.over_rows(partial(lambda a, start, stop: a[start:stop].fill(start), a), 10, 1 << 30)
    assert a.tolist() == [0] * 3 + [3] * 3 + [6] * 4
    assert sys.getrefcount(a) == before


def test_threads_of_the_user_share_the_team(three):
    def many(results):
        for i in range(200):
            found = np.empty(30, int)
            threads.over_rows(lambda start, stop, found=found, i=i: found[start:stop].fill(i), 30, 1 << 30)
            results.append(found.tolist() == [i] * 30)

    results = []
    users = [threading.Thread(target=many, args=(results,)) for _ in range(3)]
    for user in users:
        user.start()
    for user in users:
        user.join()
    assert results == [True] * 600


def test_an_interrupt_waits_for_the_pieces(three):
    """They write into arrays, and the next call finds the threads free."""
    ended = []

    def work(start, stop):
        if start:
            time.sleep(0.2)
            ended.append(start)

    before = signal.signal(signal.SIGALRM, signal.default_int_handler)
    try:
        signal.setitimer(signal.ITIMER_REAL, 0.05)
        with pytest.raises(KeyboardInterrupt):
            threads.over_rows(work, 10, 1 << 30)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    assert sorted(ended) == [3, 6]
    threads.over_rows(work, 10, 1 << 30)
    assert len(ended) == 4


def test_fewer_threads_end_the_others(three):
    threads.over_rows(lambda start, stop: None, 10, 1 << 30)
    team = threads._threads.team
    gp.set_num_threads(1)
    deadline = time.monotonic() + 10
    while any(t.is_alive() for t in team.threads) and time.monotonic() < deadline:
        time.sleep(0.01)
    assert not any(t.is_alive() for t in team.threads)


@pytest.mark.parametrize(
    ("a", "b"),
    [
        ((9, 5), (5, 4)),
        ((4, 5), (5, 9)),
        ((6, 4, 5), (6, 5, 3)),
        ((2, 6, 4, 5), (2, 6, 5, 3)),
        ((6, 4, 5), (5, 3)),
    ],
)
def test_products_that_are_cut(eager, a, b):
    a, b = rng.standard_normal(a), rng.standard_normal(b)
    np.testing.assert_allclose(gemm.matmul(a, b), a @ b, rtol=1e-13)
    out = np.empty((a @ b).shape)
    assert gemm.matmul(a, b, out=out) is out
    np.testing.assert_allclose(out, a @ b, rtol=1e-13)
    if a.ndim == 2:
        np.testing.assert_allclose(gemm.matmul(b.T, a.T), (a @ b).T, rtol=1e-13)


@pytest.mark.parametrize("lead", [(), (3,)])
@pytest.mark.parametrize("sizes", [(203, 5, 4), (5, 203, 4), (5, 4, 203), (1, 203, 4), (203, 5, 1)])
def test_products_with_one_long_axis(monkeypatch, lead, sizes):
    """They are computed in pieces, or as the sum of some, whatever the order in memory."""
    for name, value in {"LIBRARY_SPLITS": 1, "SMALL": 1000, "LONG": 4}.items():
        monkeypatch.setattr(gemm, name, value)
    rows, inner, columns = sizes
    a, b = rng.standard_normal((*lead, rows, inner)), rng.standard_normal((*lead, inner, columns))
    for left in (a, np.asfortranarray(a)):
        for right in (b, np.asfortranarray(b), b[0] if lead else b):
            np.testing.assert_allclose(gemm.matmul(left, right), left @ right, rtol=1e-10, atol=1e-13)


def test_the_matrix_library_gets_its_threads_back():
    if not threads.can_hold_blas():
        pytest.skip("this NumPy has no OpenBLAS of its own")
    get, put = threads._threads.blas
    before = get()
    put(2)
    try:
        with threads.blas_on_one_thread():
            assert get() == 1
            with threads.blas_on_one_thread():
                assert get() == 1
            assert get() == 1
        assert get() == 2
    finally:
        put(before)


def test_blocks_give_the_plain_result(eager):
    x, y = rng.standard_normal((7, 5)), rng.standard_normal((7, 5))

    def f(a, b, out):
        np.multiply(a, b, out)
        out += 1

    np.testing.assert_array_equal(blockwise(f, x, y), x * y + 1)
    np.testing.assert_array_equal(blockwise(f, x.T, y.T), (x * y + 1).T)
    np.testing.assert_array_equal(blockwise(np.tanh, x), np.tanh(x))
    np.testing.assert_array_equal(blockwise(np.tanh, x.T), np.tanh(x.T))
    np.testing.assert_array_equal(blockwise(np.multiply, x, y > 0), x * (y > 0))


@pytest.mark.parametrize("size", [0, 3, ROW, 2 * ROW + 5])
def test_the_maximum_with_zero_is_exact_in_every_part(three, size):
    x = np.random.default_rng(size).standard_normal(size).astype(np.float32)
    np.testing.assert_array_equal(blockwise(maximum_with_zero, x, one_pass=True), np.maximum(x, 0))
    steps = np.empty(2 * size, np.float32)[::2]
    maximum_with_zero(x, steps)
    np.testing.assert_array_equal(steps, np.maximum(x, 0))


def loss_and_gradients():
    gp.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 8, activation="relu"), nn.LayerNorm(8), nn.Dropout(0.5), nn.GELU())
    gru, out = nn.GRU(8, 4, bidirectional=True), nn.Linear(8, 5)
    parameters = [*model.parameters(), *gru.parameters(), *out.parameters()]
    optimizer = gp.optim.AdamW(parameters, lr=0.1)
    data = np.random.default_rng(3)
    x, y = data.standard_normal((20, 3, 6)).astype(np.float32), data.integers(0, 5, (20, 3))
    losses = []
    for _ in range(3):
        optimizer.zero_grad()
        loss = nn.CrossEntropyLoss()(out(gru(model(x))[0]), y)
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses, [p.numpy().copy() for p in parameters]


def test_training_over_threads_repeats_to_the_bit_and_agrees_with_one_thread(eager):
    first, again = loss_and_gradients(), loss_and_gradients()
    assert first[0] == again[0]
    for a, b in zip(first[1], again[1], strict=True):
        np.testing.assert_array_equal(a, b)
    gp.set_num_threads(1)
    np.testing.assert_allclose(loss_and_gradients()[0], first[0], rtol=1e-5)


def test_gradients_of_operations_that_are_cut(eager):
    x, w, b = rng.standard_normal((6, 4)), rng.standard_normal((3, 4)), rng.standard_normal(3)
    gradcheck(lambda x, w, b: ops.linear(x, w, b, activation="relu"), [x, w, b])
    gradcheck(lambda x, w, b: ops.layer_norm(x, w, b), [x, rng.standard_normal(4), rng.standard_normal(4)])
    gradcheck(lambda x: x.tanh() * x.sigmoid() + x.gelu(), [x])


@pytest.mark.parametrize("count", [0, -1, 1.5, True, "2"])
def test_a_wrong_number_of_threads_is_refused(count):
    with pytest.raises(gp.DataError, match="number of threads"):
        gp.set_num_threads(count)


def test_the_environment_names_the_number_of_threads(monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "5")
    monkeypatch.delenv("GPUPROP_THREADS", raising=False)
    assert threads._wanted() == 5
    monkeypatch.setenv("GPUPROP_THREADS", "3")
    assert threads._wanted() == 3
    monkeypatch.setenv("GPUPROP_THREADS", "many")
    with pytest.raises(gp.DataError, match="GPUPROP_THREADS"):
        threads._wanted()


@pytest.mark.skipif(not floats.CAN_FLUSH, reason="subnormals can only be flushed on x86-64 Linux")
def test_subnormals_are_zero_inside_a_backward_pass_only():
    tiny = np.full(3, 1e-30, np.float32)
    with floats.flushed():
        with floats.flushed():
            assert not (tiny * np.float32(1e-10)).any()
        assert not (tiny * np.float32(1e-10)).any()
    assert (tiny * np.float32(1e-10)).all()
    x = gp.tensor(tiny, requires_grad=True)
    (x * np.float32(1.0)).backward(np.full(3, 1e-40, np.float32))
    assert not x.grad.any()
