"""A stand-in for CuPy over NumPy memory: whole GPU programs run, and are captured, on a machine without one.

See fake_machine.py for what the device does, and fake_array.py for arrays.
"""

from __future__ import annotations

import contextlib
import types
from collections.abc import Iterator
from functools import partial
from typing import Any

import numpy as np
import real_cupy
from fake_array import asarray, host_of, ndarray, new, places_of, run
from fake_machine import (
    CaptureViolation,
    Device,
    Event,
    Graph,
    Machine,
    Stream,
    bytes_of,
    machine_now,
)
from fake_memory import Chunk, CudaError, MemoryPool, OutOfMemoryError, aligned

__all__ = ["CaptureViolation", "Chunk", "Event", "FakeCupy", "Graph", "Machine", "MemoryPool", "Stream",
           "asarray", "machine_now", "ndarray", "new", "run"]  # fmt: skip


class FakeCupy(types.ModuleType):
    """The module. What is not spelled out is NumPy's function of the same name, as one launch."""

    ndarray = ndarray
    __version__ = "14.2.0"

    def __init__(self) -> None:
        super().__init__("cupy")
        self.__file__ = __file__
        self.machine = Machine()
        self.lib = types.SimpleNamespace(stride_tricks=types.SimpleNamespace(as_strided=self._as_strided))
        runtime = types.SimpleNamespace(
            getDeviceCount=lambda: 1, getDevice=lambda: 0, CUDARuntimeError=CudaError,
            streamCaptureModeThreadLocal=1, memGetInfo=lambda: (1 << 30, 1 << 31),
            getDeviceProperties=lambda i: {"uuid": b"fake", "name": b"Fake", "major": 9, "minor": 0},
            deviceGetPCIBusId=lambda i: "0000:00:00.0", runtimeGetVersion=lambda: 13020,
        )  # fmt: skip
        self.cuda = types.SimpleNamespace(
            runtime=runtime, Device=Device, Stream=Stream, Graph=Graph, Event=Event,
            get_current_stream=lambda: self.machine.stream,
            MemoryPool=MemoryPool, using_allocator=self._using_allocator,
            get_elapsed_time=lambda start, stop: 1.0,
            alloc_pinned_memory=lambda size: self.machine.order.pin(aligned(size)),
            MemoryPointer=lambda chunk, offset: chunk, Memory=self.machine.raw,
            memory=types.SimpleNamespace(OutOfMemoryError=OutOfMemoryError),
            driver=types.SimpleNamespace(CUDADriverError=CudaError),
        )  # fmt: skip

    @contextlib.contextmanager
    def _using_allocator(self, allocator: Any) -> Iterator[None]:
        before, self.machine.state.allocator = self.machine.state.allocator, allocator
        try:
            yield
        finally:
            self.machine.state.allocator = before

    def get_default_memory_pool(self) -> MemoryPool:
        return self.machine.default_pool

    asarray = staticmethod(asarray)

    def array(self, obj: Any, dtype: Any = None, copy: bool = True, order: str = "K") -> ndarray:
        return obj.copy() if isinstance(obj, ndarray) else asarray(obj, dtype)

    def ascontiguousarray(self, a: Any, dtype: Any = None) -> ndarray:
        a = asarray(a, dtype)
        a = a.reshape(1) if a.ndim == 0 else a  # as NumPy
        return a if a.flags.c_contiguous else a.copy()

    def empty(self, shape: Any, dtype: Any = float, order: str = "C") -> ndarray:
        return new(shape, dtype, order)

    def empty_like(self, prototype: ndarray, dtype: Any = None) -> ndarray:
        return new(prototype.shape, dtype or prototype.dtype)

    def full(self, shape: Any, fill_value: Any, dtype: Any = None) -> ndarray:
        if dtype is None:
            dtype = fill_value.dtype if isinstance(fill_value, ndarray) else np.asarray(fill_value).dtype
        y = new(shape, dtype)
        y.fill(fill_value)
        return y

    def full_like(self, a: ndarray, fill_value: Any, dtype: Any = None) -> ndarray:
        return self.full(a.shape, fill_value, dtype or a.dtype)

    def zeros(self, shape: Any, dtype: Any = float) -> ndarray:
        return self.full(shape, 0, dtype)

    def ones(self, shape: Any, dtype: Any = float) -> ndarray:
        return self.full(shape, 1, dtype)

    def zeros_like(self, a: ndarray, dtype: Any = None) -> ndarray:
        return self.full_like(a, 0, dtype)

    def ones_like(self, a: ndarray, dtype: Any = None) -> ndarray:
        return self.full_like(a, 1, dtype)

    def _as_strided(self, a: ndarray, shape: Any, strides: Any) -> ndarray:
        return a.view_of(np.lib.stride_tricks.as_strided(a.host, shape, strides))

    def broadcast_to(self, array: ndarray, shape: Any) -> ndarray:
        return array.view_of(np.broadcast_to(array.host, shape))

    def split(self, ary: ndarray, indices_or_sections: Any, axis: int = 0) -> list[ndarray]:
        return [ary.view_of(part) for part in np.split(ary.host, indices_or_sections, axis)]

    def copyto(self, dst: ndarray, src: Any, casting: Any = "same_kind", where: Any = None) -> None:
        to, value = dst.host, host_of(src, "copyto")
        at = True if where is None else host_of(where, "copyto")
        moved = bytes_of(to, value, at)
        work = lambda: np.copyto(to, value, where=at, casting=casting)  # noqa: E731
        self.machine.launch("copyto", work, moved, places=places_of(dst, src, where))

    def einsum(self, *_: Any, **__: Any) -> Any:
        raise AssertionError("einsum of CuPy arrays goes around gpuprop.backend.gemm")

    dot = matmul = tensordot = vdot = inner = einsum

    def __getattr__(self, name: str) -> Any:
        function = getattr(np, name, None)
        if function is None or name.startswith("__"):
            raise AttributeError(name)
        if not callable(function) or isinstance(function, type):
            return function
        real_cupy.signature(name)

        def call(*args: Any, out: Any = None, **how: Any) -> Any:
            real_cupy.check(name, args, how if out is None else {**how, "out": out})
            if isinstance(function, np.ufunc) and len(args) > function.nin:
                *args, out = args  # type: ignore[assignment]
            if name in ("flatnonzero", "nonzero", "unique", "argwhere"):  # the host waits for the length
                self.machine.wait(name)
                found = function(*(host_of(x, name) for x in args), **how)
                if isinstance(found, tuple):
                    return tuple(run(name, partial(np.asarray, x)) for x in found)
                return run(name, lambda: found)
            if name in ("concatenate", "stack"):
                return run(name, lambda *a, **k: function(a, **k), *args[0], out=out, **how)
            dtype = how.pop("dtype", None) if isinstance(function, np.ufunc) else None
            if dtype is not None:
                return run(name, lambda *a, **k: function(*a, dtype=dtype, **k), *args, out=out, **how)
            if isinstance(function, np.ufunc) and out is not None:  # computed in the type of out's inputs
                return run(name, lambda *a, **k: function(*a, **k), *args, out=out, **how)
            return run(name, function, *args, out=out, **how)

        return call
