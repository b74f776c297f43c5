"""Batches: padding, masks, and an order that loses no row and can be taken up again."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gpuprop.errors import DataError
from gpuprop.text import (
    BOS,
    EOS,
    IGNORE_INDEX,
    PAD,
    BatchSampler,
    collate_pairs,
    collate_text,
    pad_rows,
    pair_batches,
    restore_order,
    text_batches,
)

ROWS = st.lists(st.lists(st.integers(1, 50), max_size=12), min_size=1, max_size=40)
SOME_ROWS = [[i + 4] * (1 + i * 7 % 11) for i in range(60)]


@given(rows=ROWS, multiple_of=st.integers(1, 8), min_length=st.integers(1, 8))
def test_padding(rows: list[list[int]], multiple_of: int, min_length: int) -> None:
    ids, mask, lengths = pad_rows(rows, PAD, multiple_of, min_length)
    longest = max(max(map(len, rows)), min_length)
    assert ids.shape == mask.shape
    assert ids.shape[1] % multiple_of == 0
    assert longest <= ids.shape[1] < longest + multiple_of
    assert ids.dtype == lengths.dtype == np.int64
    assert mask.dtype == bool
    for row, line, real, length in zip(rows, ids, mask, lengths, strict=True):
        assert line[real].tolist() == row
        assert real.tolist() == [True] * length + [False] * (len(line) - length)
        assert (line[~real] == PAD).all()


def test_text_batch() -> None:
    batch = collate_text([[5, 6, 7], [8]], labels=[1, 0], index=[9, 4], max_length=2)
    assert batch.ids.tolist() == [[5, 6], [8, 0]]
    assert batch.mask.tolist() == [[True, True], [True, False]]
    assert batch.lengths.tolist() == [2, 1]
    assert batch.labels.tolist() == [1, 0]
    assert batch.index.tolist() == [9, 4]
    assert (batch.size, batch.tokens) == (2, 3)
    assert collate_text([[5]]).labels is None
    assert collate_text([[5], [6]]).index.tolist() == [0, 1]


def test_pair_batch() -> None:
    batch = collate_pairs([[5, 6], [7]], [[8], [9, 10, 11]], max_length=2)
    assert batch.source.tolist() == [[5, 6], [7, 0]]
    assert batch.source_mask.tolist() == [[True, True], [True, False]]
    assert batch.source_lengths.tolist() == [2, 1]
    assert batch.target_in.tolist() == [[BOS, 8, PAD], [BOS, 9, 10]]
    assert batch.target_out.tolist() == [[8, EOS, IGNORE_INDEX], [9, 10, EOS]]
    assert batch.target_mask.tolist() == [[True, True, False], [True, True, True]]
    assert (batch.size, batch.tokens) == (2, 5)


@given(rows=ROWS)
def test_target_in_and_out_are_one_step_apart(rows: list[list[int]]) -> None:
    batch = collate_pairs(rows, rows, multiple_of=4)
    for row, given_ids, wanted, mask in zip(
        rows, batch.target_in, batch.target_out, batch.target_mask, strict=True
    ):
        assert given_ids[mask].tolist() == [BOS, *row]
        assert wanted[mask].tolist() == [*row, EOS]
        assert (given_ids[~mask] == PAD).all()
        assert (wanted[~mask] == IGNORE_INDEX).all()


ORDERS = st.fixed_dictionaries(
    {
        "seed": st.integers(0, 2**64 - 1),
        "shuffle": st.booleans(),
        "bucket": st.booleans(),
        "pool": st.integers(1, 5),
    }
)
SIZES = st.one_of(
    st.fixed_dictionaries({"batch_size": st.integers(1, 20)}),
    st.fixed_dictionaries({"batch_tokens": st.integers(1, 60)}),
)


@given(rows=ROWS, order=ORDERS, size=SIZES)
def test_every_row_comes_once_an_epoch(
    rows: list[list[int]], order: dict[str, Any], size: dict[str, int]
) -> None:
    sampler = BatchSampler([len(row) for row in rows], **order, **size)
    for epoch in range(3):
        assert sampler.epoch == epoch
        planned = len(sampler)
        batches = list(sampler)
        assert len(batches) == planned
        assert all(len(batch) for batch in batches)
        assert sorted(np.concatenate(batches)) == list(range(len(rows)))


@given(rows=ROWS, order=ORDERS, tokens=st.integers(1, 60), pairs=st.booleans())
def test_batches_by_tokens_keep_the_limit(
    rows: list[list[int]], order: dict[str, Any], tokens: int, pairs: bool
) -> None:
    lengths = np.array([[len(row), len(row) % 5 + 1] if pairs else [len(row)] for row in rows])
    for batch in BatchSampler(lengths, batch_tokens=tokens, **order):
        assert len(batch) == 1 or len(batch) * lengths[batch].max(axis=0).sum() <= tokens


@given(rows=ROWS, order=ORDERS, size=SIZES, done=st.integers(0, 60))
def test_position_is_restored(
    rows: list[list[int]], order: dict[str, Any], size: dict[str, int], done: int
) -> None:
    lengths = [len(row) for row in rows]

    def stream(sampler: BatchSampler) -> Any:
        while True:
            yield from sampler

    first = BatchSampler(lengths, **order, **size)
    source = stream(first)
    for _ in range(done):
        next(source)
    state = json.loads(json.dumps(first.state_dict()))
    second = BatchSampler(lengths, **{**order, "seed": 0}, **size)
    second.load_state_dict(state)
    resumed = stream(second)
    for _ in range(30):
        assert next(source).tolist() == next(resumed).tolist()
    assert first.state_dict() == second.state_dict()


def test_epochs_and_seeds_differ_and_repeat() -> None:
    def epochs(seed: int) -> list[list[int]]:
        sampler = BatchSampler([len(row) for row in SOME_ROWS], 7, seed=seed)
        return [np.concatenate(list(sampler)).tolist() for _ in range(2)]

    assert epochs(1) == epochs(1)
    assert epochs(1)[0] != epochs(1)[1]
    assert epochs(1)[0] != epochs(2)[0]


def test_buckets_save_padding() -> None:
    lengths = np.random.default_rng(0).integers(1, 60, 2000)

    def padded(**order: Any) -> int:
        return sum(len(batch) * int(lengths[batch].max()) for batch in BatchSampler(lengths, 50, **order))

    assert padded(bucket=True) < 1.1 * lengths.sum()
    assert padded(bucket=False) > 1.7 * lengths.sum()


def test_shuffled_batches_do_not_come_by_length() -> None:
    lengths = np.arange(1, 1001)
    means = [lengths[batch].mean() for batch in BatchSampler(lengths, 10, seed=3)]
    assert abs(np.corrcoef(np.arange(len(means)), means)[0, 1]) < 0.3


def test_evaluation_order() -> None:
    batches = text_batches(SOME_ROWS, batch_size=7, shuffle=False)
    seen = list(batches)
    lengths = np.concatenate([batch.lengths for batch in seen])
    assert (np.diff(lengths) >= 0).all()
    firsts = np.concatenate([batch.ids[:, 0] for batch in seen])
    index = np.concatenate([batch.index for batch in seen])
    assert restore_order(firsts, index).tolist() == [row[0] for row in SOME_ROWS]
    assert [b.index.tolist() for b in batches] == [b.index.tolist() for b in seen]
    as_they_stand = text_batches(SOME_ROWS, batch_size=7, shuffle=False, bucket=False)
    assert np.concatenate([batch.index for batch in as_they_stand]).tolist() == list(range(60))


def test_text_batches_keep_labels_with_rows() -> None:
    batches = text_batches(SOME_ROWS, [row[0] for row in SOME_ROWS], 8, seed=5, max_length=4, min_length=5)
    assert (len(batches), batches.rows, batches.epoch) == (8, 60, 0)
    for batch in batches:
        assert batch.ids.shape[1] == 5
        assert batch.lengths.max() <= 4
        assert batch.labels is not None
        assert batch.labels.tolist() == batch.ids[:, 0].tolist()
        assert batch.labels.tolist() == [SOME_ROWS[i][0] for i in batch.index]
    assert batches.epoch == 1
    state = batches.state_dict()
    assert state == {"seed": 5, "epoch": 1, "step": 0, "rows": 60}
    batches.load_state_dict({**state, "epoch": 0})
    assert batches.epoch == 0


def test_pair_batches_keep_sides_together() -> None:
    targets = [[row[0]] * (1 + i % 4) for i, row in enumerate(SOME_ROWS)]
    rows = 0
    for batch in pair_batches(SOME_ROWS, targets, batch_tokens=40, seed=1):
        assert batch.source[:, 0].tolist() == batch.target_in[:, 1].tolist()
        assert batch.size == 1 or batch.source.size + batch.target_in.size <= 40
        rows += batch.size
    assert rows == 60


@pytest.mark.parametrize(
    "state",
    [
        {},
        {"seed": 0, "epoch": 0, "step": 0},
        {"seed": 0, "epoch": 0, "step": 0, "rows": 60, "more": 1},
        {"seed": 0, "epoch": 0, "step": 0, "rows": 61},
        {"seed": 0, "epoch": 0, "step": 1000, "rows": 60},
        {"seed": 0, "epoch": 0, "step": -1, "rows": 60},
        {"seed": 0, "epoch": 0.5, "step": 0, "rows": 60},
        {"seed": 0, "epoch": True, "step": 0, "rows": 60},
        {"seed": 2**64, "epoch": 0, "step": 0, "rows": 60},
        {"seed": 0, "epoch": 2**64, "step": 0, "rows": 60},
    ],
)
def test_hostile_state(state: dict[str, Any]) -> None:
    sampler = BatchSampler([len(row) for row in SOME_ROWS], 7, seed=9)
    before = next(iter(sampler)).tolist()
    with pytest.raises(DataError):
        sampler.load_state_dict(state)
    fresh = BatchSampler([len(row) for row in SOME_ROWS], 7, seed=9)
    order = iter(fresh)
    assert next(order).tolist() == before
    assert next(order).tolist() == next(iter(sampler)).tolist()


def test_wrong_use() -> None:
    with pytest.raises(DataError, match="either batch_size"):
        BatchSampler([1])
    with pytest.raises(DataError, match="either batch_size"):
        BatchSampler([1], 1, 1)
    with pytest.raises(DataError, match="at least 1"):
        BatchSampler([1], 0)
    with pytest.raises(DataError, match="no rows"):
        BatchSampler([], 1)
    with pytest.raises(DataError, match="2 labels for 1 rows"):
        collate_text([[1]], [0, 1])
    with pytest.raises(DataError, match="2 labels for 1 rows"):
        text_batches([[1]], [0, 1], 1)
    with pytest.raises(DataError, match="1 sources for 0 targets"):
        collate_pairs([[1]], [])
    with pytest.raises(DataError, match="1 sources for 0 targets"):
        pair_batches([[1]], [], 1)
    with pytest.raises(DataError, match="multiple_of"):
        pad_rows([[1]], multiple_of=0)
