"""Memory of captured graphs where there is little of it."""

from __future__ import annotations

import gc
import weakref
from typing import Any

import numpy as np
import pytest
from test_prefetch import batches, trainer

import gpuprop as gp
from gpuprop.backend import cublas


def step(x: Any) -> Any:
    return ((x + 1.0) * 2.0 - 1.0).sum()


def test_a_graph_gets_the_memory_that_its_warm_up_had(fake_gpu: Any) -> None:
    run, x = gp.capture(step), np.ones(5000, np.float32)
    run(x)
    fake_gpu.left = 4096  # a fifth of what the step takes
    assert [float(run(x).get()) for _ in range(3)] == [15000.0] * 3
    assert (run.ran, run.captured, run.replayed) == (1, 1, 2)


def test_a_capture_that_finds_no_memory_leaves_that_of_graphs_alone(fake_gpu: Any) -> None:
    run, small, large = gp.capture(step), np.ones(300, np.float32), np.ones(9000, np.float32)
    for _ in range(2):
        run(small)
    before = run._pool.total_bytes()
    assert before > 0
    run(large)
    fake_gpu.left = -(10**9)
    with pytest.raises(gp.CaptureError, match="Out of memory"):
        run(large)
    assert run._pool.total_bytes() >= before
    fake_gpu.left = None
    assert float(run(small).get()) == 900.0
    assert run.replayed == 1


@pytest.mark.parametrize("cleared", [True, False])
def test_graphs_that_are_forgotten_leave_nothing_behind(fake_gpu: Any, cleared: bool) -> None:
    """Of a pool that has gone CuPy never frees the free blocks."""
    run, x = gp.capture(step), np.ones(300, np.float32)
    results = [run(x) for _ in range(3)]
    pool = weakref.ref(run._pool)
    if cleared:
        run.clear()
    del run
    gc.collect()
    assert pool() is None
    assert fake_gpu.leaked == 0
    assert [float(y.get()) for y in results] == [900.0] * 3


def test_the_workspace_of_products_goes_with_the_graphs(fake_gpu: Any) -> None:
    w = gp.tensor(np.ones((4, 4), np.float32))
    run, x = gp.capture(lambda x: gp.ops.matmul(gp.tensor(x), w)), np.ones((4, 4), np.float32)
    run(x)
    before = set(cublas.handle(0)._workspaces)
    run(x)
    assert set(cublas.handle(0)._workspaces) == before | {run._stream.ptr}
    run.clear()
    assert set(cublas.handle(0)._workspaces) == before


def test_a_trainer_that_goes_on_without_graphs_keeps_none_of_their_memory(
    fake_gpu: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    of = trainer(None)
    of.fit(batches(6), epochs=1)
    graph = of.device_step.graph
    assert graph is not None
    assert graph._pool is not None
    monkeypatch.setattr(graph, "call", _refuses)
    with pytest.warns(UserWarning, match="operation by operation"):
        of.fit(batches(2), epochs=2)
    assert graph._pool is None


def _refuses(*_: Any) -> None:
    raise gp.CaptureError("no memory")


@pytest.mark.parametrize("enabled", [True, False])
def test_nothing_is_collected_while_a_step_is_captured(fake_gpu: Any, enabled: bool) -> None:
    """What is collected may be graphs, whose memory goes back to the driver."""
    seen = []

    def looks(x: Any) -> Any:
        seen.append(gc.isenabled())
        if x.shape == (5,) and len(seen) == 4:
            float(x.get()[0])  # waits, which ends a capture
        return x + 1.0

    run, before = gp.capture(looks), gc.isenabled()
    (gc.enable if enabled else gc.disable)()
    try:
        for _ in range(2):
            run(np.ones(4, np.float32))
        run(np.ones(5, np.float32))
        with pytest.raises(gp.CaptureError):
            run(np.ones(5, np.float32))
        assert seen == [enabled, False, enabled, False]
        assert gc.isenabled() == enabled
    finally:
        (gc.enable if before else gc.disable)()
