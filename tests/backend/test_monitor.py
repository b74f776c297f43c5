from __future__ import annotations

import types
from typing import Any

import pytest

from gpuprop.backend.device import Device
from gpuprop.training.energy import EnergyMeter
from gpuprop.training.monitor import GpuMonitor

GIB = 2**30


def test_does_nothing_without_a_gpu(machine: Any) -> None:
    fakes = machine([machine.board(0)])
    with GpuMonitor(Device("cpu")) as monitor:
        assert (monitor.sample(), monitor.text(), monitor.peak_memory) == (None, "", None)
        assert monitor.reason == "cpu is not a GPU"
    assert fakes.pynvml.opened == fakes.pynvml.calls == 0


def test_watches_the_gpu_that_cuda_means(machine: Any) -> None:
    boards = [machine.board(0, free=70), machine.board(1, free=20, nvmlDeviceGetPowerUsage=310_400)]
    fakes = machine(boards, visible=[1, 0])
    with GpuMonitor(Device("cuda", 0)) as monitor:
        assert fakes.pynvml.opened == 1
        assert monitor.text() == "60.0/80.0 GiB 310 W"
    assert fakes.pynvml.opened == 0


def test_samples_no_more_often_than_asked_and_keeps_the_peak(
    machine: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [100.0]
    monkeypatch.setattr("time.monotonic", lambda: now[0])
    one = machine.board(0, nvmlDeviceGetUtilizationRates=types.SimpleNamespace(gpu=50))
    machine([one])
    memory = one.answers["nvmlDeviceGetMemoryInfo"]
    with GpuMonitor(Device("cuda"), interval=1.0) as monitor:
        memory.used = 5 * GIB
        first = monitor.sample()
        memory.used = 30 * GIB
        now[0] += 0.9
        assert monitor.sample() is first
        now[0] += 0.2
        assert monitor.text() == "30.0/80.0 GiB 50 %"
        memory.used = 1 * GIB
        now[0] += 2
        assert monitor.sample() != first
    assert monitor.peak_memory == 30 * GIB


def test_a_closed_monitor_keeps_its_last_reading(machine: Any) -> None:
    fakes = machine([machine.board(0, free=50)])
    with GpuMonitor(Device("cuda"), interval=0) as monitor:
        last = monitor.sample()
    calls = fakes.pynvml.calls
    assert monitor.sample() == last
    assert fakes.pynvml.calls == calls


def test_no_nvml_is_no_error(machine: Any) -> None:
    machine([machine.board(0)], nvml_error="Driver Not Loaded")
    with GpuMonitor(Device("cuda")) as monitor:
        assert monitor.text() == ""
    assert "Driver Not Loaded" in monitor.reason
    fakes = machine([machine.board(0)])
    fakes.pynvml.boards = [machine.board(3)]  # a board that CUDA does not mean
    with GpuMonitor(Device("cuda")) as monitor:
        assert monitor.sample() is None
    assert monitor.reason == "NVML does not list cuda:0"


def test_energy_is_the_boards_own_counter(machine: Any) -> None:
    one = machine.board(0, nvmlDeviceGetPowerUsage=200_000, nvmlDeviceGetTotalEnergyConsumption=7_000_000)
    fakes = machine([one])
    meter = EnergyMeter(Device("cuda"))
    one.answers["nvmlDeviceGetTotalEnergyConsumption"] = 7_250_000
    assert meter.read() == {"power": 200.0, "memory": 70 * GIB, "joules": 250.0}
    assert meter.read() == {"power": 200.0, "memory": 70 * GIB, "joules": 0.0}
    meter.close()
    assert fakes.pynvml.opened == 0


def test_energy_without_a_counter_is_power_times_time(machine: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    now = [100.0]
    monkeypatch.setattr("time.monotonic", lambda: now[0])
    machine([machine.board(0, nvmlDeviceGetPowerUsage=200_000)])
    meter = EnergyMeter(Device("cuda"))
    now[0] += 3.0
    found = meter.read()
    assert found is not None
    assert found["joules"] == 600.0
    meter.close()
    assert EnergyMeter(Device("cpu")).read() is None
