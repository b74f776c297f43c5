"""Memory that is used again: never while somebody can still see it, and not kept for ever."""

import threading

import numpy as np
import pytest

import gpuprop as gp
from gpuprop.backend import buffers
from gpuprop.backend.device import resolve
from gpuprop.backend.memory import release_memory

SHAPE = (64, 256)


@pytest.fixture(autouse=True)
def own_pool(monkeypatch):
    monkeypatch.setattr(buffers, "pool", buffers.Pool())
    monkeypatch.setattr(buffers, "_switched_on", True)


def address(x):
    return x.__array_interface__["data"][0]


def made(shape=SHAPE, value=0.0):
    x = buffers.empty(np, shape, np.float32)
    x.fill(value)
    return x


def test_memory_that_nobody_refers_to_is_handed_out_again():
    first = made()
    place = address(first)
    del first
    assert address(made()) == place
    assert buffers.pool.held() == made().nbytes


@pytest.mark.parametrize(
    "keep",
    [
        lambda x: x,
        lambda x: x[3:5, ::2],
        lambda x: x.T[1:].swapaxes(0, 1),
        lambda x: memoryview(x),
        lambda x: np.from_dlpack(x),
        lambda x: np.lib.stride_tricks.sliding_window_view(x, (2, 2)),
        lambda x: gp.tensor(x).reshape(-1)[5:],
        lambda x: x.__dlpack__(),
        lambda x: x.flat,
        lambda x: {"deep": [x[0].view(np.int32)]},
    ],
    ids=[
        "itself",
        "slice",
        "turned",
        "memoryview",
        "dlpack",
        "windows",
        "tensor",
        "capsule",
        "flat",
        "nested",
    ],
)
def test_whatever_is_kept_of_an_array_is_not_overwritten(keep):
    x = made(value=1.0)
    kept, place = keep(x), address(x)
    del x
    assert place not in {address(o) for o in [made(value=2.0) for _ in range(20)]}
    if isinstance(kept, np.ndarray):
        assert (kept == 1.0).all()
    del kept
    assert place in {address(o) for o in [made() for _ in range(30)]}


def test_a_user_keeps_outputs_and_gradients_through_later_steps():
    gp.manual_seed(0)
    layer = gp.nn.Linear(64, 128, activation="relu")
    rng = np.random.default_rng(0)
    inputs = [rng.standard_normal((200, 64), dtype=np.float32) for _ in range(6)]
    kept = []
    for x in inputs:
        x = gp.tensor(x, requires_grad=True)
        y = layer(x)
        (y * y).sum().backward()
        kept.append((y.numpy(), y.numpy().copy(), x.grad, x.grad.copy()))
        del x, y
    for y, y_then, grad, grad_then in kept:
        np.testing.assert_array_equal(y, y_then)
        np.testing.assert_array_equal(grad, grad_then)


def test_slightly_other_shapes_share_memory():
    made((64, 250))
    held = buffers.pool.held()
    made((63, 251))
    assert buffers.pool.held() == held
    made((40, 256))  # half as large: the larger one serves
    assert buffers.pool.held() == held
    made((10, 256))
    assert buffers.pool.held() == held + 10 * 256 * 4


def test_what_is_not_needed_any_more_is_let_go(monkeypatch):
    monkeypatch.setattr(buffers, "SWEEP", 50)
    large = [made((512, 512)) for _ in range(4)]
    kept = large[0]
    kept.fill(5.0)
    del large
    for _ in range(200):
        made()
    assert buffers.pool.held() <= 3 * made().nbytes + kept.nbytes
    assert (kept == 5.0).all()


def test_what_each_step_needs_stays(monkeypatch):
    monkeypatch.setattr(buffers, "SWEEP", 50)
    for _ in range(100):
        step = [made(), made((512, 512)), made()]
        places = {address(x) for x in step}
        del step
    assert {address(x) for x in [made(), made((512, 512)), made()]} == places


def test_no_memory_is_lost_on_the_way():
    rng = np.random.default_rng(0)
    held = [made((64, int(n))) for n in rng.integers(100, 300, 30)]
    for _ in range(20):
        for i in rng.permutation(30)[:25]:
            before = buffers.pool.held()
            held[i] = None
            held[i] = made((64, int(rng.integers(100, 300))))
            assert buffers.pool.held() >= before
    del held
    before = buffers.pool.held()
    kept = [made((64, 150)) for _ in range(10)]
    assert len({address(x) for x in kept}) == 10
    assert buffers.pool.held() == before


def test_a_larger_buffer_takes_the_place_of_a_smaller_free_one():
    made((64, 256))
    larger = made((64, 300))
    assert buffers.pool.held() == 64 * 320 * 4
    place = address(larger)
    del larger
    assert address(made((64, 256))) == place


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_memory_begins_at_a_cache_line(dtype):
    held = [buffers.empty(np, (n, 33), dtype) for n in range(250, 1250, 100)]
    held += [buffers.lasting_zeros(np, n, dtype) for n in (1, 1000, 100_000)]
    assert [address(x) % 64 for x in held] == [0] * len(held)
    assert [x.shape for x in held[-3:]] == [(1,), (1000,), (100_000,)]
    assert not any(x.any() for x in held[-3:])


def test_threads_never_get_the_same_memory():
    wrong = []

    def work(number):
        for i in range(300):
            held = [made(value=number * 1000 + i + k) for k in range(4)]
            if any((x != number * 1000 + i + k).any() for k, x in enumerate(held)):
                wrong.append(number)

    threads = [threading.Thread(target=work, args=(n,)) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []


def test_what_was_freed_last_is_handed_out_first():
    """It is still in the cache."""
    held = [made() for _ in range(10)]
    places = [address(x) for x in held]
    for i in (3, 7, 5):
        held[i] = None
    assert [address(x) for x in [made(), made(), made()]] == [places[i] for i in (5, 7, 3)]


@pytest.mark.parametrize("shape", [(), (0,), (3, 0, 5), 4, 100_000, (7, 11, 13), (2, 3, 4096)])
@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.int64, bool, "float16"])
def test_arrays_are_what_numpy_makes(shape, dtype):
    for make in (buffers.empty, buffers.zeros):
        x = make(np, shape, dtype)
        expected = np.zeros(shape, dtype)
        assert (x.shape, x.dtype, x.strides) == (expected.shape, expected.dtype, expected.strides)
        assert x.flags.writeable
        assert x.flags.aligned
    np.testing.assert_array_equal(x, expected)


def test_copies_are_in_c_order_and_only_made_where_needed():
    x = made(value=3.0)
    assert buffers.contiguous(np, x) is x
    turned = buffers.contiguous(np, x.T)
    assert turned.flags.c_contiguous
    assert not np.shares_memory(turned, x)
    np.testing.assert_array_equal(buffers.copy(np, x.T), x.T)


def test_it_can_be_switched_off(monkeypatch):
    monkeypatch.setattr(buffers, "_switched_on", False)
    assert made().base is None
    assert buffers.pool.held() == 0


def test_memory_is_let_go_with_the_device_s():
    made()
    release_memory(resolve("cpu"))
    assert buffers.pool.held() == 0
