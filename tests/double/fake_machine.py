"""The device behind the fake CuPy: memory, launches, streams and graphs.

Every operation is a launch, with a name, that is done at once, or while a stream is captured only written
down, for `Graph.launch` to do. What a launch reads and writes is fixed when it is made, as on a GPU. Waiting
for the device, copies from the host and memory from another pool than the capture's own are refused while
capturing. Memory that is given back to a pool is given out again, to the same stream, so that what is used
after its time shows. Work is done at once, but only what events and waits order may touch the same memory:
see fake_order.py.
"""

from __future__ import annotations

import itertools
import sys
import threading
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
from fake_memory import Chunk, CudaError, MemoryPool, aligned
from fake_order import Clock, Order, merge

# Operations that CuPy composes of several kernels; all others count one.
LAUNCHES = {"pad": 2, "argsort": 3, "flatnonzero": 4, "cumsum": 2, "tri": 2, "stack": 1}


class CaptureViolation(RuntimeError):
    """What CUDA would refuse, or silently do wrong, while a stream is captured."""


Node = tuple[str, Callable[[], None], tuple[int, ...]]  # a launch: its name, what it does, where


class State(threading.local):
    stream: Any = None  # None: the default one
    allocator: Any = None


@dataclass(frozen=True)
class Cost:
    """Of a launch: bytes read and written, and floating-point operations of a product."""

    name: str
    moved: int
    flops: int


def bytes_of(*arrays: Any) -> int:
    """Bytes of the arrays among the values; what is repeated counts once."""
    return sum(
        a.itemsize * int(np.prod([n for n, step in zip(a.shape, a.strides, strict=True) if step], initial=1))
        for a in arrays
        if isinstance(a, np.ndarray) and a.size
    )


class Machine:
    """The device: launches by name, waits, allocations, and what is being captured."""

    def __init__(self) -> None:
        self.state = State()
        self.launches: list[str] = []
        self.costs: list[Cost] = []
        self.waits: list[str] = []
        self.reads: list[str] = []  # host to device
        self.capture: list[Node] | None = None
        self.capture_pool: Any = None
        self.order = Order()
        self.default_clock: Clock = {}
        self.default_stream = Stream(null=True)
        self.idle = True  # the device is done with all that events ask for; False: with nothing yet
        self.default_pool = MemoryPool()
        self.growing = False  # a pool asks the driver for memory
        self.leaked = 0  # bytes of pools that have gone
        self.left: int | None = None  # bytes that the driver has; None: no end of them

    @property
    def stream(self) -> Stream:
        """The current one of this thread."""
        return self.state.stream or self.default_stream

    def launch(
        self, name: str, work: Callable[[], None], moved: int = 0, flops: int = 0,
        places: Iterable[int] = (), stream: Stream | None = None,
    ) -> None:  # fmt: skip
        """Do `work`, or write it down. moved: bytes it reads and writes; flops: of products; places: the
        memory that it touches; stream: the current one."""
        self.costs.append(Cost(name, moved, flops))
        self.launches += [name] * LAUNCHES.get(name, 1)
        if self.capture is not None:
            self.capture.append((name, work, tuple(places)))
        else:
            (stream or self.stream).works(name, places)
            work()

    def wait(self, what: str, clock: Clock | None = None) -> None:
        """The host waits for what `clock` knows, that of the current stream."""
        if self.capture is not None:
            raise CaptureViolation(f"cudaErrorStreamCaptureUnsupported: {what} waits for the device")
        self.waits.append(what)
        self.order.learn(self.stream.clock if clock is None else clock)

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

    def raw(self, size: int) -> Chunk:
        """Memory straight from the driver."""
        if self.capture is not None and not self.growing:
            raise CaptureViolation(f"{size} bytes are allocated outside the pool of the capture")
        if self.left is not None:
            if size > self.left:
                raise CudaError("cudaErrorMemoryAllocation: out of memory")
            self.left -= size
        memory = aligned(size)
        self.order.users.pop(memory.ctypes.data, None)
        return Chunk(None, memory)


def machine_now() -> Machine:
    return sys.modules["cupy"].machine


_numbers = itertools.count(1)


class Stream:
    """A stream. `capture` is of this thread's launches, whichever stream is current. Work of streams that
    are not non-blocking, which all wait for each other, counts as that of the default stream."""

    null: Any = None

    def __init__(self, null: bool = False, non_blocking: bool = False) -> None:
        self.is_null = null
        self.ptr = 0 if null else id(self)
        self.number = next(_numbers) if non_blocking else 0
        self._clock: Clock = {}
        self._before: list[Any] = []

    @property
    def clock(self) -> Clock:
        return self._clock if self.number else machine_now().default_clock

    def works(self, name: str, places: Iterable[int]) -> None:
        machine_now().order.work(self.number, self.clock, name, places)

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
        machine_now().wait("synchronize()", self.clock)

    def wait_event(self, event: Any) -> None:
        merge(self.clock, event.clock)

    def record(self, event: Any = None) -> Any:
        event = event or Event()
        event.record(self)
        return event


class Event:
    """What a stream had to do when this was recorded."""

    def __init__(self, block: bool = False, disable_timing: bool = False, interprocess: bool = False) -> None:
        self.clock: Clock = {}

    def record(self, stream: Any = None) -> None:
        self.clock = dict((stream or machine_now().stream).clock)

    @property
    def done(self) -> bool:
        """Whether the device has come so far: the host then knows."""
        machine = machine_now()
        if machine.idle:
            machine.order.learn(self.clock)
        return all(machine.order.host.get(stream, 0) >= time for stream, time in self.clock.items())

    def synchronize(self) -> None:
        machine_now().wait("Event.synchronize()", self.clock)


class Graph:
    """What was captured. `names` are the launches."""

    def __init__(self, machine: Machine, nodes: list[Node]) -> None:
        self.machine, self.nodes = machine, nodes
        self.places = {place for _, _, places in nodes for place in places}

    @property
    def names(self) -> list[str]:
        return [name for name, _, _ in self.nodes for _ in range(LAUNCHES.get(name, 1))]

    def launch(self, stream: Any = None) -> None:
        self.machine.launches.append("graph")
        (stream or self.machine.stream).works("graph", self.places)
        for _, work, _ in self.nodes:
            work()

    def upload(self, stream: Any = None) -> None:
        pass


class Device:
    attributes = {"MaxSharedMemoryPerBlockOptin": 227 << 10}  # noqa: RUF012
    compute_capability = "90"

    def __init__(self, device: int = 0) -> None:
        self.id = device

    def use(self) -> Device:
        return self

    def __enter__(self) -> Device:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def synchronize(self) -> None:
        machine_now().wait("Device.synchronize()")
