"""The count of a graph's nodes, as the driver tells it."""

from __future__ import annotations

import ctypes
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

import gpuprop as gp
from gpuprop.backend import graph_nodes


@pytest.mark.parametrize(("status", "told"), [(0, 17), (400, None)])
def test_the_driver_is_asked(monkeypatch: pytest.MonkeyPatch, status: int, told: int | None) -> None:
    def nodes(graph: Any, places: Any, count: Any) -> int:
        assert (graph.value, places) == (0x7F0000000010, None)
        count._obj.value = 17
        return status

    monkeypatch.setattr(ctypes, "CDLL", lambda name: SimpleNamespace(cuGraphGetNodes=nodes))
    assert graph_nodes.count(SimpleNamespace(graph=0x7F0000000010)) == told


def test_without_a_driver_nobody_knows(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(name: str) -> Any:
        raise OSError(name)

    monkeypatch.setattr(ctypes, "CDLL", refuse)
    assert graph_nodes.count(SimpleNamespace(graph=1)) is None


def test_a_captured_step_knows_its_launches(fake_gpu: Any) -> None:
    run = gp.capture(lambda x: x * 2 + 1)
    assert run.launches is None
    run(np.ones(3, np.float32))
    assert run.launches is None
    run(np.ones(3, np.float32))
    assert run.launches == 2
