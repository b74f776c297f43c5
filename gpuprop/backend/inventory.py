"""What this machine computes with, as plain data: the CPU, every GPU, and the versions between them."""

from __future__ import annotations

import importlib.metadata
import os
import platform
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from gpuprop.backend import cuda_setup, device, nvml
from gpuprop.errors import DeviceError


def devices_report() -> dict[str, Any]:
    """The report behind `gpuprop devices --json`. Memory in bytes; what is unknown is null.

    "gpus" is in CUDA's order, then those hidden from CUDA (device null); "gpu_problem" says why some are
    missing.
    """
    gpus, problem = _gpus()
    driver = cuda_setup.driver_cuda_version()
    return {
        "gpuprop": _version("gpuprop"),
        "python": platform.python_version(),
        "platform": platform.platform(),
        "numpy": np.__version__,
        "cupy": cuda_setup.cupy_packages(),
        "cuda_runtime": _runtime(),
        "cuda_driver": None if driver is None else cuda_setup.version_text(driver),
        "cuda_visible_devices": os.environ.get("CUDA_VISIBLE_DEVICES"),
        "cpu": _cpu(),
        "gpus": gpus,
        "gpu_problem": problem,
        "emulated_problem": device.emulated_reason(),
        "devices": [str(place) for place in device.available_devices()],
    }


def _gpus() -> tuple[list[dict[str, Any]], str | None]:
    seen, nvml_problem = nvml.gpus()
    try:
        number, problem = cuda_setup.count(), nvml_problem
    except DeviceError as error:
        number, problem = 0, str(error)
    rows, matched = [], []
    for index in range(number):
        info = device.match_gpu(index, seen)
        matched.append(info)
        rows.append({"device": f"cuda:{index}"} | asdict(info or _from_cuda(index)))
    rows += [{"device": None} | asdict(info) for info in seen if info not in matched]
    return rows, problem or None


def _from_cuda(index: int) -> nvml.GpuInfo:
    """What CUDA itself tells without opening the GPU, where NVML does not list it."""
    found = cuda_setup.import_cupy().cuda.runtime.getDeviceProperties(index)
    name = found["name"]
    return nvml.GpuInfo(
        name=name.decode() if isinstance(name, bytes) else name,
        memory_total=found["totalGlobalMem"],
        compute_capability=f"{found['major']}.{found['minor']}",
    )


def _runtime() -> str | None:
    try:
        return cuda_setup.version_text(cuda_setup.import_cupy().cuda.runtime.runtimeGetVersion())
    except DeviceError:
        return None


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _cpu() -> dict[str, Any]:
    affinity = getattr(os, "sched_getaffinity", None)  # absent on macOS
    facts = {**_table("/proc/meminfo"), **_table("/proc/cpuinfo")}
    total = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    available = facts.get("MemAvailable", "").split()
    return {
        "model": facts.get("model name") or platform.processor() or platform.machine(),
        "cores": len(affinity(0)) if affinity else os.cpu_count(),
        "memory_total": total,
        "memory_free": int(available[0]) * 1024 if available else None,
    }


def _table(path: str) -> dict[str, str]:
    """A file of /proc as a dict; empty where there is no /proc."""
    try:
        lines = Path(path).read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return {}
    pairs = (line.partition(":") for line in lines)
    return {key.strip(): value.strip() for key, _, value in pairs}
