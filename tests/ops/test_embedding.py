"""The gradient of an embedding on a CPU: rare and frequent ids, tables of any size, memory used again."""

import numpy as np
import pytest

import gpuprop as gp
from gpuprop import nn
from gpuprop.backend.table_rows_on_host import set_rows, sorting


def ids_of(kind, rows, count):
    rng = np.random.default_rng(0)
    if kind == "none":
        return np.empty(0, np.int64)
    if kind == "all alike":
        return np.full(count, rows - 1)
    return rng.integers(0, rows, count) if kind == "even" else np.minimum(rng.zipf(1.3, count), rows) - 1


@pytest.mark.parametrize("rows", [7, 300, 70_000])
@pytest.mark.parametrize("kind", ["even", "zipf", "all alike", "none"])
@pytest.mark.parametrize("padding_idx", [None, 0])
@pytest.mark.parametrize("count", [9, 2000])
def test_rows_are_the_sums_over_their_ids(rows, kind, count, padding_idx):
    ids = ids_of(kind, rows, count)
    values = np.random.default_rng(1).standard_normal((ids.size, 3))
    table, expected = np.zeros((rows, 3)), np.zeros((rows, 3))
    written = set_rows(table, ids, values, padding_idx)
    np.add.at(expected, ids, values)
    if padding_idx is not None:
        expected[padding_idx] = 0
    np.testing.assert_allclose(table, expected, rtol=1e-11, atol=1e-11)
    np.testing.assert_array_equal(np.sort(written), np.setdiff1d(ids, [padding_idx]))


@pytest.mark.parametrize("dtype", [np.int64, np.int32, np.uint8])
@pytest.mark.parametrize("largest", [200, 1 << 17, (1 << 33) + 5])
def test_sorting_is_stable_whatever_the_size_of_the_ids(dtype, largest):
    ids = np.random.default_rng(2).integers(0, min(largest, np.iinfo(dtype).max) + 1, 500, dtype=dtype)
    ids[::3] = ids[0]
    np.testing.assert_array_equal(sorting(ids), np.argsort(ids, kind="stable"))


def test_rows_of_the_step_before_are_cleared():
    layer = nn.Embedding(50, 4, padding_idx=0)
    optimizer = gp.optim.SGD(layer.parameters(), lr=0.0)
    rng = np.random.default_rng(3)
    for _ in range(5):
        ids = rng.integers(0, 50, (3, 4))
        optimizer.zero_grad()
        layer(ids).sum().backward()
        expected = np.bincount(ids.ravel(), minlength=50).astype(np.float32)
        expected[0] = 0
        np.testing.assert_array_equal(layer.weight.leaf.grad, np.repeat(expected[:, None], 4, axis=1))


def test_padding_counts_as_zeros_where_that_is_asked_for(device):
    table = gp.tensor(np.arange(6.0).reshape(3, 2) + 1, requires_grad=True)
    ids = np.array([[1, 0], [0, 2]])
    y = gp.ops.embedding(ids, table, padding_idx=0, zero_padding=True)
    np.testing.assert_array_equal(y.numpy(), [[[3, 4], [0, 0]], [[0, 0], [5, 6]]])
    y.sum().backward()
    np.testing.assert_array_equal(gp.tensor(table.grad).numpy(), [[0, 0], [1, 1], [1, 1]])
    kept = gp.ops.embedding(ids, table, padding_idx=0)
    np.testing.assert_array_equal(kept.numpy()[0, 1], [1, 2])
