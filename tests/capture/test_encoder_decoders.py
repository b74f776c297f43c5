"""Encoder-decoders in captured steps: there padding is computed too, as no shape may depend on a mask, and
the result is what the packed rows give."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from families import TARGETS, build

import gpuprop as gp
from gpuprop import nn, ops, optim
from gpuprop.text.batches import IGNORE_INDEX, PairBatch, collate_pairs

STEPS = 4


def pair_batch(seed: int) -> PairBatch:
    rng = np.random.default_rng(seed)
    texts = [
        [rng.integers(4, TARGETS, n).tolist() for n in (5, *rng.integers(1, 5, 3))] for _ in range(2)
    ]  # fmt: skip
    return collate_pairs(*texts)


def train(family: str, captured: bool) -> tuple[list[float], list[np.ndarray]]:
    gp.manual_seed(2)
    model = build(family, width=4, dropout=0.2)
    model.train()
    update, criterion = optim.SGD(model.parameters(), lr=0.5), nn.CrossEntropyLoss()

    def step(batch: PairBatch) -> Any:
        update.zero_grad()
        logits = model(batch.source, batch.source_mask, batch.target_in, batch.target_mask)
        loss = criterion(logits, ops.pack_labels(batch.target_out, batch.target_mask, IGNORE_INDEX))
        loss.backward()
        update.step()
        return loss

    run = gp.capture(step) if captured else step
    losses = [run(pair_batch(i)).item() for i in range(STEPS)]
    assert not captured or run.replayed == STEPS - 2
    return losses, [p.numpy().copy() for p in model.parameters()]


@pytest.mark.parametrize("family", ["gru-dot", "lstm-additive-feeding", "transformer-pre", "conv"])
def test_padding_changes_nothing(any_gpu: str, family: str) -> None:
    losses, weights = train(family, captured=False)
    found, new = train(family, captured=True)
    np.testing.assert_allclose(found, losses, rtol=2e-6)
    for a, b in zip(new, weights, strict=True):
        np.testing.assert_allclose(a, b, atol=2e-6)


def test_labels_of_real_tokens() -> None:
    labels, mask = np.array([[1, 2], [3, -100]]), np.array([[True, True], [True, False]])
    assert ops.pack_labels(labels, mask, -100).tolist() == [1, 2, 3]
