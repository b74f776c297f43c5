"""Makes CuPy run without a GPU: `make dry` calls this in an environment of its own.

    python tests/dry/build.py FOLDER

CuPy's arrays, memory, streams and graphs reach CUDA through two things: one module, which has the CUDA
runtime linked in, and the driver's library. That module is compiled again, from CuPy's source distribution,
against `runtime.cpp`. FOLDER then has

    site/    CuPy's backends with that module, for PYTHONPATH before the installed ones
    lib/     libcuda.so.1, which is `driver.cpp` and `runtime.cpp`, for LD_LIBRARY_PATH
"""

from __future__ import annotations

import importlib.metadata
import os
import shutil
import subprocess
import sys
import sysconfig
import tarfile
from pathlib import Path

HERE = Path(__file__).resolve().parent
MODULE = "cupy_backends.cuda.api.runtime"
# As CuPy's own setup.py compiles it.
DIRECTIVES = {"embedsignature": True, "c_api_binop_methods": True, "freethreading_compatible": True}
CUDA = 13020
# Of a header that is in no wheel, what the module takes from it.
PROFILER = """#include <driver_types.h>
extern "C" cudaError_t cudaProfilerStart(), cudaProfilerStop();
"""


def source(folder: Path) -> Path:
    """CuPy's source distribution of the version that is installed, unpacked."""
    version = importlib.metadata.version("cupy-cuda13x")
    unpacked = folder / f"cupy-{version}"
    if not unpacked.exists():
        no_toolkit = {**os.environ, "CUPY_INSTALL_USE_STUB": "1"}  # pip asks setup.py, which looks for one
        what = ["--no-deps", "--no-binary", "cupy", f"cupy=={version}", "--dest", str(folder)]
        subprocess.run([sys.executable, "-m", "pip", "download", "-q", *what], check=True, env=no_toolkit)
        with tarfile.open(folder / f"cupy-{version}.tar.gz") as packed:
            packed.extractall(folder, filter="data")
    return unpacked


def translate(folder: Path) -> Path:
    """The module in C++."""
    from Cython.Build import cythonize
    from setuptools import Extension

    path = MODULE.replace(".", "/")
    before = Path.cwd()
    os.chdir(folder)
    try:
        cythonize(
            [Extension(MODULE, [f"{path}.pyx"], language="c++")],
            language_level=3,
            compiler_directives=DIRECTIVES,
            compile_time_env={
                "CUPY_USE_CUDA_PYTHON": False,
                "CUPY_CUFFT_STATIC": False,
                "CUPY_CYTHON_VERSION": importlib.metadata.version("cython"),
                "CUPY_CUDA_VERSION": CUDA,
                "CUPY_HIP_VERSION": 0,
            },
        )
    finally:
        os.chdir(before)
    return folder / f"{path}.cpp"


def compile_all(folder: Path) -> None:
    sources, site, lib = source(folder), folder / "site", folder / "lib"
    lib.mkdir(exist_ok=True)
    headers = folder / "include"
    headers.mkdir(exist_ok=True)
    (headers / "cuda_profiler_api.h").write_text(PROFILER, encoding="utf-8")
    nvidia = Path(sysconfig.get_path("purelib")) / "nvidia/cu13/include"
    includes = [f"-I{path}" for path in (headers, nvidia, sysconfig.get_path("include"), sources)]
    compiler = ["g++", "-w", "-shared", "-fPIC", f"-DCUPY_CUDA_VERSION={CUDA}", *includes]
    driver = lib / "libcuda.so.1"
    subprocess.run([*compiler, HERE / "runtime.cpp", HERE / "driver.cpp", "-o", driver], check=True)
    installed = Path(sysconfig.get_path("purelib")) / "cupy_backends"
    shutil.copytree(installed, site / "cupy_backends", dirs_exist_ok=True)
    (module,) = (site / "cupy_backends/cuda/api").glob("runtime.*.so")
    subprocess.run([*compiler, translate(sources), driver, "-o", module], check=True)


if __name__ == "__main__":
    made = Path(sys.argv[1]).resolve()
    made.mkdir(parents=True, exist_ok=True)
    compile_all(made)
