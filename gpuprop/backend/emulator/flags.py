"""The compiler's flags, by mode."""

from __future__ import annotations

import functools
import json
import os
import platform
import subprocess
from pathlib import Path

from gpuprop.backend.emulator import cache
from gpuprop.backend.emulator.toolchain import Toolchain

# DWARF 4: of version 5 binutils up to 2.40 name the wrong file for the first lines of code.
_COMMON = ("-std=c++17", "-fPIC", "-g1", "-gdwarf-4", "-fno-omit-frame-pointer", "-w")
_KERNEL = (
    "-ffp-contract=off",
    "-fno-strict-aliasing",
    "-fno-threadsafe-statics",
    "-fno-exceptions",
    "-fno-math-errno",
    "-fno-optimize-sibling-calls",
    "-include",
    "gpuprop_emulator.h",
)
_UNDEFINED = "alignment,shift,integer-divide-by-zero,signed-integer-overflow,float-cast-overflow"


def for_kernels(mode: str, tools: Toolchain) -> list[str]:
    """For a kernel file."""
    flags = [*_COMMON, *_KERNEL, *_include(tools)]
    if not tools.clang:
        flags.append("-fno-gnu-unique")  # or several libraries would share one __shared__ variable
        if platform.machine() == "aarch64":
            flags.append(
                "-fno-section-anchors"
            )  # variables are addressed one by one: red zones may move them
    bounds = "array-bounds" if tools.clang else "bounds-strict"
    if mode == "fast":
        return [*flags, "-O2"]
    if mode == "asan":
        return [*flags, "-O1", "-DGPE_ASAN", "-fsanitize=address", "-fsanitize-recover=address"]
    if mode == "ubsan":
        no = ["-fno-sanitize=vptr", *(["-fno-sanitize=function"] if tools.clang else [])]
        return [*flags, "-O1", f"-fsanitize=undefined,float-cast-overflow,{bounds}", *no]
    checks = ["-fsanitize=thread", *_hook_options(tools), f"-fsanitize={_UNDEFINED},{bounds}"]
    return [*flags, "-O1", "-DGPE_CHECK", *checks]


def for_runtime(mode: str, tools: Toolchain) -> list[str]:
    """For the runtime's own files."""
    return [
        *_COMMON,
        "-O2",
        "-fvisibility=hidden",
        *_include(tools),
        *(["-DGPE_ASAN"] if mode == "asan" else []),
    ]


def for_linking(mode: str, tools: Toolchain) -> list[str]:
    """For a shared library."""
    asan = ["-fsanitize=address", *(["-shared-libasan"] if tools.clang else [])] if mode == "asan" else []
    return ["-shared", *asan, "-Wl,-Bsymbolic", "-Wl,-z,noexecstack"]


def run(command: list[str], folder: Path) -> str | None:
    """Run a compiler in a folder; its error lines, or None when it succeeded."""
    # LD_PRELOAD of a sanitizer is for the Python process, not for the compiler.
    environment = {k: v for k, v in os.environ.items() if k != "LD_PRELOAD"} | {"LC_ALL": "C"}
    done = subprocess.run(
        command, cwd=folder, capture_output=True, text=True, errors="replace", env=environment
    )
    if done.returncode == 0:
        return None
    return done.stderr.strip() or f"{command[0]}: exit status {done.returncode}"


def _include(tools: Toolchain) -> list[str]:
    return [f"-I{cache.HERE / 'include'}", *(f"-isystem{folder}" for folder in tools.include)]


@functools.lru_cache(maxsize=8)
def _hook_options(tools: Toolchain) -> tuple[str, ...]:
    """No hooks at function entry, others for volatile accesses: as far as this compiler knows the options."""
    wanted = ("tsan-instrument-func-entry-exit=0", "tsan-distinguish-volatile=1")
    spelled = [("-mllvm", f"-{option}") if tools.clang else (f"--param={option}",) for option in wanted]

    def probe(folder: Path) -> None:
        (folder / "empty.cpp").write_text("")
        command = [tools.compiler, "-fsanitize=thread", "-S", "empty.cpp"]
        known = [words for words in spelled if run([*command, *words], folder) is None]
        (folder / "known.json").write_text(json.dumps([word for words in known for word in words]))

    probed = cache.entry(cache.key("hook options", tools.identity()), probe)
    return tuple(json.loads((probed / "known.json").read_text()))
