"""Rows of a table in kernels: the sort of the ids, and sums over runs of equal ids, however they are cut."""

import numpy as np
import pytest

import gpuprop as gp
from gpuprop.backend import kernels, table_rows
from gpuprop.backend.arrays import to_device, to_host
from gpuprop.ops import embedding_kernels, shapes
from gpuprop.testing import gradcheck, unavailable


@pytest.fixture
def kernel_device(device):
    if device == "cpu":
        pytest.skip("no kernels")
    return device


SORTS = [table_rows.rank, table_rows.radix_sort]


@pytest.mark.parametrize("sort", SORTS)
@pytest.mark.parametrize("dtype", [np.int64, np.int32])
@pytest.mark.parametrize(("n", "rows"), [(1, 1), (31, 5), (1500, 200), (1100, 300), (257, 70_000)])
def test_the_sort_is_stable_for_any_number_of_ids(kernel_device, n, rows, dtype, sort):
    """One, two and three passes of eight bits; runs of places with and without a rest."""
    ids = np.random.default_rng(n).integers(0, rows, n).astype(dtype)
    keys, order = (to_host(a) for a in sort(to_device(ids), rows))
    np.testing.assert_array_equal(order, np.argsort(ids, kind="stable"))
    np.testing.assert_array_equal(keys, np.sort(ids))


def test_some_thousand_ids_are_ranked(monkeypatch):
    launched = []
    for name in ("rank", "radix_sort"):
        monkeypatch.setattr(table_rows, name, lambda ids, rows, skip, name=name: launched.append(name))
    monkeypatch.setattr(table_rows, "RANKED", 5)
    for n in (5, 6):
        table_rows.sort(np.zeros(n, int), 3)
    assert launched == ["rank", "radix_sort"]


@pytest.mark.parametrize("sort", SORTS)
def test_what_is_outside_or_left_out_comes_last(kernel_device, sort):
    ids = np.array([3, -1, 0, 9, 2**40, 3, 1])
    keys, order = (to_host(a) for a in sort(to_device(ids), 5, skip=0))
    assert keys.tolist() == [1, 3, 3, 5, 5, 5, 5]
    assert order.tolist() == [6, 0, 5, 1, 2, 3, 4]


def sums(ids, values, rows, skip=None):
    out = np.zeros((rows, values.shape[1]))
    keep = ids != skip
    np.add.at(out, ids[keep], values[keep].astype(np.float64))
    return out


IDS = {
    "one": np.zeros(200, int),  # a run over seven chunks
    "two": np.repeat([4, 1], [64, 61]),  # runs that end with a chunk
    "frequent": np.minimum(np.random.default_rng(0).geometric(0.2, 300), 9),
    "all": np.arange(32)[::-1].copy(),
    "single": np.array([7]),
}


@pytest.mark.parametrize("columns", [1, 4, 30, 136])
@pytest.mark.parametrize("case", IDS)
def test_gradients_of_runs(kernel_device, case, columns):
    ids, rows = IDS[case], 33
    values = np.random.default_rng(1).standard_normal((ids.size, columns))
    for skip in (None, 1):
        table = to_device(np.ones((rows, columns)))
        embedding_kernels.add_rows(table, to_device(ids), to_device(values), skip)
        np.testing.assert_allclose(to_host(table), 1 + sums(ids, values, rows, skip), rtol=1e-12, atol=1e-13)


@pytest.fixture
def any_order():
    gp.use_deterministic_algorithms(False)
    yield
    gp.use_deterministic_algorithms(True)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("case", IDS)
def test_gradients_by_atomics(kernel_device, any_order, case, dtype, monkeypatch):
    launched, project = [], kernels.project
    monkeypatch.setattr(
        kernels, "project", lambda file, name: launched.append(name.partition("<")[0]) or project(file, name)
    )
    ids, rows = IDS[case], 33
    values = np.random.default_rng(1).standard_normal((ids.size, 30)).astype(dtype)
    for skip in (None, 1):
        table = to_device(np.ones((rows, 30), dtype))
        embedding_kernels.add_rows(table, to_device(ids), to_device(values), skip)
        embedding_kernels.add_rows(table, to_device(np.array([-1, rows])), to_device(np.ones((2, 30), dtype)))
        tolerance = 1e-12 if dtype == np.float64 else 1e-4
        np.testing.assert_allclose(
            to_host(table), 1 + sums(ids, values, rows, skip), rtol=tolerance, atol=tolerance
        )
    assert set(launched) == {"embedding_backward_atomic"}


@pytest.mark.skipif(unavailable("emulated") is not None, reason="no emulator")
@pytest.mark.parametrize("deterministic", [True, False])
def test_the_order_of_threads_shows_only_without_determinism(deterministic, any_order):
    """And the checker finds nothing wrong with additions that are atomic."""
    gp.use_deterministic_algorithms(deterministic)
    values = np.random.default_rng(1).standard_normal((200, 8)).astype(np.float32)
    found = []
    for order in ("forward", "reverse"):
        with gp.use_device("emulated"), kernels.check(order=order):
            table = np.zeros((3, 8), np.float32)
            embedding_kernels.add_rows(table, np.arange(200) % 3, values)
            found.append(table)
    np.testing.assert_allclose(*found, rtol=1e-4, atol=1e-5)
    assert (found[0].tobytes() == found[1].tobytes()) == deterministic


def test_half_types_are_added_up_in_float32_always(kernel_device, any_order):
    ids, values = np.zeros(300, int), np.full((300, 8), 0.1, np.float16)
    table = to_device(np.zeros((2, 8), np.float16))
    embedding_kernels.add_rows(table, to_device(ids), to_device(values))
    assert to_host(table)[0].tolist() == [np.float16(300 * np.float32(np.float16(0.1)))] * 8


def test_determinism_is_the_default_and_a_choice():
    assert gp.are_deterministic_algorithms_enabled()
    with pytest.raises(TypeError, match="True or False, not 1"):
        gp.use_deterministic_algorithms(1)


def test_an_id_outside_the_table_gives_not_a_number(kernel_device):
    """No wait for the host, and no wrong row: the loss shows it."""
    table = to_device(np.ones((3, 4), np.float32))
    y = to_host(embedding_kernels.forward(table, to_device(np.array([[0, 3], [-1, 2]]))))
    assert np.isnan(y).all(-1).tolist() == [[False, True], [True, False]]
    assert (y[[0, 1], [0, 1]] == 1).all()


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
@pytest.mark.parametrize("columns", [3, 8])
def test_forward_and_gradient_in_the_type_of_the_table(device, dtype, columns):
    rng = np.random.default_rng(2)
    ids, start = rng.integers(0, 7, (5, 9)), rng.standard_normal((7, columns)).astype(dtype)
    dy = rng.standard_normal((5, 9, columns)).astype(dtype)
    table = gp.tensor(start, requires_grad=True)
    y = gp.ops.embedding(ids.astype(np.int16), table, padding_idx=2)
    np.testing.assert_array_equal(y.numpy(), start[ids])
    y.backward(gp.tensor(dy).data)
    assert table.grad.dtype == dtype
    wanted = sums(ids.reshape(-1), dy.reshape(-1, columns), 7, skip=2)
    np.testing.assert_allclose(
        to_host(table.grad), wanted, rtol=2e-3 if dtype == np.float16 else 1e-5, atol=4e-3
    )


def test_rows_taken_twice_by_an_index(device):
    x = np.random.default_rng(3).standard_normal((4, 5))
    gradcheck(lambda t: shapes.getitem(t, np.array([1, 1, 3])), [x])
