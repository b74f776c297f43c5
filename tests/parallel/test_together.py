"""The public functions on three ranks, and training loops of one's own."""

import numpy as np
import pytest
from ranks import run_program

from gpuprop.training import load_failure


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("together")
    return folder, run_program("together", 3, folder)


@pytest.fixture
def told(run):
    return run[1]


def test_ranks_know_themselves(told):
    assert [t["rank"] for t in told] == [t["local_rank"] for t in told] == [0, 1, 2]
    assert {t["world_size"] for t in told} == {3}


def test_arrays_of_all_ranks(told):
    for t in told:
        for dtype in ("float64", "float32", "float16", "int64", "uint8"):
            assert t[dtype] == [6, 6]
        assert t["max"] == [2, 0]
        assert t["broadcast"] == [2, 2]
        assert t["gather"] == [[[0, 9]], [[1, 9]], [[2, 9]]]
        assert t["texts"] == ["", "é", "éé"]


def test_each_row_is_on_one_rank(told):
    assert sorted(row for t in told for batch in t["shard"] for row in batch) == [0, 1, 2]


@pytest.mark.parametrize(("name", "reference"), [("losses", "alone"), ("weighted", "alone weighted")])
def test_uneven_ranks_average_by_weight(told, name, reference):
    """One rank has no rows; `weighted`: another has rows of which none counts."""
    for t in told:
        assert np.allclose(t[name], told[0][reference], rtol=1e-12, atol=0)
        assert t[name] == told[0][name]
        assert t["names"] == ["0.bias", "0.weight", "3.bias", "3.weight"]


def test_a_parameter_has_a_gradient_where_any_rank_used_it(told):
    first, second, third = told[0]["unused"][:2], told[0]["unused"][2:4], told[0]["unused"][4:]
    assert third == [None, None]
    assert np.allclose(first[0], 2 / 3)  # two of three ranks
    assert np.allclose(second[0], 1 / 3)
    assert all(t["unused"] == told[0]["unused"] for t in told)


def test_ranks_that_bring_fewer_batches_wait_for_the_others(told):
    steps, loss, weights = told[0]["own batches"]
    assert steps == 6
    assert np.isfinite([loss, weights]).all()
    assert all(t["own batches"] == told[0]["own batches"] for t in told)


def test_what_is_not_finite_on_one_rank_stops_all_with_its_finding(run):
    folder, told = run
    message = told[0]["not finite"]
    assert all(t["not finite"] == message for t in told)
    assert "step 3" in message
    assert "Not finite first: the batch itself: 0.x" in message
    failure = load_failure(folder / "run")
    assert not np.isfinite(failure.batches[0]["x"]).all()  # the batch of rank 2


def test_ranks_do_not_train_apart_by_mistake(told):
    assert all("parallel=True" in t["apart"] for t in told)
