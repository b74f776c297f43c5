"""Timing of cases: ours and the peer's take turns, so that other load on the machine meets both."""

from __future__ import annotations

import importlib
import os
import platform
import statistics
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

import gpuprop as gp

from .cases import Case, Work

WARM_UP = 3


def time_work(work: Work, seconds: float) -> tuple[float, float]:
    """(wall, CPU) milliseconds of one call: medians over calls for about `seconds`, at least five."""
    wall: list[float] = []
    cpu: list[float] = []
    end = time.perf_counter() + seconds
    while len(wall) < 5 or time.perf_counter() < end:
        start, cpu_start = time.perf_counter(), time.process_time()
        work()
        wall.append(time.perf_counter() - start)
        cpu.append(time.process_time() - cpu_start)
    return statistics.median(wall) * 1e3, statistics.median(cpu) * 1e3


def measure(case: Case, torch: Any, rounds: int, seconds: float) -> dict[str, Any]:
    """One row: name, shape, and for "gpuprop" and "torch" (if given) wall and CPU milliseconds."""
    works = {"gpuprop": case.ours()} | ({} if torch is None else {"torch": case.torch(torch)})
    for work in works.values():
        for _ in range(WARM_UP):
            work()
    times: dict[str, list[tuple[float, float]]] = {name: [] for name in works}
    for _ in range(rounds):
        for name, work in works.items():
            times[name].append(time_work(work, seconds))
    row: dict[str, Any] = {"name": case.name, "shape": case.shape}
    for name, found in times.items():
        wall, cpu = (statistics.median(column) for column in zip(*found, strict=True))
        row[name] = {"wall_ms": round(wall, 4), "cpu_ms": round(cpu, 4)}
    return row


def run(cases: Iterable[Case], peer: str | None, rounds: int, seconds: float) -> dict[str, Any]:
    """Every case, with the machine and the versions that were measured."""
    torch = None
    if peer == "torch":
        torch = importlib.import_module("torch")
        torch.set_num_threads(gp.num_threads())
    rows = [measure(case, torch, rounds, seconds) for case in cases]
    return {"machine": machine(), "versions": versions(torch), "threads": gp.num_threads(), "rows": rows}


def machine() -> dict[str, Any]:
    """Processor, cores and system, as they go into the table."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text(encoding="utf-8", errors="replace").splitlines() if info.is_file() else []
    model = next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), "")
    return {
        "processor": model or platform.processor() or platform.machine(),
        "cores": os.cpu_count(),
        "system": f"{platform.system()} {platform.machine()}",
    }


def versions(torch: Any = None) -> dict[str, str]:
    """The versions that decide how fast it is."""
    found = {"gpuprop": gp.__version__, "numpy": np.__version__, "python": platform.python_version()}
    return found if torch is None else found | {"torch": str(torch.__version__)}
