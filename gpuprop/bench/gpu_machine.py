"""What a GPU bench ran on: the GPU, its driver and clocks, and the versions of the libraries."""

from __future__ import annotations

import importlib
from typing import Any

import gpuprop as gp

from . import measure


def gpu(cupy: Any) -> dict[str, Any]:
    """Name, compute capability, memory in bytes and driver of CuPy's current device, and its host."""
    runtime, index = cupy.cuda.runtime, cupy.cuda.runtime.getDevice()
    found = runtime.getDeviceProperties(index)
    name = found["name"]
    return {
        "gpu": name.decode() if isinstance(name, bytes) else name,
        "compute_capability": f"{found['major']}.{found['minor']}",
        "memory": found.get("totalGlobalMem"),
        "driver": _ask(cupy, lambda nvml, _: nvml.nvmlSystemGetDriverVersion()),
        "host": measure.machine(),
    }


def clocks(cupy: Any) -> dict[str, Any] | None:
    """MHz of the processors and the memory now, their most, watts, °C and what slows it down; None where NVML
    does not say."""

    def read(nvml: Any, handle: Any) -> dict[str, Any]:
        return {
            "sm_mhz": nvml.nvmlDeviceGetClockInfo(handle, nvml.NVML_CLOCK_SM),
            "memory_mhz": nvml.nvmlDeviceGetClockInfo(handle, nvml.NVML_CLOCK_MEM),
            "sm_most_mhz": nvml.nvmlDeviceGetMaxClockInfo(handle, nvml.NVML_CLOCK_SM),
            "watts": nvml.nvmlDeviceGetPowerUsage(handle) / 1e3,
            "celsius": nvml.nvmlDeviceGetTemperature(handle, nvml.NVML_TEMPERATURE_GPU),
            "throttled": nvml.nvmlDeviceGetCurrentClocksThrottleReasons(handle),
        }

    found = _ask(cupy, read)
    return found if isinstance(found, dict) else None


def _ask(cupy: Any, question: Any) -> Any:
    """question(pynvml, handle of the current device); None where NVML is not there or does not know."""
    try:
        nvml = importlib.import_module("pynvml")
        nvml.nvmlInit()
    except Exception:
        return None
    try:
        bus = cupy.cuda.runtime.deviceGetPCIBusId(cupy.cuda.runtime.getDevice())
        answer = question(nvml, nvml.nvmlDeviceGetHandleByPciBusId(bus))
        return answer.decode() if isinstance(answer, bytes) else answer
    except Exception:
        return None
    finally:
        nvml.nvmlShutdown()


def versions(cupy: Any, torch: Any) -> dict[str, str]:
    """Those that decide how fast it is."""
    runtime = cupy.cuda.runtime.runtimeGetVersion()
    found = measure.versions(torch) | {
        "cupy": str(cupy.__version__), "cuda": f"{runtime // 1000}.{runtime % 1000 // 10}",
    }  # fmt: skip
    if torch is not None:
        found["torch_cuda"] = str(torch.version.cuda)
        found["cudnn"] = str(torch.backends.cudnn.version())
    return found


def current_cupy() -> Any:
    """The module cupy, while a GPU is gpuprop's current device."""
    return gp.get_xp(gp.tensor(0.0).data)
