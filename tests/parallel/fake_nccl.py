"""A stand-in for `cupy.cuda.nccl` over the memory of the fake CuPy: MPI moves it between real processes.

A call is a launch of the fake machine, done at once or written down while a stream is captured. What streams
and events are told is kept in `log`, as the order of these calls is all that orders NCCL's work.
"""

import ctypes
import sys
import types

import fake_cupy
import numpy as np

TYPES = {1: "uint8", 2: "int32", 4: "int64", 6: "float16", 7: "float32", 8: "float64"}
CODES = {
    "NCCL_INT8": 0, "NCCL_UINT8": 1, "NCCL_INT32": 2, "NCCL_UINT32": 3, "NCCL_INT64": 4, "NCCL_UINT64": 5,
    "NCCL_FLOAT16": 6, "NCCL_FLOAT32": 7, "NCCL_FLOAT64": 8, "NCCL_SUM": 0, "NCCL_MAX": 2, "NCCL_MIN": 3,
}  # fmt: skip
IDENTIFIER = bytes(range(64, 192))
log = []


class NcclError(RuntimeError):
    """What NCCL returns when it refuses."""


class Event(fake_cupy.Event):
    def record(self, stream=None):
        super().record(stream)
        log.append(("record", id(self), stream.ptr))


class Stream(fake_cupy.Stream):
    def wait_event(self, event):
        super().wait_event(event)
        log.append(("wait", id(event), self.ptr))


class NcclCommunicator:
    """Checks what real NCCL would crash on: types, pointers, the identifier."""

    def __init__(self, ndev, commId, rank):
        if type(commId) is not type(IDENTIFIER):
            raise TypeError(f"Argument 'commId' has incorrect type: {type(commId).__name__}")
        if commId != IDENTIFIER:
            raise NcclError("NCCL_ERROR_INVALID_ARGUMENT: invalid argument")
        self.ndev, self.rank, self.aborted = ndev, rank, False

    def _move(self, name, send, receive, count, kind, stream, work):
        assert all(type(x) is int for x in (send, receive, count, kind, stream))
        log.append((name, send, receive, count, kind, stream))
        fake_cupy.machine_now().launch(name, work)

    def allReduce(self, sendbuf, recvbuf, count, datatype, op, stream):
        from mpi4py import MPI

        assert sendbuf == recvbuf
        how = {0: MPI.SUM, 2: MPI.MAX, 3: MPI.MIN}[op]

        def work():
            if datatype == 9:  # bfloat16: the sum in float32, rounded once
                import ml_dtypes

                here = memory(recvbuf, count, "uint16").view(ml_dtypes.bfloat16)
                wide = here.astype(np.float32)
                MPI.COMM_WORLD.Allreduce(MPI.IN_PLACE, wide, op=how)
                here[...] = wide.astype(ml_dtypes.bfloat16)
            else:
                MPI.COMM_WORLD.Allreduce(MPI.IN_PLACE, memory(recvbuf, count, TYPES[datatype]), op=how)

        self._move("ncclAllReduce", sendbuf, recvbuf, count, datatype, stream, work)

    def broadcast(self, sendbuff, recvbuff, count, datatype, root, stream):
        from mpi4py import MPI

        here = memory(recvbuff, count, TYPES[datatype])
        self._move(
            "ncclBroadcast", sendbuff, recvbuff, count, datatype, stream,
            lambda: MPI.COMM_WORLD.Bcast(here, root),
        )  # fmt: skip

    def allGather(self, sendbuf, recvbuf, count, datatype, stream):
        from mpi4py import MPI

        kind = TYPES[datatype]
        mine, all_of_them = memory(sendbuf, count, kind), memory(recvbuf, count * self.ndev, kind)
        self._move(
            "ncclAllGather", sendbuf, recvbuf, count, datatype, stream,
            lambda: MPI.COMM_WORLD.Allgather(mine, all_of_them),
        )  # fmt: skip

    def check_async_error(self):
        if self.aborted:
            raise NcclError("NCCL_ERROR_SYSTEM_ERROR")

    def abort(self):
        self.aborted = True


def memory(pointer, count, dtype):
    size = count * np.dtype(dtype).itemsize
    return np.frombuffer((ctypes.c_uint8 * size).from_address(pointer), dtype)


def install(cupy, monkeypatch):
    """Give the fake CuPy this NCCL, and streams and events that keep a log. As in the real one, `import cupy`
    alone does not bring `cupy.cuda.nccl`."""
    log.clear()
    cupy.cuda.Event, cupy.cuda.Stream = Event, Stream
    cupy.machine.default_stream = Stream(null=True)
    module = types.SimpleNamespace(
        available=True, NcclError=NcclError, NcclCommunicator=NcclCommunicator,
        get_unique_id=lambda: IDENTIFIER, **CODES,
    )  # fmt: skip
    monkeypatch.setitem(sys.modules, "cupy.cuda.nccl", module)
    return module
