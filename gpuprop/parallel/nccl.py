"""Arrays on a GPU move by NCCL, through CuPy's `cupy.cuda.nccl`, on a stream of its own.

A collective begins when what was computed before it is there, and what is computed after `join` waits for
it: both by events on the device, so that the host does not wait. While a step is captured, the two events
fork and join the captured graph, and NCCL's call becomes part of it (NCCL 2.9 or later, CUDA 11.3 or later).
"""

from __future__ import annotations

import importlib
from typing import Any

from ..backend import cuda_setup
from ..backend.arrays import Array
from ..errors import DeviceError

ID_BYTES = 128
BFLOAT16 = 9  # ncclBfloat16; older CuPy has no name for it
_TYPES = {
    "int8": "NCCL_INT8", "uint8": "NCCL_UINT8", "int32": "NCCL_INT32", "uint32": "NCCL_UINT32",
    "int64": "NCCL_INT64", "uint64": "NCCL_UINT64", "float16": "NCCL_FLOAT16", "float32": "NCCL_FLOAT32",
    "float64": "NCCL_FLOAT64",
}  # fmt: skip
_OPS = {"sum": "NCCL_SUM", "max": "NCCL_MAX", "min": "NCCL_MIN"}


class NcclPending:
    """A collective on NCCL's stream. Holds on to its arrays until later work waits for it."""

    def __init__(self, cupy: Any, event: Any, arrays: tuple[Any, ...]) -> None:
        self.cupy, self.event, self.arrays = cupy, event, arrays

    def done(self) -> bool:
        return bool(self.event.done)

    def join(self) -> None:
        self.cupy.cuda.get_current_stream().wait_event(self.event)
        self.arrays = ()


class NcclTransport:
    """One NCCL communicator; this rank's GPU is CuPy's current device. unique_id: the bytes that rank 0 got
    from `new_id`."""

    name = "NCCL"

    def __init__(self, rank: int, size: int, unique_id: bytes) -> None:
        self.cupy = cuda_setup.import_cupy()
        self.nccl = import_nccl()
        self.size = size
        try:
            self.comm = self._communicator(unique_id, rank)
        except self.nccl.NcclError as error:
            raise DeviceError(
                f"NCCL cannot start on rank {rank} of {size}: {error}. Two ranks on one GPU are refused: "
                "start one rank a GPU; NCCL_DEBUG=INFO says more"
            ) from error
        self.stream = self.cupy.cuda.Stream(non_blocking=True)

    def _communicator(self, unique_id: bytes, rank: int) -> Any:
        try:
            return self.nccl.NcclCommunicator(self.size, unique_id, rank)
        except TypeError:  # older CuPy wants a tuple of signed numbers
            signed = tuple(byte - 256 if byte > 127 else byte for byte in unique_id)
            return self.nccl.NcclCommunicator(self.size, signed, rank)

    def start_all_reduce(self, array: Array, op: str) -> NcclPending:
        code = getattr(self.nccl, _OPS[op])
        return self._start(
            lambda stream: self.comm.allReduce(
                array.data.ptr, array.data.ptr, array.size, self._type(array), code, stream
            ),
            array,
        )

    def start_broadcast(self, array: Array, root: int) -> NcclPending:
        return self._start(
            lambda stream: self.comm.broadcast(
                array.data.ptr, array.data.ptr, array.size, self._type(array), root, stream
            ),
            array,
        )

    def start_all_gather(self, array: Array, into: Array) -> NcclPending:
        return self._start(
            lambda stream: self.comm.allGather(
                array.data.ptr, into.data.ptr, array.size, self._type(array), stream
            ),
            array,
            into,
        )

    def mark(self) -> NcclPending:
        event = self.cupy.cuda.Event(disable_timing=True)
        event.record(self.cupy.cuda.get_current_stream())
        return NcclPending(self.cupy, event, ())

    def check(self) -> None:
        """Raise DeviceError where NCCL has met an error on the device."""
        try:
            self.comm.check_async_error()
        except self.nccl.NcclError as error:
            raise DeviceError(f"NCCL failed: {error}; NCCL_DEBUG=INFO says more") from error

    def end_all(self, code: int) -> None:
        self.comm.abort()

    def _start(self, call: Any, *arrays: Array) -> NcclPending:
        events = self.cupy.cuda
        before, after = (events.Event(disable_timing=True) for _ in range(2))
        before.record(events.get_current_stream())
        self.stream.wait_event(before)
        call(self.stream.ptr)
        after.record(self.stream)
        return NcclPending(self.cupy, after, arrays)

    def _type(self, array: Array) -> int:
        name = str(array.dtype)
        if name == "bfloat16":
            return int(getattr(self.nccl, "NCCL_BFLOAT16", BFLOAT16))
        if name not in _TYPES:
            raise DeviceError(f"NCCL moves no {name}: known are {', '.join(_TYPES)}, bfloat16")
        return int(getattr(self.nccl, _TYPES[name]))


def import_nccl() -> Any:
    """CuPy's module of NCCL. DeviceError with the fix where CuPy has none."""
    cuda_setup.import_cupy()
    nccl = importlib.import_module("cupy.cuda.nccl")  # `import cupy` does not import it
    if not nccl.available:
        raise DeviceError(
            "this CuPy cannot load NCCL, which several GPUs need: pip install 'gpuprop[cuda12]' (or cuda13)"
        )
    return nccl


def new_id() -> bytes:
    """What rank 0 makes and every rank needs to start NCCL."""
    return bytes(number & 0xFF for number in import_nccl().get_unique_id())
