"""Timing on a GPU by CUDA events and wall time, all that is compared in turns; and what the GPU can do."""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Callable, Mapping
from typing import Any, Protocol

import gpuprop as gp

from .floors import Speeds
from .gpu_data import Normal, stored
from .gpu_work import Run

SAMPLES, MOST_SAMPLES = 30, 100
SAMPLE_MS = 1.0  # the least that a sample takes: shorter work is repeated in it
MOST_REPEATS = 200
COPIED = 1 << 28  # numbers of the copy that bandwidth is measured with: 1 GiB
PRODUCTS = {"fp32": 4096, "tf32": 8192, "bf16": 8192}  # rows and columns of the matrices
Clock = Callable[[], float]
Stats = dict[str, float]


class Timer(Protocol):
    """time(work): milliseconds of work() by the GPU's clock, and by the host's until the GPU has done it."""

    def time(self, work: Callable[[], Any]) -> tuple[float, float]: ...


class CudaTimer:
    """Events on CuPy's current stream, the default stream, on which PyTorch works too."""

    def __init__(self, cupy: Any) -> None:
        self.cuda = cupy.cuda
        self.events = cupy.cuda.Event(), cupy.cuda.Event()

    def time(self, work: Callable[[], Any]) -> tuple[float, float]:
        start, stop = self.events
        begin = time.perf_counter()
        start.record()
        work()
        stop.record()
        stop.synchronize()
        wall = (time.perf_counter() - begin) * 1e3
        return float(self.cuda.get_elapsed_time(start, stop)), wall


class _Sampled:
    """A work, how often it is repeated in a sample, and its samples, milliseconds of one call."""

    def __init__(self, run: Run, timer: Timer) -> None:
        self.run, self.timer, self.turn = run, timer, 0
        self.found: list[tuple[float, float]] = []
        self.repeats = 1
        one = min(self._sample()[0] for _ in range(3))
        self.repeats = min(MOST_REPEATS, max(1, math.ceil(SAMPLE_MS / max(one, 1e-6))))

    def _sample(self) -> tuple[float, float]:
        def work() -> None:
            for _ in range(self.repeats):
                self.run(self.turn)
                self.turn += 1

        gpu, wall = self.timer.time(work)
        return gpu / self.repeats, wall / self.repeats

    def add(self) -> None:
        """One sample more."""
        self.found.append(self._sample())

    def stats(self) -> Stats:
        """Medians and the quartiles of the GPU's time."""
        gpu, wall = (list(column) for column in zip(*self.found, strict=True))
        low, median, high = statistics.quantiles(gpu, n=4, method="inclusive")
        return {
            "ms": median, "q1": low, "q3": high, "wall_ms": statistics.median(wall),
            "samples": len(gpu), "repeats": self.repeats,
        }  # fmt: skip


def interleaved(
    runs: Mapping[str, Run], timer: Timer, end: float, clock: Clock = time.perf_counter
) -> tuple[dict[str, Stats], dict[str, str]]:
    """(statistics, why there are none) by name. All take turns, at least `SAMPLES` times, then until `end` or
    `MOST_SAMPLES`; what fails once is out."""
    sampled: dict[str, _Sampled] = {}
    problems: dict[str, str] = {}

    def attempt(name: str, action: Callable[[], Any]) -> None:
        try:
            action()
        except Exception as error:
            problems[name] = reason(error)
            sampled.pop(name, None)

    for name, run in runs.items():
        attempt(name, lambda name=name, run=run: sampled.update({name: _Sampled(run, timer)}))  # type: ignore[misc]
    for count in range(MOST_SAMPLES):
        if not sampled or (count >= SAMPLES and clock() > end):
            break
        for name in list(sampled):
            attempt(name, sampled[name].add)
    return {name: each.stats() for name, each in sampled.items()}, problems


def reason(error: BaseException) -> str:
    """An exception in one line."""
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text}"[:300]


def speeds(timer: Timer, copied: int = COPIED, products: Mapping[str, int] = PRODUCTS) -> Speeds:
    """What this GPU does: bytes a second of a copy on it, and FLOP/s of large products through our gemm."""
    source = Normal((copied,)).on_device(stored("fp32"))
    target = gp.get_xp(source).empty_like(source)

    def copy(_: int) -> None:
        target[...] = source

    moved = 2.0 * source.nbytes / _best(copy, timer)
    peaks = {}
    for precision, n in products.items():
        with matmul_precision(precision):
            a, b = (gp.tensor(Normal((n, n), seed).on_device(stored(precision))) for seed in (0, 1))
            peaks[precision] = 2.0 * n**3 / _best(lambda _, a=a, b=b: gp.ops.matmul(a, b), timer)  # type: ignore[misc]
    return Speeds(moved, peaks)


def _best(run: Run, timer: Timer) -> float:
    """Seconds, the median."""
    found, problems = interleaved({"": run}, timer, 0.0)
    if problems:
        raise RuntimeError(problems[""])
    return found[""]["ms"] / 1e3


class matmul_precision:
    """Inside, our products are those of a precision of the bench."""

    def __init__(self, precision: str) -> None:
        self.wanted, self.before = "high" if precision == "tf32" else "highest", ""

    def __enter__(self) -> None:
        self.before = gp.get_matmul_precision()
        gp.set_matmul_precision(self.wanted)

    def __exit__(self, *_: object) -> None:
        gp.set_matmul_precision(self.before)
