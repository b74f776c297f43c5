"""Turns what the runtime found into a Python exception that names file, line, block and thread."""

from __future__ import annotations

import ctypes
import os
import re
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from gpuprop.backend.emulator import build, cache
from gpuprop.backend.emulator.toolchain import Toolchain
from gpuprop.errors import KernelError

_SYSTEM = ("/usr/include", "/usr/lib/gcc", "/usr/lib/llvm", "/usr/lib64/gcc")


@dataclass(frozen=True)
class Report:
    """One finding. file is None when the place is not known, block and thread when no one thread did it."""

    kind: str
    message: str
    file: str | None = None
    line: int | None = None
    block: tuple[int, int, int] | None = None
    thread: tuple[int, int, int] | None = None
    callers: tuple[str, ...] = field(default=())  # "file:line" of the calls that led there, innermost first

    def __str__(self) -> str:
        place = f"{self.file}:{self.line}: " if self.file else ""
        who = f", block {self.block} thread {self.thread}" if self.block else ""
        calls = f" (called from {', '.join(self.callers)})" if self.callers else ""
        return f"{place}{self.kind}: {self.message}{who}{calls}"


class EmulatorError(KernelError):
    """A kernel did something wrong while it was emulated; `reports` holds each finding."""

    def __init__(self, launch: str, reports: Sequence[Report], note: str = "") -> None:
        super().__init__("\n  ".join([f"{launch}:", *map(str, reports)]) + note)
        self.reports = tuple(reports)


class RawReport(ctypes.Structure):
    """gpe::Report in runtime/reports.h."""

    _fields_ = (
        ("kind", ctypes.c_char_p),
        ("text", ctypes.c_char_p),
        ("file", ctypes.c_char_p),
        ("frames", ctypes.c_uint64 * 4),
        ("line", ctypes.c_uint32),
        ("has_thread", ctypes.c_uint32),
        ("block", ctypes.c_uint32 * 3),
        ("thread", ctypes.c_uint32 * 3),
    )


def read(raw: RawReport, library: Path, tools: Toolchain) -> Report:
    """The report with its place looked up in the library's debug information."""
    places = [(raw.file.decode(), int(raw.line))] if raw.file else _places(list(raw.frames), library, tools)
    file, line = places[0] if places else (None, None)
    x, y, z = raw.block
    block = (x, y, z) if raw.has_thread else None
    x, y, z = raw.thread
    thread = (x, y, z) if raw.has_thread else None
    callers = tuple(f"{name}:{number}" for name, number in places[1:])
    return Report(raw.kind.decode(), raw.text.decode(errors="replace"), file, line, block, thread, callers)


def _places(frames: list[int], library: Path, tools: Toolchain) -> list[tuple[str, int]]:
    """Files and lines of return addresses and inlined calls, without the shim's and other libraries' own."""
    # A return address may be on the next line already: look up the call before it.
    addresses = [hex(frame - 1) for frame in frames if frame]
    if not addresses:
        return []
    command = [tools.addr2line, "-i", "-e", str(library), *addresses]
    found = subprocess.run(command, capture_output=True, text=True, env=os.environ | {"LC_ALL": "C"})
    foreign = (str(cache.HERE / "include"), *tools.include, *_SYSTEM)
    places: dict[tuple[str, int], None] = {}
    for text in found.stdout.splitlines():
        match = re.match(r"(.+):(\d+)(?: \(discriminator \d+\))?$", text)
        if match and not match[1].startswith(foreign) and match[1] not in ("??", build.NAMES_FILE):
            places[match[1].removeprefix(f"{build.SOURCE}/"), int(match[2])] = None
    return list(places)
