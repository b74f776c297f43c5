"""What Python does in a step, which in eager mode is what a small step takes: calls of our functions are
counted, as they are the same on every machine. Each number is today's, with a few in a hundred on top."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
from test_capture import MODELS, batch
from test_launches_of_steps import classifier, step_of

import gpuprop as gp
from gpuprop import nn
from gpuprop.backend import buffers, kernels
from gpuprop.bench.host_calls import python_calls


class Deep(nn.Module):
    def __init__(self, layers: int) -> None:
        self.embedding = nn.Embedding(20, 16)
        self.layers = nn.Sequential(*(nn.Linear(16, 16) for _ in range(layers)))

    def forward(self, ids: Any, _: Any) -> Any:
        return self.layers(self.embedding(ids[:, 0]))


def calls_of(step: Callable[..., Any], inputs: tuple[Any, ...]) -> int:
    """Of a step like those before it."""
    for _ in range(3):
        step(*inputs)
    return python_calls(lambda: step(*inputs)).total()


def captured(model: nn.Module) -> int:
    gp.manual_seed(0)
    run = gp.capture(step_of(model))
    found = calls_of(run, batch(0))
    assert run.replayed == 2
    run.clear()
    return found


def test_a_replay_is_little_python_whatever_is_replayed(fake_gpu: Any) -> None:
    few, many = (captured(Deep(layers)) for layers in (1, 10))
    assert few == many <= 54
    assert {captured(make()) for make in (classifier, MODELS["transformer"])} == {few + 1}  # dropout's step


ARGUMENTS = {  # of kernels with few and many
    "activation": ("activation_forward<float, float, 1, 1>", 6),
    "adam": ("adam<float, float>", 15),
}


@pytest.mark.parametrize("file", ARGUMENTS)
def test_a_launch_is_as_much_python_whatever_its_arguments(fake_gpu: Any, file: str) -> None:
    cupy = gp.get_xp(gp.tensor([1.0]).data)
    name, count = ARGUMENTS[file]
    kernel = kernels.project(file, name)
    assert kernel.parameters is not None
    assert len(kernel.parameters) == count
    args = [cupy.zeros(4, p.dtype) if p.pointer else 1 for p in kernel.parameters]
    kernel(1, 256, args)
    found = python_calls(lambda: kernel(1, 256, args))
    assert found.total() <= 8, found


@pytest.fixture(params=["cpu", "fake"])
def place(request: pytest.FixtureRequest) -> Iterator[str]:
    if request.param == "fake":
        request.getfixturevalue("fake_gpu")
        yield "fake"
        return
    buffers.pool.clear()
    with gp.use_device("cpu"):
        yield "cpu"


MOST = {
    ("cpu", "classifier"): 700, ("fake", "classifier"): 600,
    ("cpu", "transformer"): 1200, ("fake", "transformer"): 1170,
}  # fmt: skip


@pytest.mark.parametrize("name", ["classifier", "transformer"])
def test_an_eager_step(place: str, name: str) -> None:
    gp.manual_seed(0)
    inputs = tuple(gp.tensor(a).data for a in batch(0, 16, 12))
    model = classifier() if name == "classifier" else MODELS[name]()
    found = calls_of(step_of(model), inputs)
    assert 0.9 * MOST[place, name] < found <= MOST[place, name], found
