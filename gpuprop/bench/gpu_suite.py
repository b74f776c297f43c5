"""The GPU bench as a whole: its rows within a time, and the JSON of what was found.

The JSON has "machine", "versions", "speeds" (of a copy, bytes a second, and of products, FLOP/s), "rows" in
the order of the tables of targets, and "left_out", the rows for which there was no time. Of a row:

    work, precision, sizes, gate_sizes, bytes, flops, floor_ms; error: of "eager" and "captured" to float64
    ours: statistics of "eager" and "captured", which is "best", "launches" of the captured step, and
        "python_calls" of our functions, "eager" and "captured"
    peers: statistics by variant, or {"missing": why}; differences: to ours at full size
    ratios: PyTorch's time over our best; of_floor: the floor over it; memory: bytes; clocks; verdict
    or "wrong" (above its bound) or "failed", with the reason, and no time
"""

from __future__ import annotations

import importlib
import importlib.util
import json
import re
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from . import gpu_machine, gpu_peers
from .floors import Speeds
from .gpu_case import GpuCase
from .gpu_measure import Clock, CudaTimer, Timer, reason, speeds
from .gpu_row import NO_TORCH, Bench, measure_row

FORMAT, VERSION = "gpuprop-bench-gpu", 1
SUITE_SECONDS = 465.0  # of 480: a row that has begun may take longer than its share
ROW_SECONDS = 60.0  # of each row that is named
STEP_SHARE, COMPILED_SHARE = 2.4, 1.5  # of a step, and of an operation with a target for compilers; others: 1
COMPILER_SECONDS = 40.0  # at most, before the first row: the workers of torch.compile have to start
LEAST = 2.0  # seconds that are worth beginning a row with
RESULTS = Path(__file__).parent / "results"


class Budget:
    """Seconds shared among rows. What one does not need goes to all that follow."""

    def __init__(self, seconds: float, shares: Sequence[float], clock: Clock = time.perf_counter) -> None:
        self.clock, self.shares = clock, list(shares)
        self.begin = clock()
        self.end = self.begin + seconds

    def left(self) -> float:
        """Seconds until the end."""
        return self.end - self.clock()

    def next(self) -> float | None:
        """When the next row has to be done; None where there is no time for it."""
        share, total = self.shares[0], sum(self.shares)
        del self.shares[0]
        seconds = self.left()
        return None if seconds < LEAST else self.clock() + seconds * share / total


def run(
    cases: Sequence[GpuCase],
    peer: bool,
    limit: float,
    *,
    write: Callable[[dict[str, Any]], None] = lambda result: None,
    timer: Timer | None = None,
    clock: Clock = time.perf_counter,
    **settings: Any,
) -> dict[str, Any]:
    """The result, on gpuprop's current device, a GPU. write: called with it after each row. settings: of
    `Bench`, for tests."""
    budget = Budget(limit, [share_of(case) for case in cases], clock)
    cupy = gpu_machine.current_cupy()
    timer = CudaTimer(cupy) if timer is None else timer
    torch, why = _torch(cupy) if peer else (None, "no --peer torch")
    if torch is not None:
        gpu_peers.start_compiler(torch, COMPILER_SECONDS)
    if "torch" in settings:
        torch = settings.pop("torch")
    found = settings.pop("speeds", None) or speeds(timer)
    bench = Bench(timer, found, torch, why=why, clock=clock, **settings)
    result = _head(cupy, torch, found, limit)
    for case in cases:
        end = budget.next()
        if end is None:
            result["left_out"].append(case.name)
            continue
        result["rows"].append(measure_row(bench, case, end))
        result["seconds"] = round(clock() - budget.begin, 1)
        write(result)
    write(result)
    return result


def share_of(case: GpuCase) -> float:
    """How much of the time a row gets, beside the others."""
    return STEP_SHARE if case.step else COMPILED_SHARE if "compiled" in case.passing else 1.0


def _head(cupy: Any, torch: Any, found: Speeds, limit: float) -> dict[str, Any]:
    return {
        "format": FORMAT, "version": VERSION, "date": time.strftime("%Y-%m-%d", time.gmtime()),
        "machine": gpu_machine.gpu(cupy), "versions": gpu_machine.versions(cupy, torch),
        "clocks": gpu_machine.clocks(cupy),
        "speeds": {"copy_bytes_per_s": found.copy, "flops_per_s": dict(found.peaks)},
        "limit_s": limit, "seconds": 0.0, "rows": [], "left_out": [],
    }  # fmt: skip


def _torch(cupy: Any) -> tuple[Any, str]:
    """(the module, on CuPy's current device, or None, and why)."""
    if importlib.util.find_spec("torch") is None:
        return None, NO_TORCH
    try:
        torch = importlib.import_module("torch")
        if not torch.cuda.is_available():
            return None, f"PyTorch {torch.__version__} sees no GPU"
        torch.cuda.set_device(cupy.cuda.runtime.getDevice())
    except Exception as error:
        return None, reason(error)
    return torch, ""


def is_right(result: Mapping[str, Any]) -> bool:
    """No row is wrong or failed."""
    return not any("wrong" in row or "failed" in row for row in result["rows"])


def default_file(machine: Mapping[str, Any], date: str, folder: Path = RESULTS) -> Path:
    """Where a suite's result goes: `folder`/<gpu>-<date>.json, the folder made where it is not there."""
    slug = re.sub(r"[^a-z0-9]+", "-", str(machine["gpu"]).lower()).strip("-")
    return folder / f"{slug}-{date}.json"


def save(result: Mapping[str, Any], path: Path) -> None:
    """Write the JSON, whole or not at all; its folder is made."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_suffix(".part")
    part.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    part.replace(path)
