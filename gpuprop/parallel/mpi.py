"""Arrays on the host move by MPI, through mpi4py: its calls on buffers only, never those that pickle.

Every collective is started and then asked after: MPI drives it on while it is asked.
"""

from __future__ import annotations

import importlib
import os
import sys
from pathlib import Path
from typing import Any

import numpy as np

from ..backend.half import is_half
from ..errors import DeviceError
from .environment import Place

INSTALL = "pip install 'gpuprop[mpi]'"


class MpiPending:
    """A started MPI request. Holds on to its arrays, which MPI writes to meanwhile."""

    def __init__(self, request: Any, arrays: tuple[Any, ...]) -> None:
        self.request, self.arrays = request, arrays

    def done(self) -> bool:
        return bool(self.request.Test())

    def join(self) -> None:
        self.arrays = ()


class MpiTransport:
    """MPI over all processes that one launcher started. DeviceError where mpi4py is missing, or is of
    another MPI than the launcher."""

    name = "MPI"

    def __init__(self, place: Place) -> None:
        self.mpi = import_mpi()
        world = self.mpi.COMM_WORLD
        if (world.rank, world.size) != (place.rank, place.size):
            raise DeviceError(
                f"{place.launcher} started {place.size} ranks, but mpi4py is alone: its MPI is another one "
                f"than the launcher's. Start with {launcher_here()}, or install mpi4py for the MPI of yours"
            )
        self.comm, self._failures = world.Dup(), world.Dup()
        self._ops = {"sum": self.mpi.SUM, "max": self.mpi.MAX, "min": self.mpi.MIN}
        self._half_ops: dict[np.dtype[Any], Any] = {}

    def start_all_reduce(self, array: np.ndarray[Any, Any], op: str) -> MpiPending:
        if is_half(array.dtype):
            if op != "sum":
                raise DeviceError(f"MPI has no {op} of {array.dtype}: reduce float32")
            message = [array.view(np.uint16), self.mpi.UINT16_T]
            request = self.comm.Iallreduce(self.mpi.IN_PLACE, message, op=self._half_sum(array.dtype))
        else:
            request = self.comm.Iallreduce(self.mpi.IN_PLACE, array, op=self._ops[op])
        return MpiPending(request, (array,))

    def start_broadcast(self, array: np.ndarray[Any, Any], root: int) -> MpiPending:
        return MpiPending(self.comm.Ibcast(_bytes(array), root=root), (array,))

    def start_all_gather(self, array: np.ndarray[Any, Any], into: np.ndarray[Any, Any]) -> MpiPending:
        return MpiPending(self.comm.Iallgather(_bytes(array), _bytes(into)), (array, into))

    def start_failing_together(self) -> MpiPending:
        """Over when every rank has called this, and so has failed."""
        return MpiPending(self._failures.Ibarrier(), ())

    def mark(self) -> MpiPending:
        raise NotImplementedError("MPI moves arrays of the host")

    def check(self) -> None:
        """MPI tells of errors at once."""

    def end_all(self, code: int) -> None:
        self.mpi.COMM_WORLD.Abort(code)

    def _half_sum(self, dtype: np.dtype[Any]) -> Any:
        """MPI has no 16-bit floats: their sum in float32, rounded."""
        if dtype not in self._half_ops:

            def add(given: Any, total: Any, _: Any) -> None:
                a, b = np.frombuffer(given, dtype), np.frombuffer(total, dtype)
                b[...] = (a.astype(np.float32) + b.astype(np.float32)).astype(dtype)

            self._half_ops[dtype] = self.mpi.Op.Create(add, commute=True)
        return self._half_ops[dtype]


def _bytes(array: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    return array.reshape(-1).view(np.uint8)


def import_mpi() -> Any:
    """mpi4py's MPI, which starts MPI where it has not begun. DeviceError with the fix where it cannot."""
    try:
        return importlib.import_module("mpi4py.MPI")
    except (ImportError, RuntimeError) as error:
        raise DeviceError(
            f"several ranks need MPI, which cannot be loaded: {' '.join(str(error).split())}. {INSTALL}"
        ) from error


def launcher_here() -> str:
    """The mpirun of this Python's environment, where it has one."""
    here = Path(sys.executable).parent / "mpirun"
    return str(here) if os.access(here, os.X_OK) else f"the mpirun of {INSTALL}"
