"""A training step that has settled allocates next to nothing: what the step before used is used again."""

import tracemalloc
from functools import partial

import pytest

import gpuprop as gp
from gpuprop.backend import buffers
from gpuprop.bench import catalogue, seq2seq_cases

MOST = 1 << 20  # bytes
BATCHES = 4  # that a step of an encoder-decoder takes in turn, of different lengths
SETTLED = 3 * BATCHES


def most_allocated(work, steps):
    """The bytes that the worst of some steps held above what was held before it."""
    worst = 0
    tracemalloc.start()
    try:
        for _ in range(steps):
            tracemalloc.reset_peak()
            before, _ = tracemalloc.get_traced_memory()
            work()
            worst = max(worst, tracemalloc.get_traced_memory()[1] - before)
    finally:
        tracemalloc.stop()
    return worst


@pytest.fixture
def threads():
    before = gp.num_threads()
    yield gp.set_num_threads
    gp.set_num_threads(before)


STEPS = {name: case.ours for name, case in catalogue.all_cases().items()} | {
    f"{name}, few rows": partial(seq2seq_cases.ours, seq2seq_cases.SPECS[name] | {"batch": 16})
    for name in seq2seq_cases.SPECS
}


@pytest.mark.parametrize(
    ("name", "count"),
    [
        ("mlp64", 1),
        ("mlp512", 1),
        ("cnn", 1),
        *((f"{name}, few rows", 1) for name in ("gru_bahdanau", "transformer")),
        *(
            pytest.param(f"{name}, few rows", 1, marks=pytest.mark.full)
            for name in ("gru_luong", "transformer0")
        ),
        *(
            pytest.param(name, count, marks=pytest.mark.full)
            for name in ("mlp512", "cnn", *seq2seq_cases.SPECS)
            for count in (1, 2)
        ),
    ],
)
def test_a_settled_step_allocates_less_than_a_megabyte(name, count, threads):
    threads(count)
    work = STEPS[name]()
    for _ in range(SETTLED):
        work()
    assert most_allocated(work, BATCHES) <= MOST


def test_without_memory_that_is_used_again_it_allocates_much_more(monkeypatch):
    monkeypatch.setattr(buffers, "_switched_on", False)
    work = STEPS["cnn"]()
    for _ in range(2):
        work()
    assert most_allocated(work, 1) > 10 * MOST
