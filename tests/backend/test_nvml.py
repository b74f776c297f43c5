from __future__ import annotations

import sys
import types
from typing import Any

import pytest

from gpuprop.backend import nvml
from gpuprop.backend.nvml import GpuInfo, GpuProcess, Reading

GIB = 2**30


def full_answers() -> dict[str, Any]:
    return {
        "nvmlDeviceGetName": "NVIDIA H200",
        "nvmlDeviceGetCudaComputeCapability": (9, 0),
        "nvmlDeviceGetUtilizationRates": types.SimpleNamespace(gpu=87, memory=40),
        "nvmlDeviceGetPowerUsage": 310_500,
        "nvmlDeviceGetEnforcedPowerLimit": 700_000,
        "nvmlDeviceGetTemperatureV": 61,
        "nvmlDeviceGetComputeRunningProcesses": [
            types.SimpleNamespace(pid=12, usedGpuMemory=3 * GIB),
            types.SimpleNamespace(pid=13, usedGpuMemory=None),
        ],
    }


def test_every_field(machine: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    one = machine.board(0, free=20, **full_answers())
    pynvml = machine([one]).pynvml
    monkeypatch.setattr(pynvml, "nvmlSystemGetDriverVersion", lambda: b"580.65.06", raising=False)
    monkeypatch.setattr(pynvml, "nvmlSystemGetCudaDriverVersion", lambda: 13020, raising=False)
    monkeypatch.setattr(pynvml, "nvmlSystemGetProcessName", lambda pid: f"python{pid}", raising=False)
    expected = GpuInfo(
        uuid=one.uuid,
        name="NVIDIA H200",
        pci_bus_id="00000000:1B:00.0",
        memory_free=20 * GIB,
        memory_total=80 * GIB,
        compute_capability="9.0",
        utilization=87,
        power=310.5,
        power_limit=700.0,
        temperature=61,
        driver_version="580.65.06",
        cuda_version="13.2",
        processes=(GpuProcess(12, 3 * GIB, "python12"), GpuProcess(13, None, "python13")),
    )
    assert nvml.gpus() == ([expected], "")
    assert pynvml.opened == 0


def test_what_a_board_does_not_support_is_none(machine: Any) -> None:
    bare = machine.board(0)
    bare.answers.clear()
    machine([bare])
    assert nvml.gpus() == ([GpuInfo(uuid=bare.uuid, pci_bus_id=bare.bus)], "")


def test_old_drivers_give_the_temperature_by_the_old_call(machine: Any) -> None:
    machine([machine.board(0, nvmlDeviceGetTemperature=45)])
    assert nvml.gpus()[0][0].temperature == 45


def test_a_lost_board_does_not_hide_the_others(machine: Any) -> None:
    machine([machine.board(0), machine.board(1, free=3)])
    lost = machine.board(0)
    lost.lost = "GPU is lost"
    machine([lost, machine.board(1, free=3)])
    found, reason = nvml.gpus()
    assert [gpu.memory_free for gpu in found] == [3 * GIB]
    assert reason == "GPU 0: GPU is lost"


def test_mig_instances_stand_for_their_board(machine: Any) -> None:
    whole = machine.board(0, nvmlDeviceGetPowerUsage=200_000, nvmlDeviceGetCudaComputeCapability=(9, 0))
    whole.instances = [machine.Board("MIG-11111111-2222-3333-4444-555555555555", "")]
    whole.instances[0].answers = {"nvmlDeviceGetName": "NVIDIA H200 MIG 1g.18gb"}
    machine([whole, machine.board(1)])
    first, second = nvml.gpus()[0]
    assert (first.uuid, first.parent_uuid) == (whole.instances[0].uuid, whole.uuid)
    assert (first.power, first.compute_capability, first.memory_free) == (200.0, "9.0", None)
    assert second.parent_uuid is None


def test_missing_library_or_driver_gives_the_reason(machine: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    machine(driver=None, nvml_error="NVML Shared Library Not Found")
    found, reason = nvml.gpus()
    assert found == []
    assert reason.startswith("NVML does not open: NVML Shared Library Not Found. Fix: ")
    machine(nvml_error="RM has detected an NVML/RM version mismatch.")
    assert "reboot" in nvml.gpus()[1]
    machine([])
    assert nvml.gpus() == ([], "NVML lists no GPU")
    monkeypatch.setitem(sys.modules, "pynvml", None)
    assert nvml.gpus()[1].endswith("Fix: pip install nvidia-ml-py")


def test_read_by_uuid(machine: Any) -> None:
    one = machine.board(1, free=30, **full_answers())
    machine([machine.board(0), one])
    with nvml.session() as pynvml:
        handle = nvml.sensor(pynvml, one.uuid)
        assert nvml.read(pynvml, handle) == Reading(50 * GIB, 80 * GIB, 87, 310.5)
    assert (
        nvml.uuid_bytes("MIG-GPU-a1a1b2c3-1111-2222-3333-4444555566a1/1/0").hex()
        == "a1a1b2c3" + "1111222233334444555566a1"
    )
    assert nvml.uuid_bytes(None) == nvml.uuid_bytes("GPU-?") == b""
    assert nvml.bus_key("00000000:3B:00.0") == nvml.bus_key("0000:3b:00.0") != nvml.bus_key("0001:3b:00.0")


def test_the_real_pynvml_has_every_call_we_make() -> None:
    pynvml = pytest.importorskip("pynvml")
    import re
    from pathlib import Path

    names = set(re.findall(r'"(nvml[A-Z]\w+)"', Path(nvml.__file__).read_text(encoding="utf-8")))
    assert len(names) > 15
    assert [name for name in sorted(names) if not hasattr(pynvml, name)] == []
