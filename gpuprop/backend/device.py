"""Where arrays are made: "cpu", "cuda:N" or "emulated" (kernels run on the CPU by a checker).

`set_device` is process-wide, so it survives threads and notebook cells; `use_device` is a context over it.
The default is GPUPROP_DEVICE, read at first use, else the CPU. CuPy is imported when a GPU is first asked
for. While a GPU is the current device, CuPy's current device follows it, in every thread that asks.
"""

from __future__ import annotations

import contextlib
import importlib
import os
import re
import threading
from collections.abc import Iterator
from contextvars import ContextVar
from dataclasses import dataclass

from gpuprop.backend import cuda_setup, nvml
from gpuprop.errors import DeviceError

_FORMS = '"auto", "cpu", "cuda", "cuda:N" (N = 0, 1, ...) or "emulated"'


@dataclass(frozen=True)
class Device:
    """A place for arrays. `type` is "cpu", "cuda" or "emulated"; `index` counts GPUs as CUDA does."""

    type: str
    index: int = 0

    def __str__(self) -> str:
        return f"cuda:{self.index}" if self.type == "cuda" else self.type


class _Followed(threading.local):
    """The GPU this thread's CuPy was last pointed at by us."""

    device: Device | None = None


_default: Device | None = None
_override: ContextVar[Device | None] = ContextVar("gpuprop_device", default=None)
_followed = _Followed()
_said_cpu = False
_lock = threading.RLock()


def set_device(name: str | Device) -> Device:
    """Make `name` the device of the whole process and return it; DeviceError when it cannot be had."""
    global _default
    device = resolve(name)
    if device.type == "cuda":
        _follow(device)
    _default = device
    get_device()  # inside a use_device, CuPy goes back to that one
    return device


def get_device() -> Device:
    """The current device: the innermost `use_device`, `set_device`, GPUPROP_DEVICE, or else the CPU."""
    device = _override.get() or _default or _from_environment()
    if device.type == "cuda" and _followed.device != device:
        _follow(device)
    return device


@contextlib.contextmanager
def use_device(name: str | Device) -> Iterator[Device]:
    """Make `name` the current device inside the `with` block, for this thread or task only."""
    device = resolve(name)
    before = _cupy_device() if device.type == "cuda" else None
    followed = _followed.device
    token = _override.set(device)
    try:
        get_device()
        yield device
    finally:
        _override.reset(token)
        if before is not None:
            cuda_setup.import_cupy().cuda.Device(before).use()
            _followed.device = followed
            if _override.get() or _default:
                get_device()  # a set_device inside the block holds from here on


def resolve(name: str | Device) -> Device:
    """The usable device called `name`; "auto" is the GPU with most free memory, else the CPU.

    Raises DeviceError with the original cause and the fix when there is no such device.
    """
    if isinstance(name, Device):
        name = str(name)
    if not isinstance(name, str):
        raise DeviceError(f"a device is {_FORMS}, not {name!r}")
    if name == "auto":
        return _auto()
    if name == "cpu":
        return Device("cpu")
    if name == "emulated":
        return _emulated()
    match = re.fullmatch(r"cuda(?::(\d{1,4}))?", name)
    if match is None:
        raise DeviceError(f"unknown device {name!r}: use {_FORMS}")
    return _cuda(name, int(match[1] or 0))


def available_devices() -> list[Device]:
    """Every device that can be used here: the CPU, each GPU, and "emulated" where a compiler is found."""
    devices = [Device("cpu")]
    with contextlib.suppress(DeviceError):  # `gpuprop doctor` says why
        devices += [Device("cuda", index) for index in range(cuda_setup.count())]
    return devices if emulated_reason() else [*devices, Device("emulated")]


def emulated_reason() -> str | None:
    """Why the emulated device cannot be used; None when it can."""
    try:
        available = importlib.import_module("gpuprop.backend.emulator").available
    except (ImportError, AttributeError) as error:
        return f"its files do not import: {error}"
    reason: str | None = available()
    return reason


def match_gpu(index: int, gpus: list[nvml.GpuInfo]) -> nvml.GpuInfo | None:
    """NVML's record of CUDA device `index`: by UUID, else by PCI bus, as the two count GPUs differently."""
    runtime = cuda_setup.import_cupy().cuda.runtime
    # CuPy reads the 16 bytes as a C string: a zero byte cuts it short, and what follows it may be noise.
    wanted = bytes(runtime.getDeviceProperties(index).get("uuid", b""))[:16].split(b"\0")[0]
    same = [gpu for gpu in gpus if wanted in (_c_string(gpu.uuid), _c_string(gpu.parent_uuid))]
    if wanted and len(same) == 1:
        return same[0]
    bus = nvml.bus_key(runtime.deviceGetPCIBusId(index))
    return next((gpu for gpu in gpus if gpu.pci_bus_id and nvml.bus_key(gpu.pci_bus_id) == bus), None)


def _c_string(uuid: str | None) -> bytes:
    return nvml.uuid_bytes(uuid).split(b"\0")[0]


def _from_environment() -> Device:
    global _default
    with _lock:
        if _default is None:
            name = os.environ.get("GPUPROP_DEVICE", "").strip() or "cpu"
            try:
                _default = resolve(name)
            except DeviceError as error:
                raise DeviceError(f"GPUPROP_DEVICE={name!r}: {error}") from error
        return _default


def _cuda(name: str, index: int) -> Device:
    try:
        number = cuda_setup.count()
    except DeviceError as error:
        raise DeviceError(f"device {name!r} cannot be used: {error}") from error.__cause__
    if index >= number:
        visible = os.environ.get("CUDA_VISIBLE_DEVICES")
        why = "" if visible is None else f"; CUDA_VISIBLE_DEVICES={visible!r} may hide others"
        seen = "only cuda:0 is there" if number == 1 else f"cuda:0 to cuda:{number - 1} are there"
        raise DeviceError(f"device {name!r} does not exist: {seen}{why}. `gpuprop devices` lists them")
    return Device("cuda", index)


def _auto() -> Device:
    try:
        number = cuda_setup.count()
    except DeviceError as error:
        _say_cpu(error)
        return Device("cpu")
    return Device("cuda", _most_free(number))


def _most_free(number: int) -> int:
    """The CUDA index with most free memory. Without NVML the first: asking CUDA would open every GPU."""
    gpus, _ = nvml.gpus() if number > 1 else ([], "")
    free = {}
    for index in range(number if gpus else 0):
        gpu = match_gpu(index, gpus)
        free[index] = -1 if gpu is None or gpu.memory_free is None else gpu.memory_free
    return max(free, key=lambda index: free[index], default=0)


def _say_cpu(error: DeviceError) -> None:
    global _said_cpu
    with _lock:
        if not _said_cpu:
            _said_cpu = True
            import logging  # here, since it takes long to import

            # Where logging is not configured, it prints the bare text of a warning on stderr.
            logging.getLogger("gpuprop").warning("gpuprop: using the CPU: %s", " ".join(str(error).split()))


def _emulated() -> Device:
    reason = emulated_reason()
    if reason:
        raise DeviceError(f"device 'emulated' cannot be used: {reason}")
    return Device("emulated")


def _cupy_device() -> int:
    return int(cuda_setup.import_cupy().cuda.runtime.getDevice())


def _follow(device: Device) -> None:
    try:
        cuda_setup.import_cupy().cuda.Device(device.index).use()
    except DeviceError:
        raise
    except Exception as error:
        raise cuda_setup.explain(error) from error
    _followed.device = device
