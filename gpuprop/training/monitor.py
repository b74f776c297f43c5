"""Reads a GPU's memory, utilization and power while a model trains, for the progress display."""

from __future__ import annotations

import contextlib
import time
from types import TracebackType
from typing import Any

from gpuprop.backend import nvml
from gpuprop.backend.device import Device, match_gpu
from gpuprop.errors import DeviceError


class GpuMonitor:
    """Samples one GPU through NVML, at most once in `interval` seconds. Does nothing without a GPU or NVML.

    NVML answers from the driver, so a sample never waits for the GPU's work. Memory is that of all processes.
    `peak_memory` is the most bytes seen in use; `reason` says why there are no samples.
    """

    def __init__(self, device: Device, interval: float = 0.5) -> None:
        self.interval = interval
        self.peak_memory: int | None = None
        self.reason = "" if device.type == "cuda" else f"{device} is not a GPU"
        self._device = device
        self._open = contextlib.ExitStack()
        self._pynvml: Any = None
        self._handle: Any = None
        self._last: nvml.Reading | None = None
        self._due = 0.0

    def __enter__(self) -> GpuMonitor:
        if not self.reason:
            try:
                self._pynvml = self._open.enter_context(nvml.session())
                self._find()
            except DeviceError as error:
                self.reason = str(error)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._handle = None
        self._open.close()

    def sample(self) -> nvml.Reading | None:
        """The newest reading, taken again when `interval` has passed; None where there is no GPU."""
        if self._handle is not None and time.monotonic() >= self._due:
            self._last = nvml.read(self._pynvml, self._handle)
            self._due = time.monotonic() + self.interval
            used = self._last.memory_used
            if used is not None:
                self.peak_memory = max(used, self.peak_memory or 0)
        return self._last

    def text(self) -> str:
        """The reading in a few words, "12.3/79.6 GiB 87 % 310 W"; empty where there is no GPU."""
        now = self.sample()
        if now is None:
            return ""
        parts = []
        if now.memory_used is not None and now.memory_total is not None:
            parts.append(f"{now.memory_used / 2**30:.1f}/{now.memory_total / 2**30:.1f} GiB")
        if now.utilization is not None:
            parts.append(f"{now.utilization} %")
        if now.power is not None:
            parts.append(f"{now.power:.0f} W")
        return " ".join(parts)

    def _find(self) -> None:
        gpus, problem = nvml.gpus()
        gpu = match_gpu(self._device.index, gpus)
        if gpu is not None and gpu.uuid is not None:
            self._handle = nvml.sensor(self._pynvml, gpu.uuid)
        if self._handle is None:
            self.reason = problem or f"NVML does not list {self._device}"
