"""One row of the GPU bench: gated on its error, then timed beside PyTorch."""

from __future__ import annotations

import contextlib
import gc
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import gpuprop as gp

from . import gates, gpu_peers
from .floors import Speeds, seconds
from .gpu_case import GpuCase
from .gpu_data import Sizes, exactly, stored
from .gpu_machine import clocks, current_cupy
from .gpu_measure import Clock, Timer, interleaved, matmul_precision, reason
from .gpu_targets import verdict
from .gpu_work import MOST_VALUES, Run, Work
from .host_calls import python_calls

ALL = 1 << 62  # values to compare
SAMPLING = 0.2  # of a row's time, kept for samples; compilers get the rest
NO_TORCH = "PyTorch is not installed"
Row = dict[str, Any]
SizesOf = Callable[[GpuCase], tuple[Sizes, Sizes]]


def own_sizes(case: GpuCase) -> tuple[Sizes, Sizes]:
    """(of what is timed, of what is compared with float64)."""
    return case.sizes, case.gate_sizes


@dataclass
class Bench:
    """What all rows share. torch: the module, or None; why: then the reason. sizes: of a case, for tests."""

    timer: Timer
    speeds: Speeds
    torch: Any = None
    torch_device: str = "cuda"
    why: str = NO_TORCH
    clock: Clock = time.perf_counter
    sizes: SizesOf = own_sizes


def measure_row(bench: Bench, case: GpuCase, end: float) -> Row:
    """The row, done at about `end` of the clock. A wrong or failed one says so, and has no time."""
    row: Row = {"name": case.name, "row": case.row, "work": case.work, "precision": case.precision}
    sizes, gate_sizes = bench.sizes(case)
    cost = case.cost(sizes)
    row |= {"sizes": dict(sizes), "gate_sizes": dict(gate_sizes), "bytes": cost.moved, "flops": cost.flops}
    floor = seconds(cost, bench.speeds, case.precision)
    row["floor_ms"] = None if floor is None else floor * 1e3
    try:
        with matmul_precision(case.precision), _settings(bench, case):
            exact = _exact(case, gate_sizes)
            row["error"] = _gate(case, gate_sizes, exact)
            _time(bench, case, row, exact, end)
    except gates.WrongError as wrong:
        row["wrong"] = str(wrong)
    except Exception as error:
        row["failed"] = reason(error)
    finally:
        _tidy(bench)
    if "wrong" in row or "failed" in row:
        for name in ("ours", "peers", "ratios", "of_floor"):
            row.pop(name, None)
    row["verdict"] = verdict(case, row)
    return row


def _settings(bench: Bench, case: GpuCase) -> Any:
    """PyTorch's, where there is one."""
    if bench.torch is None:
        return contextlib.nullcontext()
    return gpu_peers.settings(bench.torch, case.precision)


def _exact(case: GpuCase, sizes: Sizes) -> dict[str, Any]:
    """By our formulas in float64 on the CPU, from the numbers as they are stored."""
    with gp.use_device("cpu"):
        work = case.ours(sizes, exactly(case.precision))
        return work.values(work.run, ALL)


def _gate(case: GpuCase, sizes: Sizes, exact: dict[str, Any]) -> dict[str, float]:
    """The largest error of ours, as it is and captured, and of a step in float32, where ReLUs choose as in
    float64. WrongError above the bounds."""
    found, store = {}, stored(case.precision)
    if case.step:
        with matmul_precision("fp32"):
            work = case.ours(sizes, store)
            most = gates.bounds("fp32", True)
            found["fp32"] = gates.check(work.values(work.run, ALL), exact, most)
    work = case.ours(sizes, store)
    found["eager"] = gates.check(work.values(work.run, ALL), exact, case.bounds)
    work = case.ours(sizes, store)
    run, _ = work.captured()
    return found | {"captured": gates.check(work.values(run, ALL), exact, case.bounds)}


def _time(bench: Bench, case: GpuCase, row: Row, exact: dict[str, Any], end: float) -> None:
    cupy, sizes = current_cupy(), bench.sizes(case)[0]
    pool = cupy.get_default_memory_pool()
    gc.collect()
    pool.free_all_blocks()
    work = case.ours(sizes, stored(case.precision))
    for i in range(work.warm_up):
        work.run(i)
    memory = {"gpuprop_pool": pool.total_bytes()}
    run, step = _captured(work)
    full = work.values(work.run, MOST_VALUES) if case.repeatable else None
    peers, missing = _peers(bench, case, row, exact, full, end)
    if bench.torch is not None and bench.torch_device == "cuda":
        memory["torch_allocated"] = row.pop("torch_allocated", None)
    calls = {
        name: python_calls(partial(of, 0)).total() for name, of in (("eager", work.run), ("captured", run))
    }
    runs = {"ours eager": work.run, "ours captured": run, **peers}
    times, problems = interleaved(runs, bench.timer, end, bench.clock)
    for name in ("ours eager", "ours captured"):
        if name in problems:
            raise RuntimeError(f"{name}: {problems[name]}")
    ours = {name.removeprefix("ours "): times.pop(name) for name in ("ours eager", "ours captured")}
    best = min(ours, key=lambda name: ours[name]["ms"])
    row["ours"] = {**ours, "best": best, "launches": step.launches, "python_calls": calls}
    row["memory"], row["clocks"] = memory, clocks(cupy)
    missing |= {name: why for name, why in problems.items() if name in peers}
    row["peers"] = {**times, **{name: {"missing": why} for name, why in missing.items()}}
    row["ratios"] = {name: found["ms"] / ours[best]["ms"] for name, found in times.items()}
    if row["floor_ms"] is not None:
        row["of_floor"] = row["floor_ms"] / ours[best]["ms"]


def _captured(work: Work) -> tuple[Run, Any]:
    """With its graphs written down."""
    run, step = work.captured()
    for i in range(work.warm_up):
        run(i)
        if isinstance(work.inputs[0][0] if work.inputs[0] else 0, int):  # each set has a graph of its own
            run(i)
    return run, step


def _peers(
    bench: Bench, case: GpuCase, row: Row, exact: dict[str, Any], full: dict[str, Any] | None, end: float
) -> tuple[dict[str, Run], dict[str, str]]:
    """(what to time, why the others are not) by variant."""
    runs: dict[str, Run] = {}
    if bench.torch is None:
        return runs, dict.fromkeys(case.variants, bench.why)
    missing = {}
    for variant in case.variants:
        left = (end - bench.clock()) * (1 - SAMPLING)
        limit = left if variant in ("eager", "channels_last") else left * 0.6
        try:
            with gpu_peers.time_limit(limit):
                runs[variant] = _peer(bench, case, row, exact, full, variant)
        except gpu_peers.OutOfTime:
            missing[variant] = f"out of time: more than {max(limit, 0.0):.0f} s to make it"
        except Exception as error:
            missing[variant] = reason(error)
    return runs, missing


def _peer(
    bench: Bench, case: GpuCase, row: Row, exact: dict[str, Any], full: dict[str, Any] | None, variant: str
) -> Run:
    """One variant, gated: as it is, on float64; at full size, on ours."""
    torch, device = bench.torch, bench.torch_device
    sizes, gate_sizes = bench.sizes(case)
    if variant in ("eager", "channels_last"):
        small, run = gpu_peers.make(torch, device, case, gate_sizes, variant, warm=False)
        gates.check(small.values(run, ALL), exact, case.bounds)
        del small, run
    if variant == "eager" and device == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
    work, run = gpu_peers.make(torch, device, case, sizes, variant)
    if variant == "eager" and device == "cuda":
        row["torch_allocated"] = torch.cuda.max_memory_allocated()
    if full is not None:
        error = gates.check(work.values(run, MOST_VALUES), full, case.bounds.doubled())
        row.setdefault("differences", {})[variant] = error
    return run


def _tidy(bench: Bench) -> None:
    """Give memory back, and forget what was compiled."""
    gc.collect()
    current_cupy().get_default_memory_pool().free_all_blocks()
    if bench.torch is not None and bench.torch_device == "cuda":
        bench.torch.compiler.reset()
        bench.torch.cuda.empty_cache()
