"""What checking costs, on our own kernels."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

import gpuprop as gp
from gpuprop.backend import emulator

pytestmark = pytest.mark.skipif(emulator.available() is not None, reason=str(emulator.available()))
MOST = 25


def cross_entropy() -> None:
    rng = np.random.default_rng(0)
    logits = gp.tensor(rng.standard_normal((256, 4096)).astype(np.float32), requires_grad=True)
    gp.ops.softmax_cross_entropy(logits, rng.integers(0, 4096, 256)).backward()


def conv1d() -> None:
    rng = np.random.default_rng(0)
    x = gp.tensor(rng.standard_normal((8, 64, 32)).astype(np.float32), requires_grad=True)
    weight = gp.Parameter(rng.standard_normal((32, 5, 32)).astype(np.float32))
    bias = gp.Parameter(np.zeros(32, np.float32))
    y = gp.ops.conv1d(x, weight, bias, padding=2)
    y.backward(np.ones(y.shape, np.float32))


@pytest.mark.alone
@pytest.mark.parametrize("run", [cross_entropy, conv1d])
def test_the_checker_costs_at_most(run: Callable[[], None], monkeypatch: pytest.MonkeyPatch) -> None:
    """Time in launches only, each at its best of five: the machine may be busy."""
    launches: dict[str, list[float]] = {}
    launch = emulator.EmulatedModule.launch

    def timed(module: emulator.EmulatedModule, name: str, *args: Any, **more: Any) -> None:
        start = time.thread_time()
        launch(module, name, *args, **more)
        launches.setdefault(name, []).append(time.thread_time() - start)

    monkeypatch.setattr(emulator.EmulatedModule, "launch", timed)
    seconds = {}
    for mode in ("fast", "check"):
        launches.clear()
        with gp.use_device("emulated"), emulator.options(mode=mode):
            for _ in range(6):  # the first compiles
                run()
        seconds[mode] = {name: min(times[1:]) for name, times in launches.items()}
    assert seconds["fast"].keys() == seconds["check"].keys() != set()
    ratios = {name: seconds["check"][name] / seconds["fast"][name] for name in seconds["fast"]}
    print({name: f"{seconds['fast'][name]:.4f} s, {ratio:.1f}" for name, ratio in ratios.items()})
    assert max(ratios.values()) <= MOST
