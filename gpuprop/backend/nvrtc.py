"""Compile kernels to machine code with NVRTC, which needs no GPU and no driver, and read what they use."""

from __future__ import annotations

import importlib
import importlib.util
import os
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from gpuprop.errors import BuildError

ARCHITECTURES = ("sm_75", "sm_80", "sm_86", "sm_89", "sm_90", "sm_90a", "sm_100", "sm_120")
MISSING = (
    "NVRTC is not installed: pip install 'gpuprop[cuda13]' (or cuda12), "
    "or pip install cuda-bindings nvidia-cuda-nvrtc"
)
# What NVRTC does not have, and what to do about it.
_STANDARD = (
    "assert|float|limits|math|stdbool|stddef|stdint|stdio|stdlib|string|algorithm|type_traits|iostream"
)
_REMEDIES = (
    (
        rf'cannot open source file "c?(?:{_STANDARD})(?:\.h)?"',
        "NVRTC has no standard headers: leave the line out, as printf, assert and what math.h has are "
        "built in, or keep it behind #ifndef __CUDACC_RTC__; int64_t and its kin are in <cuda/std/cstdint>",
    ),
    (
        r'identifier "(?:INFINITY|NAN|[A-Z]+_(?:MAX|MIN|EPSILON))" is undefined',
        "NVRTC has no macros of standard headers: write the number, __int_as_float(0x7f800000) for infinity, "
        "__int_as_float(0x7fffffff) for NaN, or include <cuda/std/limits>",
    ),
    (
        "invalid value for --gpu-architecture",
        f"this NVRTC does not know the architecture; {', '.join(ARCHITECTURES)} are those of the tests",
    ),
    (
        r'identifier "u(?:char|short|int|long)" is undefined',
        "uint and its kin are the C library's: write unsigned int",
    ),
    (r'identifier "u?int\d+_t" is undefined', "int64_t and its kin are in <cuda/std/cstdint>"),
    (
        r'identifier "cuda(?:Malloc|Memcpy|Free|DeviceSynchronize)',
        "NVRTC compiles device code alone: leave main() and all else that runs on the host out, as Python "
        "launches the kernels",
    ),
)


@dataclass(frozen=True)
class CompiledKernel:
    """What ptxas reports for a kernel: registers a thread; bytes of static shared memory, stack, spills.
    symbol: its name in the machine code."""

    name: str
    symbol: str
    arch: str
    registers: int
    shared_bytes: int
    stack_bytes: int
    spill_stores: int
    spill_loads: int


@dataclass(frozen=True)
class CompiledInfo:
    """A compiled source: its machine code, its kernels in the order of their names, the compiler's log."""

    cubin: bytes
    kernels: list[CompiledKernel]
    log: str


class _Compiler(Protocol):
    def compile(
        self, source: str, filename: str, names: Sequence[str], options: Sequence[str]
    ) -> _Result: ...


@dataclass(frozen=True)
class _Result:
    ok: bool
    log: str
    cubin: bytes
    mangled: dict[str, str]  # symbol -> the name asked for


def compile_cubin(
    source: str,
    arch: str,
    names: Sequence[str] = (),
    options: Sequence[str] = (),
    filename: str = "kernel.cu",
) -> CompiledInfo:
    """Compile `source` for `arch` ("sm_90") with the template expressions `names`. Kernels declared
    extern "C" need no name.

    Raises BuildError with the compiler's lines, and when NVRTC is missing.
    """
    includes = [f"-I{path}" for path in [*include_dirs(), *libcudacxx()]]
    flags = [
        f"-arch={arch}",
        "-std=c++17",
        "--ptxas-options=-v",
        "--device-as-default-execution-space",
        "-ftz=true",  # as CuPy compiles: subnormal floats are zero
        *options,
        *includes,
    ]
    result = _compiler().compile(source, filename, names, flags)
    if not result.ok:
        raise BuildError(
            f"{filename} does not compile for {arch}:\n{result.log.strip()}{remedies(result.log)}"
        )
    kernels = _resources(result.log, arch, result.mangled)
    order = {name: i for i, name in enumerate(names)}
    kernels.sort(key=lambda kernel: order.get(kernel.name, len(order)))
    return CompiledInfo(result.cubin, kernels, result.log)


def available() -> bool:
    """True where NVRTC can be loaded."""
    try:
        _compiler()
    except BuildError:
        return False
    return True


def include_dirs() -> list[Path]:
    """Folders with CUDA's headers: of NVIDIA's wheels, else of a toolkit, else the copy inside CuPy."""
    spec = importlib.util.find_spec("nvidia")
    wheels = [Path(p) for p in (spec.submodule_search_locations or [])] if spec else []
    found = sorted({header.parent for root in wheels for header in root.glob("*/include/cuda_fp16.h")})
    if found:
        return found[-1:]
    toolkits = [os.environ.get("CUDA_PATH"), os.environ.get("CUDA_HOME"), "/usr/local/cuda"]
    for toolkit in filter(None, toolkits):
        if (Path(toolkit) / "include" / "cuda_fp16.h").exists():
            return [Path(toolkit) / "include"]
    package = importlib.util.find_spec("cupy")
    if package is None or package.origin is None:
        return []
    return _last(Path(package.origin).parent.glob("_core/include/cupy/_cuda/*/cuda_fp16.h"))


def libcudacxx() -> list[Path]:
    """Folders with libcu++ (<cuda/std/...>), which CUDA 13 has beside its other headers."""
    return [path for folder in include_dirs() if (path := folder / "cccl").is_dir()]


def remedies(log: str) -> str:
    """What to do about errors that come of NVRTC, not of the kernel: lines to put behind its log."""
    return "".join(f"\n{remedy}" for pattern, remedy in _REMEDIES if re.search(pattern, log))


def _last(headers: Iterable[Path]) -> list[Path]:
    return sorted(header.parent for header in headers)[-1:]


def _compiler() -> _Compiler:
    for load in (_CupyNvrtc, _BindingsNvrtc):
        try:
            return load()
        except (ImportError, AttributeError, RuntimeError, OSError):
            continue
    raise BuildError(MISSING)


class _CupyNvrtc:
    """NVRTC as CuPy loads it."""

    def __init__(self) -> None:
        self.nvrtc: Any = importlib.import_module("cupy.cuda").nvrtc
        self.nvrtc.getVersion()  # loads the library, or raises

    def compile(self, source: str, filename: str, names: Sequence[str], options: Sequence[str]) -> _Result:
        nvrtc = self.nvrtc
        program = nvrtc.createProgram(source, filename, (), ())
        try:
            for name in names:
                nvrtc.addNameExpression(program, name)
            try:
                nvrtc.compileProgram(program, tuple(options))
            except nvrtc.NVRTCError:
                return _Result(False, nvrtc.getProgramLog(program), b"", {})
            mangled = {nvrtc.getLoweredName(program, name): name for name in names}
            return _Result(True, nvrtc.getProgramLog(program), nvrtc.getCUBIN(program), mangled)
        finally:
            nvrtc.destroyProgram(program)


class _BindingsNvrtc:
    """NVRTC through NVIDIA's cuda-bindings, where CuPy is not installed."""

    def __init__(self) -> None:
        self.nvrtc: Any = importlib.import_module("cuda.bindings.nvrtc")
        self.nvrtc.nvrtcVersion()

    def _call(self, name: str, *args: Any) -> Any:
        status, *values = getattr(self.nvrtc, name)(*args)
        if int(status) != 0:
            raise BuildError(f"{name}: {status.name}")
        return values[0] if values else None

    def _bytes(self, size: str, get: str, program: Any) -> bytes:
        buffer: bytes = b" " * self._call(size, program)
        self._call(get, program, buffer)
        return buffer

    def compile(self, source: str, filename: str, names: Sequence[str], options: Sequence[str]) -> _Result:
        program = self._call("nvrtcCreateProgram", source.encode(), filename.encode(), 0, [], [])
        try:
            for name in names:
                self._call("nvrtcAddNameExpression", program, name.encode())
            flags = [option.encode() for option in options]
            status = self.nvrtc.nvrtcCompileProgram(program, len(flags), flags)[0]
            log = self._bytes("nvrtcGetProgramLogSize", "nvrtcGetProgramLog", program).decode().rstrip("\0")
            if int(status) != 0:
                return _Result(False, log, b"", {})
            mangled = {
                self._call("nvrtcGetLoweredName", program, name.encode()).decode(): name for name in names
            }
            return _Result(True, log, self._bytes("nvrtcGetCUBINSize", "nvrtcGetCUBIN", program), mangled)
        finally:
            self.nvrtc.nvrtcDestroyProgram(program)


def _resources(log: str, arch: str, mangled: dict[str, str]) -> list[CompiledKernel]:
    kernels = []
    for entry in re.split(r"Compiling entry function '", log)[1:]:
        symbol = entry.partition("'")[0]
        numbers = [
            _number(pattern, entry)
            for pattern in (r"Used (\d+) registers", r"(\d+) bytes smem", r"(\d+) bytes stack frame",
                            r"(\d+) bytes spill stores", r"(\d+) bytes spill loads")
        ]  # fmt: skip
        kernels.append(CompiledKernel(mangled.get(symbol, symbol), symbol, arch, *numbers))
    return kernels


def _number(pattern: str, text: str) -> int:
    match = re.search(pattern, text)
    return int(match[1]) if match else 0
