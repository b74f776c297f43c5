"""Stand-ins for pynvml and cupy: a machine without a GPU tests what is said and chosen on one with many."""

from __future__ import annotations

import sys
import threading
import types
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest

from gpuprop.backend import cuda_setup, device

GIB = 2**30


class FakeNvmlError(Exception):
    pass


class FakeCudaError(RuntimeError):
    pass


@dataclass
class Board:
    """A GPU as the fakes show it; `answers` holds what NVML supports, all else raises "Not Supported"."""

    uuid: str
    bus: str
    answers: dict[str, Any] = field(default_factory=dict)
    instances: list[Board] = field(default_factory=list)
    lost: str = ""
    cuda_uuid: bytes | None = None

    def uuid_for_cuda(self) -> bytes:
        if self.cuda_uuid is not None:
            return self.cuda_uuid
        return bytes.fromhex(self.uuid.split("-", 1)[1].replace("-", ""))


def board(number: int, free: int = 10, **more: Any) -> Board:
    """Board `number` with `free` GiB of 80 free."""
    uuid = f"GPU-{number + 0xA1:02x}a1b2c3-1111-2222-3333-4444555566{number + 0xA1:02x}"
    memory = types.SimpleNamespace(free=free * GIB, total=80 * GIB, used=(80 - free) * GIB)
    return Board(uuid, f"00000000:{0x1B + number:02X}:00.0", {"nvmlDeviceGetMemoryInfo": memory} | more)


class FakeNvml(types.ModuleType):
    """The module pynvml over a list of boards. `opened` counts nvmlInit minus nvmlShutdown."""

    NVMLError = FakeNvmlError

    def __init__(self, boards: list[Board], init_error: str = "") -> None:
        super().__init__("pynvml")
        self.boards, self.init_error, self.opened, self.calls = boards, init_error, 0, 0

    def nvmlInit(self) -> None:
        if self.init_error:
            raise FakeNvmlError(self.init_error)
        self.opened += 1

    def nvmlShutdown(self) -> None:
        self.opened -= 1

    def nvmlDeviceGetCount(self) -> int:
        return len(self.boards)

    def nvmlDeviceGetHandleByIndex(self, index: int) -> Board:
        if self.boards[index].lost:
            raise FakeNvmlError(self.boards[index].lost)
        return self.boards[index]

    def nvmlDeviceGetHandleByUUID(self, uuid: str) -> Board:
        every = [b for one in self.boards for b in (one, *one.instances)]
        return next(b for b in every if b.uuid == uuid)

    def nvmlDeviceGetUUID(self, handle: Board) -> str:
        return handle.uuid

    def nvmlDeviceGetPciInfo(self, handle: Board) -> Any:
        return types.SimpleNamespace(busId=handle.bus.encode())

    def nvmlDeviceGetMigMode(self, handle: Board) -> list[int]:
        if not handle.instances:
            raise FakeNvmlError("Not Supported")
        return [1, 1]

    def nvmlDeviceGetMaxMigDeviceCount(self, handle: Board) -> int:
        return 7

    def nvmlDeviceGetMigDeviceHandleByIndex(self, handle: Board, slot: int) -> Board:
        if slot >= len(handle.instances):
            raise FakeNvmlError("Not Found")
        return handle.instances[slot]

    def __getattr__(self, name: str) -> Callable[..., Any]:
        if not name.startswith("nvml"):
            raise AttributeError(name)

        def ask(handle: Any = None, *_: Any) -> Any:
            self.calls += 1
            if not isinstance(handle, Board) or name not in handle.answers:
                raise FakeNvmlError("Not Supported")
            return handle.answers[name]

        return ask


class FakeArray:
    """A CuPy array: data on a device, and none of NumPy's methods that would bring it to the host unasked."""

    def __init__(self, host: np.ndarray[Any, Any], index: int) -> None:
        self.host, self.device = host, types.SimpleNamespace(id=index)
        self.shape, self.dtype, self.ndim = host.shape, host.dtype, host.ndim
        self.strides, self.flags = host.strides, host.flags

    def transpose(self, axes: list[int]) -> FakeArray:
        return FakeArray(self.host.transpose(axes), self.device.id)

    def copy(self) -> FakeArray:
        return FakeArray(self.host.copy(order="C"), sys.modules["cupy"].cuda.runtime.getDevice())

    def get(self) -> np.ndarray[Any, Any]:
        return self.host.copy(order="C")


class FakeCupy(types.ModuleType):
    """The module cupy over the boards CUDA sees. Its current device is per thread, as CuPy's is."""

    def __init__(self, boards: list[Board], count_error: str = "") -> None:
        super().__init__("cupy")
        thread = threading.local()

        def get_count() -> int:
            if count_error:
                raise FakeCudaError(count_error)
            return len(boards)

        class Device:
            def __init__(self, index: int) -> None:
                self.id = index

            def use(self) -> None:
                thread.current = self.id

            def __enter__(self) -> None:
                self.before = getattr(thread, "current", 0)
                self.use()

            def __exit__(self, *_: object) -> None:
                thread.current = self.before

        self.__version__ = "14.2.0"
        self.ndarray = FakeArray
        self.runtime = types.SimpleNamespace(
            getDeviceCount=get_count,
            getDevice=lambda: getattr(thread, "current", 0),
            getDeviceProperties=lambda i: {
                "uuid": boards[i].uuid_for_cuda(),
                "name": b"Fake",
                "totalGlobalMem": 80 * GIB,
                "major": 9,
                "minor": 0,
            },
            deviceGetPCIBusId=lambda i: boards[i].bus[4:].lower(),
            runtimeGetVersion=lambda: 13020,
            CUDARuntimeError=FakeCudaError,
        )
        memory = types.SimpleNamespace(OutOfMemoryError=type("OutOfMemoryError", (MemoryError,), {}))
        self.cuda = types.SimpleNamespace(runtime=self.runtime, Device=Device, memory=memory)

    def asarray(self, a: Any) -> FakeArray:
        a = np.asarray(getattr(a, "host", a))
        order = "F" if a.flags.f_contiguous and not a.flags.c_contiguous else "C"
        return FakeArray(np.array(a, order=order), self.runtime.getDevice())


@pytest.fixture
def fresh_device(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """No device chosen yet, whatever the process or its environment chose."""
    monkeypatch.delenv("GPUPROP_DEVICE", raising=False)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.setattr(device, "_default", None)
    monkeypatch.setattr(device, "_said_cpu", False)
    monkeypatch.setattr(device, "_followed", device._Followed())
    token = device._override.set(None)
    yield
    device._override.reset(token)


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch, fresh_device: None) -> Callable[..., Any]:
    """machine(boards, visible=[...]): a machine with these boards, those visible in CUDA's order."""

    def build(
        boards: list[Board] = (),  # type: ignore[assignment]
        visible: list[int] | None = None,
        driver: int | None = 13000,
        count_error: str = "",
        nvml_error: str = "",
    ) -> Any:
        seen = list(boards) if visible is None else [boards[i] for i in visible]
        cupy, pynvml = FakeCupy(seen, count_error), FakeNvml(list(boards), nvml_error)
        monkeypatch.setitem(sys.modules, "cupy", cupy)
        monkeypatch.setitem(sys.modules, "pynvml", pynvml)
        monkeypatch.setattr(cuda_setup, "driver_cuda_version", lambda: driver)
        monkeypatch.setattr(device, "emulated_reason", lambda: "no compiler on this fake")
        monkeypatch.setattr(cuda_setup, "driver_load_error", lambda: "libcuda.so.1: cannot open")
        return types.SimpleNamespace(cupy=cupy, pynvml=pynvml)

    build.board = board  # type: ignore[attr-defined]
    build.Board = Board  # type: ignore[attr-defined]
    return build
