"""The power, energy and memory of the GPU a model trains on, between two readings."""

from __future__ import annotations

import time
from typing import Any

from ..backend.device import Device
from .monitor import GpuMonitor


class EnergyMeter:
    """Reads one GPU. Joules are those of the board's own counter or, where it has none, power times time."""

    def __init__(self, device: Device) -> None:
        self._monitor = GpuMonitor(device, interval=0.0).__enter__()
        self._at = time.monotonic()
        first = self._monitor.sample()
        self._joules = None if first is None else first.energy

    def read(self) -> dict[str, Any] | None:
        """power (watts), memory (bytes in use, of all processes) and joules since the reading before, without
        what the board does not report; None without a GPU."""
        now, before = self._monitor.sample(), self._at
        if now is None:
            return None
        self._at = time.monotonic()
        joules = None
        if now.energy is not None and self._joules is not None:
            joules = now.energy - self._joules
        elif now.power is not None:
            joules = now.power * (self._at - before)
        self._joules = now.energy
        found = {"power": now.power, "memory": now.memory_used, "joules": joules}
        return {name: round(value, 3) for name, value in found.items() if value is not None}

    def close(self) -> None:
        """Let go of NVML."""
        self._monitor.__exit__(None, None, None)
