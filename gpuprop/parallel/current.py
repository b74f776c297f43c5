"""The group of this process: made once by `init`, alone before that."""

from __future__ import annotations

import os
import socket

import numpy as np

from ..backend import cuda_setup
from ..backend.device import Device, get_device, set_device
from ..backend.threads import num_threads, set_num_threads
from ..errors import DeviceError
from ..version import __version__
from . import failure
from .agreement import check_alike
from .collectives import Transport
from .environment import Place, place_of
from .group import Group, wanted_timeout
from .mpi import INSTALL, MpiTransport
from .nccl import ID_BYTES, NcclTransport, new_id
from .rendezvous import address, fetch, hand_out

_group = Group(Place())


def current() -> Group:
    """The group of all ranks; one rank before `init` and without a launcher."""
    return _group


def init(device: str | Device | None = None, timeout: float | None = None) -> Group:
    """Join the other ranks that a launcher (mpirun, srun, torchrun) started; alone where there are none.

    device: "cpu", "emulated", "cuda" or "auto" (the GPU with this rank's number on its machine, else the
    CPU); None leaves the current one. timeout: seconds to wait for other ranks (default GPUPROP_TIMEOUT,
    else 600). Every rank calls it, before the model is made. A second call changes nothing. An error that one
    rank does not catch then ends all of them. DeviceError, with the fix, where ranks cannot reach each other;
    DataError where one has another version of gpuprop.
    """
    global _group
    place = place_of()
    if _group.size > 1 or place.size == 1:
        if device is not None and _group.size == 1:
            set_device(device)
        return _group
    seconds = wanted_timeout(timeout)
    host = None if _without_mpi(place, device) else MpiTransport(place)
    if host is not None:
        place = _on_this_machine(place, host, seconds)
    if device is not None or get_device().type == "cuda":
        set_device(device_of_rank(str(device or "cuda"), place))
    nccl = _start_nccl(place, host, seconds) if get_device().type == "cuda" else None
    group = Group(place, host, nccl, seconds)
    failure.watch_over(group)
    check_alike(group, {"gpuprop": __version__, "the kind of device": get_device().type})
    _share_cores(place)
    _group = group
    return group


def device_of_rank(name: str, place: Place) -> str:
    """The device that "auto" or "cuda" means for a rank: the GPU of its local rank. Others as they are."""
    if name not in ("auto", "cuda"):
        return name
    try:
        gpus = cuda_setup.count()
    except DeviceError:
        return "cpu" if name == "auto" and place.rank else name  # rank 0 says why, or what is wrong
    if place.local_rank < gpus:
        return f"cuda:{place.local_rank}"
    if gpus == 1 and os.environ.get("CUDA_VISIBLE_DEVICES"):
        return "cuda:0"  # the launcher shows each rank its own
    raise DeviceError(
        f"rank {place.rank} is number {place.local_rank} on its machine, which has {gpus} GPUs: start at "
        f"most {gpus} ranks there, or train with --device cpu"
    )


def _without_mpi(place: Place, device: str | Device | None) -> bool:
    """Whether ranks meet at MASTER_ADDR: GPUs need no MPI then."""
    gpu = str(device or get_device().type).startswith(("cuda", "auto"))
    if place.launcher == "torchrun":
        if not gpu or not _has_gpu():
            raise DeviceError(
                "arrays on a CPU travel by MPI: start with mpirun instead of RANK and WORLD_SIZE, after "
                + INSTALL
            )
        return True
    return place.launcher == "Slurm" and bool(os.environ.get("MASTER_ADDR")) and gpu and _has_gpu()


def _has_gpu() -> bool:
    try:
        return cuda_setup.count() > 0
    except DeviceError:
        return False


def _on_this_machine(place: Place, host: Transport, timeout: float) -> Place:
    """The place, with how many ranks share this machine and which of them this is."""
    names = Group(place, host, timeout=timeout).gather_texts(socket.gethostname())
    mine = names[place.rank]
    local = names[: place.rank].count(mine)
    return Place(place.rank, place.size, local, names.count(mine), place.launcher)


def _start_nccl(place: Place, host: Transport | None, timeout: float) -> NcclTransport:
    if host is not None:
        told = np.zeros(ID_BYTES, np.uint8)
        if place.rank == 0:
            told[:] = np.frombuffer(new_id(), np.uint8)
        identifier = Group(place, host, timeout=timeout).broadcast(told).tobytes()
    else:
        bind, connect, port = address()
        if place.rank == 0:
            identifier = new_id()
            hand_out(identifier, place.size, bind, port, timeout)
        else:
            identifier = fetch(place.rank, ID_BYTES, connect, port, timeout)
    return NcclTransport(place.rank, place.size, identifier)


def _share_cores(place: Place) -> None:
    """Ranks on one machine would get into each other's way with a thread a core each."""
    chosen = any(os.environ.get(name) for name in ("GPUPROP_THREADS", "OMP_NUM_THREADS"))
    if place.local_size > 1 and not chosen:
        set_num_threads(max(1, num_threads() // place.local_size))
