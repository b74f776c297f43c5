"""How many launches the graph of a whole training step has: forward, backward, clipping and AdamW. A graph
costs about two microseconds for each."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from test_capture import MODELS, batch

import gpuprop as gp
from gpuprop import models, nn, optim


def classifier() -> nn.Module:
    """Of a usual size: rows of whole packs, filters in two tiles, more ids than the table's gradient sums at
    once."""
    return models.TextCNN(300, 3, embedding_dim=32, widths=(3, 4, 5), filters=68, dropout=0.5)


class TwoLayers(nn.Module):
    def __init__(self) -> None:
        self.hidden = nn.Linear(16, 32, activation="relu")
        self.output = nn.Linear(32, 3)

    def forward(self, x: Any, _: Any) -> Any:
        return self.output(self.hidden(x))


class TwoLayersInOne(nn.FeedForward):
    def __init__(self, activation: str) -> None:
        super().__init__((16, 32, 3), activation)

    def forward(self, x: Any, _: Any) -> Any:
        return super().forward(x)


# The most that each may have, which goes down as operations are fused. The goals of 12 for two layers and 25
# for the convolutional classifier are held. Of a layer of GRU in both directions come 9: weights joined, a
# product and a kernel forward, a kernel and 5 products backward.
MOST = {
    "two layers": 11, "two in one": 10, "two with gelu": 10, "mlp": 22, "cnn": 20, "classifier": 20,
    "gru": 26, "transformer": 42,
}  # fmt: skip
OTHERS = {
    "two layers": TwoLayers,
    "two in one": lambda: TwoLayersInOne("relu"),
    "two with gelu": lambda: TwoLayersInOne("gelu"),
    "classifier": classifier,
}


def step_of(model: nn.Module) -> Callable[..., Any]:
    """A training step of a classifier: forward, backward, clipping, AdamW."""
    model.train()
    update, criterion = optim.AdamW(model.parameters()), nn.CrossEntropyLoss()

    def step(x: Any, mask: Any, labels: Any) -> Any:
        update.zero_grad()
        loss = criterion(model(x, mask), labels)
        loss.backward()
        update.clip_grad_norm(1.0)
        update.step()
        return loss

    return step


@pytest.mark.parametrize("name", MOST)
def test_launches(fake_gpu: Any, name: str) -> None:
    gp.manual_seed(0)
    run = gp.capture(step_of({**MODELS, **OTHERS}[name]()))
    for i in range(3):
        ids, mask, labels = batch(i, 16, 30) if name == "classifier" else batch(i)
        run(np.ones((len(ids), 16), np.float32) if name.startswith("two") else ids, mask, labels)
    (graph,) = run._graphs.values()
    names = graph.graph.names
    assert len(names) <= MOST[name], Counter(names)
    assert names.count("adam") == names.count("gradient_norm") == 1
    if name.startswith("two "):  # bias and ReLU, and sums for biases, are epilogues of the products
        assert (names.count("gemm_epilogue"), names.count("gemm")) == (4, 1)


# Beside forward, backward and the optimizer a step of the trainer has the judgement of losses and gradients,
# the gathering of the results and, in half types, copies of the weights and of the batch in these.
OF_TRAINER = {"fp32": 14, "bf16": 16, "fp16": 16}


@pytest.mark.parametrize("precision", OF_TRAINER)
@pytest.mark.parametrize("clip_norm", [None, 1.0])
def test_launches_of_the_trainer(fake_gpu: Any, precision: str, clip_norm: float | None) -> None:
    """Two layers. Clipping costs none: the norm is computed anyway, to see whether gradients are finite."""
    gp.manual_seed(0)
    model, criterion = TwoLayers(), nn.CrossEntropyLoss()
    of = gp.Trainer(
        model, lambda b: criterion(model(b[0], None), b[1]), optim.AdamW(model.parameters()),
        clip_norm=clip_norm, precision=precision, progress="off", capture=True,
    )  # fmt: skip
    of.fit([(np.ones((6, 16), np.float32), np.arange(6) % 3)] * 3, epochs=1)
    (graph,) = of.device_step.graph._graphs.values()
    names = graph.graph.names
    assert len(names) <= OF_TRAINER[precision], Counter(names)
    assert names.count("gradient_norm") == names.count("judge_step") == 1
