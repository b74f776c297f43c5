"""How the GPU bench measures and judges: turns, quartiles, floors, errors and targets."""

from __future__ import annotations

import time
from typing import Any

import pytest
from gpu_tiny import FakeTimer

from gpuprop.bench import floors, gates, gpu_machine, gpu_measure, gpu_targets
from gpuprop.bench.gpu_catalogue import gpu_cases


def test_all_take_turns_and_short_work_is_repeated() -> None:
    turns: list[str] = []

    class Timer:
        def time(self, work: Any) -> tuple[float, float]:
            before = len(turns)
            work()
            name, calls = turns[-1], len(turns) - before
            return calls * {"fast": 0.25, "slow": 3.0}[name], 5.0 * calls

    def run(name: str) -> Any:
        return lambda i: turns.append(name)

    def bad(i: int) -> None:
        if turns.count("slow") > 6:
            raise MemoryError("out of memory")
        turns.append("slow")

    found, problems = gpu_measure.interleaved({"a": run("fast"), "b": run("slow"), "c": bad}, Timer(), -1.0)
    assert problems == {"c": "MemoryError: out of memory"}
    assert found["a"] == {
        "ms": 0.25, "q1": 0.25, "q3": 0.25, "wall_ms": 5.0, "samples": 30, "repeats": 4,
    }  # fmt: skip
    assert (found["b"]["ms"], found["b"]["repeats"]) == (3.0, 1)
    late = turns[-50:]
    assert late[:5] in [[*["fast"] * n, "slow", *["fast"] * (4 - n)] for n in range(5)]


def test_quartiles_are_those_of_the_samples() -> None:

    class Timer:
        def __init__(self) -> None:
            self.ms = iter([1.0] * 3 + [float(n) for n in range(1, 1000)])

        def time(self, work: Any) -> tuple[float, float]:
            work()
            ms = next(self.ms)
            return ms, ms + 1

    found, _ = gpu_measure.interleaved({"a": lambda i: None}, Timer(), -1.0)
    assert found["a"] == {
        "ms": 15.5, "q1": 8.25, "q3": 22.75, "wall_ms": 16.5, "samples": 30, "repeats": 1,
    }  # fmt: skip


def test_speeds_of_copy_and_products(fake_gpu: Any) -> None:
    found = gpu_measure.speeds(FakeTimer(2.0), 1000, {"fp32": 16, "tf32": 16, "bf16": 32})
    assert found.copy == 2 * 4000 / 2e-3
    assert found.peaks == {"fp32": 2 * 16**3 / 2e-3, "tf32": 2 * 16**3 / 2e-3, "bf16": 2 * 32**3 / 2e-3}
    assert floors.seconds(floors.Cost(found.copy, 1.0), found, "bf16") == 1.0
    assert floors.seconds(floors.Cost(1.0, 3 * found.peaks["tf32"]), found, "tf32") == 3.0
    assert floors.seconds(floors.Cost(1.0, 1.0), floors.Speeds(1.0, {}), "tf32") is None


def test_cuda_events_and_the_wall_clock(fake_gpu: Any) -> None:
    cupy = gpu_machine.current_cupy()
    timer = gpu_measure.CudaTimer(cupy)
    calls = []
    gpu, wall = timer.time(lambda: calls.append(time.sleep(0.002)))
    assert gpu == 1.0  # what the fake's events say
    assert 2.0 <= wall < 2000.0
    assert len(calls) == 1
    assert gpu_machine.gpu(cupy)["compute_capability"] == "9.0"


def test_errors_are_relative_and_what_is_not_finite_is_wrong() -> None:
    assert gates.relative_error([3.0, 4.0], [3.0, 4.5]) == pytest.approx(0.5 / 29.25**0.5)
    assert gates.relative_error([float("nan")], [1.0]) == float("inf")
    assert gates.relative_error([1.0, 2.0], [1.0]) == float("inf")
    most = gates.Bounds(0.01, 0.1)
    assert gates.check({"y": 1.0, "more": 7}, {"y": 1.0}, most) == 0.0
    exact = {"y": 1.0, "d x": 1.0}
    assert gates.check({"y": 1.0, "d x": 1.09}, exact, most) == pytest.approx(0.09)
    with pytest.raises(gates.WrongError, match=r"y is 0\.02 from float64, more than 0\.01"):
        gates.check({"y": 1.02, "d x": 1.09}, exact, most)
    with pytest.raises(gates.WrongError, match=r"d x is 0\.5 from"):
        gates.check({"y": 1.0, "d x": 1.5}, exact, most)
    with pytest.raises(gates.WrongError, match="nothing"):
        gates.check({}, {"y": 1.0}, most)


def test_bounds_are_those_of_the_precision() -> None:
    """Float32 far below 1e-3, TF32 near 3e-4, bfloat16 1e-3 to 1e-2."""
    assert gates.bounds("fp32", False).values == 1e-4
    assert gates.bounds("tf32", False).values == gates.bounds("tf32", False).gradients == 1e-3
    assert gates.bounds("bf16", False).of("d x") == 1e-2
    assert gates.bounds("tf32", True) == gates.Bounds(4e-3, 5e-2)
    assert gates.bounds("fp32", True).doubled() == gates.Bounds(8e-4, 1e-2)


@pytest.mark.parametrize(
    ("of_floor", "eager", "compiled", "word"),
    [
        (0.95, 3.5, 1.5, "pass"),
        (0.98, 3.5, 1.5, "stretch"),
        (0.89, 9.0, 9.0, "below"),
        (0.99, 3.5, None, "not measured"),
    ],
)
def test_verdicts(of_floor: float, eager: float, compiled: float | None, word: str) -> None:
    ratios = {"eager": eager} | ({} if compiled is None else {"compiled": compiled})
    row = {"of_floor": of_floor, "ratios": ratios}
    assert gpu_targets.verdict(gpu_cases()["cross_entropy_32000"], row) == word
