"""Runs CUDA kernel files on the CPU, plainly or under a checker. See docs/emulator.md."""

from __future__ import annotations

from collections.abc import Sequence

from gpuprop.backend.emulator.module import EmulatedModule
from gpuprop.backend.emulator.report import EmulatorError, Report
from gpuprop.backend.emulator.settings import MODES, ORDERS, Settings, current, options
from gpuprop.backend.emulator.toolchain import available

__all__ = [
    "MODES",
    "ORDERS",
    "EmulatedModule",
    "EmulatorError",
    "Report",
    "Settings",
    "available",
    "current",
    "load",
    "options",
]


def load(
    source: str, filename: str = "kernel.cu", names: Sequence[str] = (), options: Sequence[str] = ()
) -> EmulatedModule:
    """Compile the kernels `names` of a CUDA file for the CPU; without names, all that are no templates.

    filename: what messages call the file, and where its quoted includes are looked for.
    options: of NVRTC's, macros (-D, -U), include folders (-I) and the architecture (-arch=sm_80; without it
    sm_90) are used. Raises BuildError with the compiler's lines, DeviceError when there is no compiler.
    """
    return EmulatedModule(source, filename, names, options)
