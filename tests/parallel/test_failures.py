"""A rank that fails, hangs or is another one ends all ranks, and says so first."""

import time

import pytest
from ranks import PROGRAMS, command, finish, launch

WITHIN = 30  # seconds, from the failure


@pytest.fixture
def failing(tmp_path):
    """Run fail.py, look at how soon it ended after the failure, and return what it told."""

    def run(how, ranks=2, **variables):
        mark = tmp_path / "failing"
        code, _, told = finish(launch(ranks, PROGRAMS / "fail.py", how, mark, **variables), 100)
        assert code != 0
        if how in ("raise", "die", "hang"):
            assert time.time() - float(mark.read_text()) < WITHIN
        return told

    return run


def test_a_rank_that_raises_ends_all_with_its_traceback_first(failing):
    told = failing("raise", ranks=4)
    lines = told.splitlines()
    assert lines[0] == "gpuprop: rank 1 of 4 failed, which ends all:"
    assert lines[1].startswith("Traceback")
    assert "ValueError: a bug in the middle of a step" in told
    assert told.count("Traceback") == 1


def test_a_rank_that_dies_ends_all(failing):
    failing("die")


def test_a_rank_that_hangs_is_given_up_by_rank_and_operation(failing):
    told = failing("hang", GPUPROP_TIMEOUT=2)
    assert "gpuprop: rank 0 of 2 failed" in told.splitlines()[0]
    assert "rank 0 of 2 waited 2 s in all_reduce of gradients, bucket 0" in told


def test_an_error_of_all_ranks_is_told_once(failing):
    told = failing("together", ranks=3)
    assert told.count("DataError: the same on every rank") == 1
    assert "ends all" not in told


@pytest.mark.parametrize(
    ("how", "wanted"),
    [
        ("version", "the ranks differ: rank 1 has gpuprop 0.0.9, rank 0 has "),
        ("weights", "the ranks differ: rank 1 has the parameter output.bias "),
    ],
)
def test_another_version_or_model_is_refused_by_name(failing, how, wanted):
    told = failing(how)
    assert wanted in told
    assert told.count("Traceback") == 1


def test_another_mpi_is_told_of(monkeypatch):
    """mpi4py alone beside a launcher that says there are two ranks."""
    from gpuprop.errors import DeviceError
    from gpuprop.parallel.environment import Place
    from gpuprop.parallel.mpi import MpiTransport

    command(1)
    with pytest.raises(DeviceError, match="MPICH started 2 ranks, but mpi4py is alone"):
        MpiTransport(Place(1, 2, launcher="MPICH"))
