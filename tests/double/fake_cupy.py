"""A stand-in for CuPy over NumPy memory: whole GPU programs run, and are captured, on a machine without one.

Every operation is a launch, with a name, that is done at once, or while a stream is captured only written
down, for `Graph.launch` to do. What a launch reads and writes is fixed when it is made, as on a GPU. Waiting
for the device, copies from the host and memory from another pool than the capture's own are refused while
capturing. Memory that is given back to a pool is given out again, so that what is used after its time shows.
"""

from __future__ import annotations

import contextlib
import sys
import threading
import types
import weakref
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

# Operations that CuPy composes of several kernels; all others count one.
LAUNCHES = {"pad": 2, "argsort": 3, "flatnonzero": 4, "cumsum": 2, "tri": 2, "stack": 1}


class CaptureViolation(RuntimeError):
    """What CUDA would refuse, or silently do wrong, while a stream is captured."""


class State(threading.local):
    stream: Any = None
    allocator: Any = None


class Machine:
    """The device: launches by name, waits, allocations, and what is being captured."""

    def __init__(self) -> None:
        self.state = State()
        self.launches: list[str] = []
        self.waits: list[str] = []
        self.reads: list[str] = []  # host to device
        self.capture: list[tuple[str, Callable[[], None]]] | None = None
        self.capture_pool: Any = None
        self.default_pool = MemoryPool(self)

    def launch(self, name: str, work: Callable[[], None]) -> None:
        self.launches += [name] * LAUNCHES.get(name, 1)
        if self.capture is not None:
            self.capture.append((name, work))
        else:
            work()

    def wait(self, what: str) -> None:
        if self.capture is not None:
            raise CaptureViolation(f"cudaErrorStreamCaptureUnsupported: {what} waits for the device")
        self.waits.append(what)

    def upload(self, what: str) -> None:
        if self.capture is not None:
            raise CaptureViolation(f"{what} copies from the host, whose memory will be another at a replay")
        self.reads.append(what)

    def allocate(self, size: int) -> Chunk:
        allocator = self.state.allocator or self.default_pool.malloc
        pool = getattr(allocator, "__self__", None)
        if self.capture is not None and pool is not self.capture_pool:
            raise CaptureViolation(f"{size} bytes are allocated outside the pool of the capture")
        return allocator(size)


class Chunk:
    """Memory of a pool, in use as long as this lives."""

    def __init__(self, pool: MemoryPool | None, memory: np.ndarray) -> None:
        self.memory = memory
        self.ptr = memory.ctypes.data
        self.size = memory.nbytes
        if pool is not None:
            weakref.finalize(self, pool.take_back, memory)


class MemoryPool:
    """Memory that is handed out again. `blocks` is what it ever took from the machine."""

    def __init__(self, machine: Machine | None = None) -> None:
        self.machine = machine or sys.modules["cupy"].machine
        self.free: list[np.ndarray] = []
        self.blocks = 0

    def malloc(self, size: int) -> Chunk:
        wanted = max(1, -(-size // 512)) * 512
        for i, memory in enumerate(self.free):
            if memory.nbytes == wanted:
                return Chunk(self, self.free.pop(i))
        self.blocks += 1
        return Chunk(self, aligned(wanted))

    def take_back(self, memory: np.ndarray) -> None:
        self.free.append(memory)

    def used_bytes(self) -> int:
        return 0

    def total_bytes(self) -> int:
        return 0

    def free_all_blocks(self) -> None:
        self.free.clear()


def aligned(size: int) -> np.ndarray:
    """`size` bytes at an address that 512 divides, full of NaN."""
    raw = np.empty(size + 512, np.uint8)
    start = -raw.ctypes.data % 512
    memory = raw[start : start + size]
    memory[...] = 255
    return memory


def machine_now() -> Machine:
    return sys.modules["cupy"].machine


def host_of(x: Any, what: str) -> Any:
    """The memory of one of our arrays; numbers as they are. CuPy refuses NumPy arrays."""
    if isinstance(x, ndarray):
        return x.host
    if isinstance(x, np.ndarray):
        raise TypeError(f"Unsupported type {type(x)} for {what}")
    if isinstance(x, (tuple, list)):
        return type(x)(host_of(y, what) for y in x)
    return x


def ones_like_meta(x: Any) -> Any:
    """What stands for an array while only the result's shape and type are asked for."""
    if isinstance(x, np.ndarray):
        return np.broadcast_to(np.ones((), x.dtype), x.shape)
    if isinstance(x, (tuple, list)):
        return type(x)(ones_like_meta(y) for y in x)
    return x


def run(name: str, function: Callable[..., Any], *args: Any, out: ndarray | None = None, **how: Any) -> Any:
    """function(*args) as one launch into new memory, or into `out`."""
    hosts = [host_of(x, name) for x in args]
    how = {key: host_of(x, name) for key, x in how.items()}
    with np.errstate(all="ignore"):
        like = np.asarray(
            function(*(ones_like_meta(x) for x in hosts), **{k: ones_like_meta(v) for k, v in how.items()})
        )
    y = new(like.shape, like.dtype) if out is None else out
    target = y.host
    if out is not None and np.broadcast_shapes(target.shape, like.shape) != target.shape:
        raise ValueError(f"{name}: {like.shape} does not fit into out {target.shape}")

    def work() -> None:
        with np.errstate(all="ignore"):
            target[...] = function(*hosts, **how)

    machine_now().launch(name, work)
    return y


def new(shape: Any, dtype: Any, order: str = "C") -> ndarray:
    shape = (shape,) if isinstance(shape, (int, np.integer)) else tuple(int(n) for n in shape)
    dtype = np.dtype(dtype)
    size = int(np.prod(shape, dtype=np.int64)) * dtype.itemsize
    chunk = machine_now().allocate(size)
    host = chunk.memory[:size].view(dtype).reshape(shape, order="F" if order == "F" else "C")
    return ndarray(host, chunk)


class Data:
    """`array.data`: where it lies."""

    def __init__(self, array: ndarray) -> None:
        self.ptr = array.host.ctypes.data if array.host.size else array.chunk.ptr
        self.mem = array.chunk


class ndarray:
    """cupy.ndarray, as far as gpuprop uses it. `host` is its memory, `chunk` what keeps that in use."""

    __array_priority__ = 100

    def __init__(self, host: np.ndarray, chunk: Chunk) -> None:
        self.host, self.chunk = host, chunk
        self.device = types.SimpleNamespace(id=0)

    shape = property(lambda self: self.host.shape)
    dtype = property(lambda self: self.host.dtype)
    ndim = property(lambda self: self.host.ndim)
    size = property(lambda self: self.host.size)
    nbytes = property(lambda self: self.host.nbytes)
    itemsize = property(lambda self: self.host.itemsize)
    strides = property(lambda self: self.host.strides)
    flags = property(lambda self: self.host.flags)
    data = property(lambda self: Data(self))
    T = property(lambda self: self.view_of(self.host.T))

    def view_of(self, host: np.ndarray) -> ndarray:
        return ndarray(host, self.chunk)

    # What the host reads
    def get(self, *_: Any, **__: Any) -> np.ndarray:
        machine_now().wait("get()")
        return self.host.copy()

    def item(self, *args: Any) -> Any:
        machine_now().wait("item()")
        return self.host.item(*args)

    def tolist(self) -> Any:
        machine_now().wait("tolist()")
        return self.host.tolist()

    def __bool__(self) -> bool:
        machine_now().wait("the truth of an array")
        return bool(self.host)

    def __float__(self) -> float:
        machine_now().wait("float()")
        return float(self.host)

    def __int__(self) -> int:
        machine_now().wait("int()")
        return int(self.host)

    __index__ = __int__

    def __array__(self, *_: Any, **__: Any) -> np.ndarray:
        raise TypeError("Implicit conversion to a NumPy array is not allowed. Please use `.get()`")

    def set(self, values: np.ndarray, stream: Any = None) -> None:
        machine_now().upload("set()")
        if values.shape != self.shape or values.dtype != self.dtype:
            raise ValueError(f"set() of {values.dtype} {values.shape} into {self.dtype} {self.shape}")
        self.host[...] = values

    def __len__(self) -> int:
        return len(self.host)

    def __iter__(self) -> Iterator[ndarray]:
        return iter([self[i] for i in range(len(self))])

    # Views
    def reshape(self, *shape: Any, order: str = "C") -> ndarray:
        shape = shape[0] if len(shape) == 1 and isinstance(shape[0], (tuple, list)) else shape
        view = self.host.reshape(shape)
        if np.may_share_memory(view, self.host) or not self.host.size:
            return self.view_of(view)
        return run("copy", lambda x: x.reshape(shape), self)

    def transpose(self, *axes: Any) -> ndarray:
        return self.view_of(self.host.transpose(*axes))

    def swapaxes(self, a: int, b: int) -> ndarray:
        return self.view_of(self.host.swapaxes(a, b))

    def view(self, dtype: Any) -> ndarray:
        return self.view_of(self.host.view(dtype))

    def ravel(self) -> ndarray:
        return self.reshape(-1)

    def squeeze(self, axis: Any = None) -> ndarray:
        return self.view_of(self.host.squeeze(axis))

    def __getitem__(self, key: Any) -> ndarray:
        if _is_basic(key):
            found = self.host[key]
            return self.view_of(found if isinstance(found, np.ndarray) else self.host[key, ...])
        _no_mask(key)
        return run("take", lambda x, k: x[k], self, key)

    def __setitem__(self, key: Any, value: Any) -> None:
        if isinstance(value, np.ndarray) and value.ndim:
            machine_now().upload("assignment from NumPy")
            value = asarray(value)
        target = self.host
        where, what = host_of(key, "setitem"), host_of(value, "setitem")

        def work() -> None:
            with np.errstate(all="ignore"):
                target[where] = what

        machine_now().launch("copy", work)

    # New arrays
    def copy(self, order: str = "C") -> ndarray:
        return run("copy", np.array, self)

    def astype(self, dtype: Any, copy: bool = True, order: str = "K") -> ndarray:
        if not copy and self.dtype == np.dtype(dtype):
            return self
        return run("astype", lambda x: x.astype(dtype), self)

    def fill(self, value: Any) -> None:
        target, value = self.host, host_of(value, "fill")
        machine_now().launch("fill", lambda: target.fill(value))


def _is_basic(key: Any) -> bool:
    parts = key if isinstance(key, tuple) else (key,)
    return not any(isinstance(p, (ndarray, list, np.ndarray)) for p in parts)


def _no_mask(key: Any) -> None:
    """An index of bools gives an array whose length the host has to wait for."""
    for part in key if isinstance(key, tuple) else (key,):
        if isinstance(part, ndarray) and part.dtype == bool:
            machine_now().wait("an index of bools")


def _binary(name: str, ufunc: Any) -> tuple[Any, Any, Any]:
    def forward(self: ndarray, other: Any) -> Any:
        return run(name, ufunc, self, other)

    def reflected(self: ndarray, other: Any) -> Any:
        if isinstance(other, np.ndarray):
            raise TypeError(f"Unsupported type {type(other)}")
        return run(name, ufunc, other, self)

    def in_place(self: ndarray, other: Any) -> Any:
        return run(name, lambda a, b: ufunc(a, b).astype(a.dtype, copy=False), self, other, out=self)

    return forward, reflected, in_place


for _name, _ufunc in {
    "add": np.add, "sub": np.subtract, "mul": np.multiply, "truediv": np.true_divide, "pow": np.power,
    "floordiv": np.floor_divide, "mod": np.remainder, "and": np.bitwise_and, "or": np.bitwise_or,
    "xor": np.bitwise_xor,
}.items():  # fmt: skip
    _methods = _binary(_name, _ufunc)
    for _prefix, _method in zip(("", "r", "i"), _methods, strict=True):
        setattr(ndarray, f"__{_prefix}{_name}__", _method)
for _name, _ufunc in {
    "lt": np.less, "le": np.less_equal, "gt": np.greater, "ge": np.greater_equal, "eq": np.equal,
    "ne": np.not_equal,
}.items():  # fmt: skip
    setattr(ndarray, f"__{_name}__", _binary(_name, _ufunc)[0])
for _name, _ufunc in {"neg": np.negative, "invert": np.invert, "abs": np.abs}.items():
    setattr(ndarray, f"__{_name}__", lambda self, n=_name, u=_ufunc: run(n, u, self))
for _name in ("sum", "mean", "max", "min", "argmax", "any", "all", "clip", "cumsum", "prod"):

    def _method_of(self: ndarray, *args: Any, _name: str = _name, **how: Any) -> Any:
        return getattr(sys.modules["cupy"], _name)(self, *args, **how)

    setattr(ndarray, _name, _method_of)
for _name in ("dot", "__matmul__", "__rmatmul__", "__imatmul__"):

    def _refused(self: ndarray, *args: Any, _name: str = _name, **how: Any) -> Any:
        raise AssertionError(f"{_name} of a CuPy array goes around gpuprop.backend.gemm")

    setattr(ndarray, _name, _refused)
ndarray.__hash__ = object.__hash__  # type: ignore[method-assign]


def asarray(a: Any, dtype: Any = None, order: str = "C") -> ndarray:
    if isinstance(a, ndarray):
        return a if dtype is None else a.astype(dtype, copy=False)
    if isinstance(a, (tuple, list)) and any(isinstance(x, ndarray) for x in a):
        return stack_of(a)
    host = np.asarray(a, dtype=dtype)
    if host.ndim:
        machine_now().upload("asarray")
    elif machine_now().capture is not None and isinstance(a, np.ndarray):
        machine_now().upload("asarray of a number")
    y = new(host.shape, host.dtype)
    if host.ndim:
        y.host[...] = host
    else:
        y.fill(host[()])
    return y


def stack_of(arrays: Any) -> ndarray:
    return run("stack", lambda *a: np.stack(a), *arrays)


class Stream:
    """A stream. `capture` is of this thread's launches, whichever stream is current."""

    null: Any = None

    def __init__(self, null: bool = False, non_blocking: bool = False) -> None:
        self.is_null = null
        self.ptr = 0 if null else id(self)
        self._before: list[Any] = []

    def __enter__(self) -> Stream:
        self._before.append(machine_now().state.stream)
        machine_now().state.stream = self
        return self

    def __exit__(self, *_: object) -> None:
        machine_now().state.stream = self._before.pop()

    def use(self) -> Stream:
        machine_now().state.stream = self
        return self

    def begin_capture(self, mode: Any = None) -> None:
        if self.is_null:
            raise RuntimeError("cannot capture on the default (legacy) stream")
        machine = machine_now()
        machine.capture = []
        machine.capture_pool = getattr(machine.state.allocator, "__self__", None)

    def end_capture(self) -> Graph:
        machine = machine_now()
        nodes, machine.capture, machine.capture_pool = machine.capture, None, None
        assert nodes is not None, "no capture has begun"
        return Graph(machine, nodes)

    def is_capturing(self) -> bool:
        return machine_now().capture is not None

    def synchronize(self) -> None:
        machine_now().wait("synchronize()")

    def wait_event(self, event: Any) -> None:
        pass

    def record(self, event: Any = None) -> Any:
        return event or Event()


class Event:
    def __init__(self, **_: Any) -> None:
        pass

    def record(self, stream: Any = None) -> None:
        pass

    def synchronize(self) -> None:
        pass


class Graph:
    """What was captured. `names` are the launches."""

    def __init__(self, machine: Machine, nodes: list[tuple[str, Callable[[], None]]]) -> None:
        self.machine, self.nodes = machine, nodes

    @property
    def names(self) -> list[str]:
        return [name for name, _ in self.nodes for _ in range(LAUNCHES.get(name, 1))]

    def launch(self, stream: Any = None) -> None:
        self.machine.launches.append("graph")
        for _, work in self.nodes:
            work()

    def upload(self, stream: Any = None) -> None:
        pass


class Device:
    def __init__(self, index: int = 0) -> None:
        self.id = index

    def use(self) -> None:
        pass

    def __enter__(self) -> Device:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def synchronize(self) -> None:
        machine_now().wait("Device.synchronize()")


class CudaError(RuntimeError):
    pass


class FakeCupy(types.ModuleType):
    """The module. What is not spelled out is NumPy's function of the same name, as one launch."""

    ndarray = ndarray
    __version__ = "14.2.0"

    def __init__(self) -> None:
        super().__init__("cupy")
        self.__file__ = __file__
        self.machine = Machine()
        null = Stream(null=True)
        self.machine.state.stream = null
        runtime = types.SimpleNamespace(
            getDeviceCount=lambda: 1, getDevice=lambda: 0, CUDARuntimeError=CudaError,
            streamCaptureModeThreadLocal=1, memGetInfo=lambda: (1 << 30, 1 << 31),
            getDeviceProperties=lambda i: {"uuid": b"fake", "name": b"Fake", "major": 9, "minor": 0},
            deviceGetPCIBusId=lambda i: "0000:00:00.0", runtimeGetVersion=lambda: 13020,
        )  # fmt: skip
        self.cuda = types.SimpleNamespace(
            runtime=runtime, Device=Device, Stream=Stream, Graph=Graph, Event=Event,
            get_current_stream=lambda: self.machine.state.stream or null,
            MemoryPool=lambda: MemoryPool(self.machine), using_allocator=self._using_allocator,
            get_elapsed_time=lambda start, stop: 1.0,
            alloc_pinned_memory=lambda size: aligned(size),
            MemoryPointer=lambda chunk, offset: chunk, Memory=lambda size: Chunk(None, aligned(size)),
            memory=types.SimpleNamespace(OutOfMemoryError=type("OutOfMemoryError", (MemoryError,), {})),
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

    def array(self, a: Any, dtype: Any = None, order: str = "K") -> ndarray:
        return a.copy() if isinstance(a, ndarray) else asarray(a, dtype)

    def ascontiguousarray(self, a: Any, dtype: Any = None) -> ndarray:
        a = asarray(a, dtype)
        return a if a.flags.c_contiguous else a.copy()

    def empty(self, shape: Any, dtype: Any = float, order: str = "C") -> ndarray:
        return new(shape, dtype, order)

    def empty_like(self, a: ndarray, dtype: Any = None) -> ndarray:
        return new(a.shape, dtype or a.dtype)

    def full(self, shape: Any, value: Any, dtype: Any = None) -> ndarray:
        dtype = (
            (value.dtype if isinstance(value, ndarray) else np.asarray(value).dtype)
            if dtype is None
            else dtype
        )
        y = new(shape, dtype)
        y.fill(value)
        return y

    def full_like(self, a: ndarray, value: Any, dtype: Any = None) -> ndarray:
        return self.full(a.shape, value, dtype or a.dtype)

    def zeros(self, shape: Any, dtype: Any = float) -> ndarray:
        return self.full(shape, 0, dtype)

    def ones(self, shape: Any, dtype: Any = float) -> ndarray:
        return self.full(shape, 1, dtype)

    def zeros_like(self, a: ndarray, dtype: Any = None) -> ndarray:
        return self.full_like(a, 0, dtype)

    def ones_like(self, a: ndarray, dtype: Any = None) -> ndarray:
        return self.full_like(a, 1, dtype)

    def broadcast_to(self, a: ndarray, shape: Any) -> ndarray:
        return a.view_of(np.broadcast_to(a.host, shape))

    def split(self, a: ndarray, sections: Any, axis: int = 0) -> list[ndarray]:
        return [a.view_of(part) for part in np.split(a.host, sections, axis)]

    def copyto(self, target: ndarray, source: Any, where: Any = True) -> None:
        to, value, at = target.host, host_of(source, "copyto"), host_of(where, "copyto")
        self.machine.launch("copyto", lambda: np.copyto(to, value, where=at, casting="unsafe"))

    def einsum(self, *_: Any, **__: Any) -> Any:
        raise AssertionError("einsum of CuPy arrays goes around gpuprop.backend.gemm")

    dot = matmul = tensordot = vdot = inner = einsum

    def __getattr__(self, name: str) -> Any:
        function = getattr(np, name, None)
        if function is None or name.startswith("__"):
            raise AttributeError(name)
        if not callable(function) or isinstance(function, type):
            return function

        def call(*args: Any, out: Any = None, **how: Any) -> Any:
            if isinstance(function, np.ufunc) and len(args) > function.nin:
                *args, out = args  # type: ignore[assignment]
            if name in ("flatnonzero", "nonzero", "unique", "argwhere"):
                self.machine.wait(name)
            if name in ("concatenate", "stack"):
                return run(name, lambda *a, **k: function(a, **k), *args[0], out=out, **how)
            dtype = how.pop("dtype", None) if isinstance(function, np.ufunc) else None
            if dtype is not None:
                return run(name, lambda *a, **k: function(*a, dtype=dtype, **k), *args, out=out, **how)
            if isinstance(function, np.ufunc) and out is not None:  # computed in the type of out's inputs
                return run(name, lambda *a, **k: function(*a, **k), *args, out=out, **how)
            return run(name, function, *args, out=out, **how)

        return call
