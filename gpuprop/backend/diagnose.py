"""The doctor: tries every step from the driver to a running kernel and says what fails and what fixes it."""

from __future__ import annotations

import ctypes
import importlib
import os
import platform
import shutil
import subprocess
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from gpuprop.backend import cuda_setup, device, nvml
from gpuprop.backend.cuda_setup import SetupError

CUDA, EMULATED = "cuda", "emulated"

_UNKNOWN = "look in `nvidia-smi -q` and `sudo dmesg | grep NVRM`, or report it with `gpuprop doctor --json`"
_KERNEL = r"""
#include <cuda_fp16.h>
extern "C" __global__ void twice(const float* x, float* y, int n) {
    int i = blockIdx.x * blockDim.x + threadIdx.x;
    if (i < n) y[i] = __half2float(__float2half(x[i])) * 2.0f;
}
"""


@dataclass(frozen=True)
class Step:
    """One step of the doctor. `ok` is None when it was not tried, because a step it needs failed.

    `error` is the original text, `fix` what mends it; `device` is "cuda" or "emulated". Training works
    without the steps that are not `needed`.
    """

    name: str
    ok: bool | None
    detail: str = ""
    error: str = ""
    fix: str = ""
    device: str = CUDA
    needed: bool = True


def diagnose() -> list[Step]:
    """Try each step in order; a step that needs one that failed is not tried."""
    steps: dict[str, Step] = {}
    for name, attempt, needs, kind in _STEPS:
        needed = name not in _EXTRAS
        missing = [need for need in needs if not steps[need].ok]
        if missing:
            steps[name] = Step(name, None, f"not tried: needs {missing[0]}", device=kind, needed=needed)
        else:
            steps[name] = replace(_try(name, attempt), device=kind, needed=needed)
    return list(steps.values())


def usable(steps: list[Step], kind: str = CUDA) -> bool:
    """True when each step that uses that device went well."""
    proofs = _PROOFS[kind]
    return all(step.ok is True for step in steps if step.name in proofs)


def _try(name: str, attempt: Callable[[], str]) -> Step:
    try:
        return Step(name, True, attempt())
    except SetupError as error:
        return Step(name, False, error=error.cause, fix=error.fix)
    except Exception as error:  # the doctor reports whatever a broken machine raises
        known = cuda_setup.explain(error, _UNKNOWN)
        return Step(name, False, error=f"{type(error).__name__}: {error}", fix=known.fix)


def _platform() -> str:
    system, machine = platform.system(), platform.machine()
    if system != "Linux" or machine not in ("x86_64", "aarch64"):
        raise SetupError(
            f"{system} on {machine}", "CUDA needs Linux on x86-64 or aarch64; the CPU works here"
        )
    return f"{system} {machine}, Python {platform.python_version()}"


def _driver() -> str:
    return f"{cuda_setup.DRIVER_LIBRARY}, for CUDA {cuda_setup.version_text(cuda_setup.require_driver())}"


def _nvml() -> str:
    with nvml.session() as pynvml:
        return f"driver {nvml.driver_version(pynvml) or 'of unknown version'}"


def _gpus() -> str:
    found, reason = nvml.gpus()
    if reason:
        raise SetupError(reason, "`nvidia-smi` must list the GPU: look in `sudo dmesg` for NVRM messages")
    return ", ".join(f"{gpu.name} ({gpu.compute_capability or '?'})" for gpu in found)


def _visible() -> str:
    value = os.environ.get("CUDA_VISIBLE_DEVICES")
    if value is None:
        return "not set: every GPU is visible"
    if value.strip() in ("", "-1", "NoDevFiles"):
        raise SetupError(f"CUDA_VISIBLE_DEVICES={value!r} hides every GPU", "unset CUDA_VISIBLE_DEVICES")
    return f"{value}: only these, in this order, are cuda:0, cuda:1, ..."


def _package() -> str:
    packages = cuda_setup.cupy_packages()
    text = ", ".join(f"{name} {version}" for name, version in packages.items())
    if not packages:
        raise SetupError("no CuPy package is installed", cuda_setup.install_fix())
    if len(packages) > 1:
        raise SetupError(f"several packages overwrite each other: {text}", cuda_setup.duplicate_fix())
    driver = cuda_setup.driver_cuda_version()
    if "cupy-cuda13x" in packages and driver is not None and driver < 13000:
        cause = f"{text} needs a driver for CUDA 13.0, this one is for {cuda_setup.version_text(driver)}"
        raise SetupError(cause, f"pip uninstall -y cupy-cuda13x, then {cuda_setup.install_fix()}")
    return text


def _import() -> str:
    cupy = cuda_setup.import_cupy()
    return f"cupy {cupy.__version__}, built for CUDA {cuda_setup.version_text(_runtime(cupy))}"


def _runtime(cupy: Any) -> int:
    return int(cupy.cuda.runtime.runtimeGetVersion())


def _libraries() -> str:
    """Load what CuPy calls. cuBLAS is loaded by name, since asking CuPy for its version needs a GPU."""
    cupy = cuda_setup.import_cupy()
    major = _runtime(cupy) // 1000
    try:
        runtime = cuda_setup.version_text(cupy.cuda.get_local_runtime_version())
        nvrtc = ".".join(str(part) for part in cupy.cuda.nvrtc.getVersion())
        _load_cublas(major)
    except Exception as error:
        raise SetupError(f"{type(error).__name__}: {error}", _libraries_fix(major)) from error
    return f"CUDA runtime {runtime}, NVRTC {nvrtc}, cuBLAS {major}"


def _load_cublas(major: int) -> None:
    try:
        pathfinder = importlib.import_module("cuda.pathfinder")
    except ImportError:  # CuPy 13 and older do without; the system's library path must have it
        ctypes.CDLL(f"libcublas.so.{major}")
        return
    pathfinder.load_nvidia_dynamic_lib("cublas")


def _libraries_fix(major: int) -> str:
    return f'pip install "cupy-cuda{major}x[ctk]"'


def _headers() -> str:
    """Compile with NVRTC, which needs no driver, a kernel that includes a CUDA header."""
    cupy = cuda_setup.import_cupy()
    options = importlib.import_module("cupy._core.core").assemble_cupy_compiler_options(())
    nvrtc = cupy.cuda.nvrtc
    program = nvrtc.createProgram(_KERNEL, "doctor.cu", (), ())
    try:
        nvrtc.compileProgram(program, (*options, "-arch=sm_80"))
        size = len(nvrtc.getCUBIN(program))
    except Exception as error:
        log = " ".join(nvrtc.getProgramLog(program).split()) or str(error)
        raise SetupError(log, _libraries_fix(_runtime(cupy) // 1000)) from error
    finally:
        nvrtc.destroyProgram(program)
    return f"cuda_fp16.h found, kernel of {size:,} bytes"


def _count() -> str:
    number = cuda_setup.count()
    return "cuda:0" if number == 1 else f"cuda:0 to cuda:{number - 1}"


def _each_gpu(work: Callable[[Any], None]) -> str:
    cupy = cuda_setup.import_cupy()
    for index in range(cuda_setup.count()):
        try:
            with cupy.cuda.Device(index):
                work(cupy)
        except Exception as error:
            known = cuda_setup.explain(error, _UNKNOWN)
            raise SetupError(f"cuda:{index}: {type(error).__name__}: {error}", known.fix) from error
    return f"right on {_count()}"


def _add(cupy: Any) -> None:
    total = float((cupy.arange(1000, dtype="float32") + 1).sum())
    if total != 500500.0:
        raise ArithmeticError(f"1 + ... + 1000 came out as {total}")


def _launch(cupy: Any) -> None:
    x = cupy.arange(100, dtype="float32")
    y = cupy.empty_like(x)
    cupy.RawKernel(_KERNEL, "twice")((1,), (128,), (x, y, 100))
    if not bool((y == 2 * x).all()):
        raise ArithmeticError("the kernel ran, but its result is wrong")


def _product(cupy: Any) -> None:
    total = float((cupy.ones((32, 32), "float32") @ cupy.ones((32, 32), "float32")).sum())
    if total != 32.0**3:
        raise ArithmeticError(f"a product of ones came out as {total}")


def _compiler() -> str:
    name = os.environ.get("CXX", "g++")
    path = shutil.which(name)
    if path is None:
        raise SetupError(
            f"{name} is not on the PATH", "sudo apt install g++ (or set CXX to your C++ compiler)"
        )
    source = "#include <cstdint>\n#include <cmath>\n#include <vector>\n"
    command = [path, "-x", "c++", "-fsyntax-only", "-"]
    done = subprocess.run(command, input=source, capture_output=True, text=True, timeout=60, check=False)
    if done.returncode != 0:
        raise SetupError(" ".join(done.stderr.split()), "sudo apt install libstdc++-12-dev, or reinstall g++")
    version = subprocess.run(
        [path, "-dumpfullversion"], capture_output=True, text=True, timeout=60, check=False
    )
    return f"{path} {version.stdout.strip()}, with its headers"


def _emulated() -> str:
    reason = device.emulated_reason()
    if reason:
        raise SetupError(reason, "mend the C++ compiler (`g++ --version`), then run `gpuprop doctor` again")
    return "kernels run on the CPU"


# name, attempt, the steps it needs, device
_STEPS: list[tuple[str, Callable[[], str], tuple[str, ...], str]] = [
    ("platform", _platform, (), CUDA),
    ("NVIDIA driver", _driver, (), CUDA),
    ("NVML", _nvml, (), CUDA),
    ("GPUs in NVML", _gpus, ("NVML",), CUDA),
    ("CUDA_VISIBLE_DEVICES", _visible, (), CUDA),
    ("CuPy package", _package, (), CUDA),
    ("CuPy import", _import, (), CUDA),
    ("CUDA libraries", _libraries, ("CuPy import",), CUDA),
    ("CUDA headers", _headers, ("CuPy import", "CUDA libraries"), CUDA),
    ("GPUs in CUDA", _count, ("NVIDIA driver", "CuPy import"), CUDA),
    ("array sum", lambda: _each_gpu(_add), ("GPUs in CUDA",), CUDA),
    ("kernel launch", lambda: _each_gpu(_launch), ("array sum", "CUDA headers"), CUDA),
    ("matrix product", lambda: _each_gpu(_product), ("array sum", "CUDA libraries"), CUDA),
    ("C++ compiler", _compiler, (), EMULATED),
    ("emulated device", _emulated, ("C++ compiler",), EMULATED),
]
_PROOFS = {CUDA: ("kernel launch", "matrix product"), EMULATED: ("emulated device",)}
_EXTRAS = ("NVML", "GPUs in NVML")
