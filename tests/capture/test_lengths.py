"""Few shapes, so that few graphs are needed."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from families import build

from gpuprop.text import pair_batches, text_batches
from gpuprop.training.rows import length_step


def rows(count: int, seed: int) -> list[list[int]]:
    rng = np.random.default_rng(seed)
    return [[4] * n for n in rng.integers(1, 60, count)]


@pytest.mark.parametrize("size", [{"batch_size": 32}, {"batch_tokens": 1024}])
def test_shapes_of_an_epoch(size: dict[str, int]) -> None:
    texts = rows(2000, 0)
    found = {}
    for step in (1, 16):
        batches = list(text_batches(texts, multiple_of=step, **size))
        found[step] = {b.ids.shape for b in batches}
        assert sum(b.size for b in batches) == 2000
        assert "batch_size" in size or all(b.ids.size <= 1024 for b in batches)
    assert len(found[16]) <= 32 < len(found[1])
    assert all(length % 16 == 0 for _, length in found[16])


def test_pairs() -> None:
    batches = list(pair_batches(rows(500, 1), rows(500, 2), batch_tokens=1024, multiple_of=16))
    assert all(b.source.shape[1] % 16 == b.target_in.shape[1] % 16 == 0 for b in batches)
    assert all(b.source.size + b.target_in.size <= 1024 for b in batches)


def test_only_on_a_gpu_and_within_the_models_positions(fake_gpu: Any) -> None:
    assert length_step(build("transformer-pre")) == 16
    assert length_step(build("transformer-learned")) == 4  # of 12 positions


def test_not_on_a_cpu() -> None:
    assert length_step(build("transformer-pre")) == 1
