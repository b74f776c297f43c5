"""The GPUs of this machine as NVML (the library behind nvidia-smi) sees them, through nvidia-ml-py.

Every field is optional, because boards differ in what they report. A GPU split by MIG is listed as its
instances, which is what CUDA sees. Nothing here opens a CUDA context or takes GPU memory.
"""

from __future__ import annotations

import importlib
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from gpuprop.backend import cuda_setup
from gpuprop.backend.cuda_setup import SetupError, version_text


@dataclass(frozen=True)
class GpuProcess:
    """A process that holds GPU memory; `memory` in bytes, None where the system hides it."""

    pid: int
    memory: int | None
    name: str | None


@dataclass(frozen=True)
class GpuInfo:
    """One GPU or MIG instance. Memory in bytes, utilization in percent, power in watts, temperature in °C.

    `parent_uuid` is the whole GPU's UUID for a MIG instance; versions are texts such as "13.0".
    """

    uuid: str | None = None
    name: str | None = None
    pci_bus_id: str | None = None
    parent_uuid: str | None = None
    memory_free: int | None = None
    memory_total: int | None = None
    compute_capability: str | None = None
    utilization: int | None = None
    power: float | None = None
    power_limit: float | None = None
    temperature: int | None = None
    driver_version: str | None = None
    cuda_version: str | None = None
    processes: tuple[GpuProcess, ...] = ()


@dataclass(frozen=True)
class Reading:
    """What changes while a GPU works: bytes, percent, watts, and joules since the driver was loaded; None for
    what the board does not report."""

    memory_used: int | None
    memory_total: int | None
    utilization: int | None
    power: float | None
    energy: float | None = None


@contextmanager
def session() -> Iterator[Any]:
    """The module pynvml with NVML open; SetupError when that fails."""
    try:
        pynvml = importlib.import_module("pynvml")
    except ImportError as error:
        raise SetupError(f"NVML is not installed ({error})", "pip install nvidia-ml-py") from error
    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError as error:
        raise SetupError(f"NVML does not open: {error}", _open_fix(str(error))) from error
    try:
        yield pynvml
    finally:
        _ask(pynvml, "nvmlShutdown")


def gpus() -> tuple[list[GpuInfo], str]:
    """All GPUs in NVML's order (not CUDA's), and why some or all are missing (empty when none is)."""
    try:
        with session() as pynvml:
            return _read_all(pynvml)
    except SetupError as error:
        return [], str(error)


def driver_version(pynvml: Any) -> str | None:
    """The driver's own version, such as "580.65.06"."""
    version: str | None = _ask(pynvml, "nvmlSystemGetDriverVersion")
    return version


def sensor(pynvml: Any, uuid: str) -> Any:
    """NVML's handle of the GPU or MIG instance called `uuid`, for `read`; None when it is gone."""
    return _ask(pynvml, "nvmlDeviceGetHandleByUUID", uuid)


def read(pynvml: Any, handle: Any) -> Reading:
    """Memory, utilisation, power and energy of one GPU now."""
    memory = _ask(pynvml, "nvmlDeviceGetMemoryInfo", handle)
    return Reading(
        memory_used=None if memory is None else int(memory.used),
        memory_total=None if memory is None else int(memory.total),
        utilization=_utilization(pynvml, handle),
        power=_thousandths(_ask(pynvml, "nvmlDeviceGetPowerUsage", handle)),
        energy=_thousandths(_ask(pynvml, "nvmlDeviceGetTotalEnergyConsumption", handle)),
    )


def uuid_bytes(uuid: str | None) -> bytes:
    """The 16 bytes of "GPU-..." or "MIG-..."; empty when there are none."""
    match = re.search(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", (uuid or "").lower())
    return bytes.fromhex(match[0].replace("-", "")) if match else b""


def bus_key(bus_id: str) -> str:
    """A PCI bus id as both NVML (domain of 8 digits) and CUDA (4 digits) would write it."""
    return bus_id.lower().lstrip("0")


def _open_fix(text: str) -> str:
    if "version mismatch" in text:
        return "the driver was updated while it was loaded: reboot the machine"
    if "Driver Not Loaded" in text:
        return "load the driver: `sudo modprobe nvidia`"
    if "permission" in text.lower():
        return "let this user read /dev/nvidiactl and /dev/nvidia*"
    if cuda_setup.driver_cuda_version() is None:
        return cuda_setup.no_driver_fix()
    return "install the driver's tools, so that `nvidia-smi` works; training works without"


def _ask(pynvml: Any, function: str, *args: Any) -> Any:
    """The answer of one NVML call, None where the board, the driver or this pynvml does not support it."""
    try:
        answer = getattr(pynvml, function)(*args)
    except (AttributeError, pynvml.NVMLError):
        return None
    return answer.decode() if isinstance(answer, bytes) else answer


def _read_all(pynvml: Any) -> tuple[list[GpuInfo], str]:
    found, problems = [], []
    for index in range(_ask(pynvml, "nvmlDeviceGetCount") or 0):
        try:
            handle = pynvml.nvmlDeviceGetHandleByIndex(index)
        except pynvml.NVMLError as error:  # fallen off the bus, or closed to this container
            problems.append(f"GPU {index}: {error}")
            continue
        parts = _mig_instances(pynvml, handle)
        found += [_read_one(pynvml, part, handle) for part in parts] or [_read_one(pynvml, handle)]
    if not found and not problems:
        problems.append("NVML lists no GPU")
    return found, "; ".join(problems)


def _mig_instances(pynvml: Any, handle: Any) -> list[Any]:
    mode = _ask(pynvml, "nvmlDeviceGetMigMode", handle)
    if not mode or mode[0] != 1:
        return []
    slots = range(_ask(pynvml, "nvmlDeviceGetMaxMigDeviceCount", handle) or 0)
    parts = [_ask(pynvml, "nvmlDeviceGetMigDeviceHandleByIndex", handle, slot) for slot in slots]
    return [part for part in parts if part is not None]


def _read_one(pynvml: Any, handle: Any, parent: Any = None) -> GpuInfo:
    board = handle if parent is None else parent  # what only the whole board reports
    memory = _ask(pynvml, "nvmlDeviceGetMemoryInfo", handle)
    pci = _ask(pynvml, "nvmlDeviceGetPciInfo", board)
    capability = _ask(pynvml, "nvmlDeviceGetCudaComputeCapability", board)
    cuda = _ask(pynvml, "nvmlSystemGetCudaDriverVersion")
    return GpuInfo(
        uuid=_ask(pynvml, "nvmlDeviceGetUUID", handle),
        name=_ask(pynvml, "nvmlDeviceGetName", handle),
        pci_bus_id=None if pci is None else _text(pci.busId),
        parent_uuid=None if parent is None else _ask(pynvml, "nvmlDeviceGetUUID", parent),
        memory_free=None if memory is None else int(memory.free),
        memory_total=None if memory is None else int(memory.total),
        compute_capability=None if capability is None else f"{capability[0]}.{capability[1]}",
        utilization=_utilization(pynvml, handle),
        power=_thousandths(_ask(pynvml, "nvmlDeviceGetPowerUsage", board)),
        power_limit=_thousandths(_ask(pynvml, "nvmlDeviceGetEnforcedPowerLimit", board)),
        temperature=_temperature(pynvml, board),
        driver_version=driver_version(pynvml),
        cuda_version=None if cuda is None else version_text(cuda),
        processes=_processes(pynvml, handle),
    )


def _processes(pynvml: Any, handle: Any) -> tuple[GpuProcess, ...]:
    running = _ask(pynvml, "nvmlDeviceGetComputeRunningProcesses", handle) or []
    return tuple(
        GpuProcess(p.pid, p.usedGpuMemory, _ask(pynvml, "nvmlSystemGetProcessName", p.pid)) for p in running
    )


def _utilization(pynvml: Any, handle: Any) -> int | None:
    rates = _ask(pynvml, "nvmlDeviceGetUtilizationRates", handle)
    return None if rates is None else int(rates.gpu)


def _temperature(pynvml: Any, handle: Any) -> int | None:
    on_die = 0  # NVML_TEMPERATURE_GPU
    new: int | None = _ask(pynvml, "nvmlDeviceGetTemperatureV", handle, on_die)
    return _ask(pynvml, "nvmlDeviceGetTemperature", handle, on_die) if new is None else new


def _thousandths(milli: int | None) -> float | None:
    return None if milli is None else milli / 1000


def _text(value: Any) -> str:
    return value.decode() if isinstance(value, bytes) else str(value)
