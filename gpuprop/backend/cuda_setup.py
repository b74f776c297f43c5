"""Finds CuPy and the GPUs it can see, or says why not: the original cause and the command that fixes it.

Nothing here runs at import. `count()` is the first call that touches the driver.
"""

from __future__ import annotations

import ctypes
import importlib
import os
import sys
from typing import Any

from gpuprop.errors import DeviceError

DRIVER_LIBRARY = "libcuda.so.1"
_DRIVER_PAGE = "https://www.nvidia.com/drivers"
_imported: Any = None  # cupy, once it has been imported whole


class SetupError(DeviceError):
    """CUDA or a part of it cannot be used: the original `cause` and the `fix`, a command if there is one."""

    def __init__(self, cause: str, fix: str) -> None:
        super().__init__(f"{cause}. Fix: {fix}")
        self.cause, self.fix = cause, fix


# What the CUDA runtime calls an error -> the fix. Names are those of cudaError_t.
_FIXES = {
    "cudaErrorMemoryAllocation": "the GPU's memory is full: see `nvidia-smi` for the processes that hold it, "
    "or choose another GPU with --device auto",
    "cudaErrorInitializationError": "CUDA does not survive a fork: start worker processes with "
    'multiprocessing.get_context("spawn"), or call set_device in the child only',
    "cudaErrorDevicesUnavailable": "another process holds the GPU alone: see `nvidia-smi`; "
    "`sudo nvidia-smi -c DEFAULT` lets processes share it",
    "cudaErrorSystemNotReady": "start the fabric manager: `sudo systemctl start nvidia-fabricmanager`",
    "cudaErrorSystemDriverMismatch": "the driver was updated while it was loaded: reboot the machine",
    "cudaErrorUnknown": "load the driver again: `sudo modprobe nvidia_uvm`, or reboot the machine",
    "cudaErrorNoKernelImageForDevice": "CuPy has no code for this GPU: `pip install -U cupy-cuda13x` "
    "(compute capability 7.5 or newer), or `gpuprop[cuda12]` for an older GPU",
    "invalid value for --gpu-architecture": "this NVRTC does not know this GPU: a GPU older than compute "
    "capability 7.5 needs `gpuprop[cuda12]`, a newer one `pip install -U cupy-cuda13x[ctk]`",
    "UnsupportedPtxVersion": f"the driver is older than NVRTC: update it ({_DRIVER_PAGE})",
    "UNSUPPORTED_PTX_VERSION": f"the driver is older than NVRTC: update it ({_DRIVER_PAGE})",
    "Out of memory": "use a smaller batch, see `nvidia-smi` for other processes on this GPU, "
    'or choose the emptiest one with "auto"',
    "Permission denied": "CuPy cannot write its cache: `export CUPY_CACHE_DIR=/tmp/cupy`",
}


def driver_cuda_version() -> int | None:
    """Newest CUDA the installed driver supports, as 1000 * major + 10 * minor; None without a driver."""
    try:
        library = ctypes.CDLL(DRIVER_LIBRARY)
    except OSError:
        return None
    version = ctypes.c_int(0)
    return version.value if library.cuDriverGetVersion(ctypes.byref(version)) == 0 else None


def driver_load_error() -> str:
    """Why the driver's library does not load; empty when it does."""
    try:
        ctypes.CDLL(DRIVER_LIBRARY)
    except OSError as error:
        return str(error)
    return ""


def version_text(version: int) -> str:
    """13020 -> "13.2"."""
    return f"{version // 1000}.{version % 1000 // 10}"


def cupy_packages() -> dict[str, str]:
    """Installed packages that hold the module cupy, name -> version."""
    import importlib.metadata  # here, since it takes long to import

    found = {}
    for name in ("cupy", "cupy-cuda11x", "cupy-cuda12x", "cupy-cuda13x"):
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def install_fix() -> str:
    """The command that installs the CuPy that the driver can run."""
    driver = driver_cuda_version()
    if driver is None:
        return f'install the NVIDIA driver ({_DRIVER_PAGE}), then `pip install "gpuprop[cuda13]"`'
    if driver >= 13000:
        return 'pip install "gpuprop[cuda13]"'
    if driver >= 12000:
        return 'pip install "gpuprop[cuda12]"'
    return (
        f"the driver supports CUDA {version_text(driver)} and 12.0 is needed: update it ({_DRIVER_PAGE}), "
        'then `pip install "gpuprop[cuda13]"`'
    )


def duplicate_fix() -> str:
    """The command that leaves one CuPy where several packages overwrite each other."""
    return f"pip uninstall -y {' '.join(cupy_packages())}, then {install_fix()}"


def import_cupy() -> Any:
    """The module cupy; SetupError when it does not import."""
    global _imported
    if _imported is not None and sys.modules.get("cupy") is _imported:  # every product asks
        return _imported
    try:
        _imported = importlib.import_module("cupy")
        return _imported
    except Exception as error:  # a broken install raises many types, a duplicate one a warning turned error
        cause = " ".join(str(error).split())
        if isinstance(error, ModuleNotFoundError) and error.name == "cupy":
            raise SetupError(f"CuPy is not installed ({cause})", install_fix()) from error
        raise SetupError(f"CuPy does not import: {cause}", reinstall_fix()) from error


def count() -> int:
    """Number of GPUs CUDA can see, at least 1; SetupError when there is none."""
    require_driver()
    cupy = import_cupy()
    try:
        number = int(cupy.cuda.runtime.getDeviceCount())
    except Exception as error:
        raise explain(error) from error
    if number == 0:
        raise SetupError("CUDA sees no GPU", _invisible_fix())
    return number


def require_driver() -> int:
    """`driver_cuda_version()`; SetupError when there is no driver."""
    version = driver_cuda_version()
    if version is None:
        cause = driver_load_error() or "it reports no version"
        raise SetupError(f"no NVIDIA driver ({cause})", no_driver_fix())
    return version


def explain(error: BaseException, otherwise: str = "run `gpuprop doctor`") -> SetupError:
    """The SetupError for an error of CUDA or CuPy: its words, then the fix (`otherwise` if none is known)."""
    text = str(error)
    if "cudaErrorInsufficientDriver" in text:
        fix = _old_driver_fix()
    elif "cudaErrorNoDevice" in text or "cudaErrorInvalidDevice" in text:
        fix = _invisible_fix()
    else:
        fix = next((fix for name, fix in _FIXES.items() if name in text), otherwise)
    return SetupError(f"CUDA reports {text.rstrip('. ')}", fix)


def no_driver_fix() -> str:
    """How to get a driver: in a container from its host, otherwise by installing it."""
    if os.path.exists("/.dockerenv"):
        return "where the host has an NVIDIA GPU, start this container with `docker run --gpus all`"
    return f"install it ({_DRIVER_PAGE})" if cupy_packages() else install_fix()


def _old_driver_fix() -> str:
    driver = driver_cuda_version()
    if driver is None:
        return f"install the NVIDIA driver ({_DRIVER_PAGE})"
    packages = cupy_packages()
    names = " and ".join(packages) or "CuPy"
    if driver >= 12000:
        uninstall = f"pip uninstall -y {' '.join(packages) or 'cupy'}"
        return (
            f"the driver supports CUDA {version_text(driver)}, which is older than {names} needs: "
            f"`{uninstall}`, then `{install_fix()}`; or update the driver ({_DRIVER_PAGE})"
        )
    return install_fix()


def _invisible_fix() -> str:
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is not None:
        return f"CUDA_VISIBLE_DEVICES={visible!r} hides the GPUs: `unset CUDA_VISIBLE_DEVICES`"
    return "see whether `nvidia-smi` lists a GPU; a container needs `docker run --gpus all`"


def reinstall_fix() -> str:
    """The command that mends an installed CuPy that does not import."""
    packages = cupy_packages()
    if len(packages) > 1:
        return duplicate_fix()
    return f"pip install --force-reinstall {next(iter(packages), 'cupy-cuda13x')}"
