"""Several processes that train one model, each on its part of every batch: data-parallel training.

    # mpirun -n 4 python train.py
    import gpuprop as gp

    gp.parallel.init()
    gp.manual_seed(1)                       # the same on every rank
    trainer = gp.Trainer(model, loss, optimizer, parallel=True)
    trainer.fit(batches, epochs=10)         # of gp.text: the batches of all ranks

Processes are started and host arrays moved by MPI (mpi4py), GPU arrays by NCCL (CuPy).
"""

from __future__ import annotations

from ..backend.arrays import Array
from ..text.batches import Batches
from .current import current, init
from .group import Group
from .plan import Plan, efficiency
from .shards import ShardedBatches
from .wrapper import DataParallel

__all__ = [
    "DataParallel",
    "Group",
    "Plan",
    "ShardedBatches",
    "all_gather",
    "all_reduce",
    "barrier",
    "broadcast",
    "current",
    "efficiency",
    "init",
    "local_rank",
    "rank",
    "shard",
    "world_size",
]


def rank() -> int:
    """The number of this process among all, from 0."""
    return current().rank


def world_size() -> int:
    """How many processes there are; 1 before `init` and without a launcher."""
    return current().size


def local_rank() -> int:
    """The number of this process among those of its machine, from 0."""
    return current().place.local_rank


def all_reduce(array: Array, op: str = "sum") -> Array:
    """Reduce a C-contiguous NumPy or CuPy array in place over all ranks, by "sum", "max" or "min"; returns
    it. All ranks get the same bits. TrainingError where the others do not come in time."""
    return current().all_reduce(array, op)


def all_gather(array: Array) -> Array:
    """The arrays of all ranks, (ranks, *shape); all of one shape and type."""
    return current().all_gather(array)


def broadcast(array: Array, root: int = 0) -> Array:
    """Overwrite a C-contiguous array with that of rank `root`; returns it."""
    return current().broadcast(array, root)


def barrier() -> None:
    """Wait until every rank is here."""
    current().barrier()


def shard(batches: Batches) -> ShardedBatches:  # type: ignore[type-arg]
    """This rank's rows of each batch. batches: of `gp.text`, with one seed on all ranks, as large as what
    all ranks together take in a step."""
    return ShardedBatches(batches, rank(), world_size())
