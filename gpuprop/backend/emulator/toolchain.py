"""Finds what compiling a kernel for the CPU needs: a C++ compiler with binutils, and NVIDIA's headers."""

from __future__ import annotations

import functools
import importlib.metadata
import os
import platform
import shutil
import sys
from dataclasses import dataclass
from pathlib import Path

from gpuprop.errors import DeviceError

_MACHINES = ("x86_64", "aarch64")
# What the shim includes, and a file that shows it is there.
_HEADERS = ("cuda_fp16.h", "cuda_bf16.h", "vector_types.h", "crt/host_defines.h")
_WHEELS = ("nvidia-cuda-runtime", "nvidia-cuda-crt", "nvidia-cuda-cccl")


@dataclass(frozen=True)
class Toolchain:
    """A C++ compiler, its binutils, and the folders of NVIDIA's headers."""

    compiler: str
    nm: str
    addr2line: str
    include: tuple[str, ...]

    @property
    def clang(self) -> bool:
        return "clang" in Path(os.path.realpath(self.compiler)).name or "clang" in Path(self.compiler).name

    @property
    def asan(self) -> str:
        """AddressSanitizer's library, as the compiler's -print-file-name knows it."""
        return f"libclang_rt.asan-{platform.machine()}.so" if self.clang else "libasan.so"

    def identity(self) -> str:
        """Changes when the compiler or the headers do; part of the cache key."""
        real = os.path.realpath(self.compiler)
        status = os.stat(real)
        headers = [
            os.stat(Path(folder, "cuda_fp16.h")).st_mtime_ns
            for folder in self.include
            if Path(folder, "cuda_fp16.h").exists()
        ]
        return f"{real} {status.st_size} {status.st_mtime_ns} {self.include} {headers}"


def available() -> str | None:
    """None when kernels can be emulated here, else the reason and what to install."""
    try:
        find()
    except DeviceError as error:
        return str(error)
    return None


def find() -> Toolchain:
    """The toolchain; DeviceError says what is missing and what to install."""
    return _find(os.environ.get("CXX"), os.environ.get("CUDA_HOME"), os.environ.get("PATH"))


@functools.lru_cache(maxsize=8)
def _find(cxx: str | None, cuda_home: str | None, path: str | None) -> Toolchain:
    if sys.platform != "linux" or platform.machine() not in _MACHINES:
        raise DeviceError(
            'the device "emulated" runs on Linux on x86-64 and aarch64, '
            f"not on {sys.platform} {platform.machine()}"
        )
    # CXX may name a wrapper with arguments ("ccache g++"), which is not a program.
    names = ([cxx] if cxx and shutil.which(cxx) else []) + ["g++", "clang++"]
    compiler = next((found for name in names if (found := shutil.which(name))), None)
    nm, addr2line = shutil.which("nm"), shutil.which("addr2line")
    if compiler is None or nm is None or addr2line is None:
        missing = "C++ compiler (g++ or clang++)" if compiler is None else "binutils (nm, addr2line)"
        raise DeviceError(
            f'the device "emulated" needs a {missing} on PATH: install it, '
            'e.g. "apt install g++" or "dnf install gcc-c++"'
        )
    return Toolchain(compiler, nm, addr2line, _include(cuda_home))


def _include(cuda_home: str | None) -> tuple[str, ...]:
    """The header folders of the wheels, else of a toolkit."""
    wheels = _wheel_folders()
    for folders in (wheels, *([folder] for folder in _toolkit_folders(cuda_home))):
        present = [folder for folder in folders if folder.is_dir()]
        if all(any((folder / header).is_file() for folder in present) for header in _HEADERS):
            return tuple(
                str(part) for folder in present for part in (folder, folder / "cccl") if part.is_dir()
            )
    raise DeviceError(
        'the device "emulated" needs NVIDIA\'s header files: pip install "gpuprop[emulator]" '
        f"(the wheels {', '.join(_WHEELS)}), or set CUDA_HOME to a CUDA toolkit of version 12.2 or later"
    )


def _wheel_folders() -> list[Path]:
    """The `include` folders of NVIDIA's wheels, of CUDA 13 (nvidia/cu13) or 12 (nvidia/cuda_runtime, ...)."""
    folders: set[Path] = set()
    for name in (*_WHEELS, "nvidia-cuda-runtime-cu12", "nvidia-cuda-nvcc-cu12", "nvidia-cuda-cccl-cu12"):
        try:
            files = importlib.metadata.files(name) or []
        except importlib.metadata.PackageNotFoundError:
            continue
        for file in files:
            if "include" in file.parts:
                depth = file.parts.index("include") + 1
                folders.add(Path(str(file.locate())).parents[len(file.parts) - depth - 1])
                break
    return sorted(folders)


def _toolkit_folders(cuda_home: str | None) -> list[Path]:
    nvcc = shutil.which("nvcc")
    roots = [cuda_home, "/usr/local/cuda", str(Path(nvcc).resolve().parents[1]) if nvcc else None]
    return [Path(root, "include") for root in roots if root]
