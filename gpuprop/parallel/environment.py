"""Which of several processes this one is: read from the variables that launchers set, before anything is
started."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass

from ..errors import DataError

# launcher -> the variables of (rank, ranks, rank on this machine, ranks on this machine)
_VARIABLES = {
    "Open MPI": (
        "OMPI_COMM_WORLD_RANK",
        "OMPI_COMM_WORLD_SIZE",
        "OMPI_COMM_WORLD_LOCAL_RANK",
        "OMPI_COMM_WORLD_LOCAL_SIZE",
    ),
    "MPICH": ("PMI_RANK", "PMI_SIZE", "MPI_LOCALRANKID", "MPI_LOCALNRANKS"),
    # SLURM_NTASKS is set in a batch script too, which is one process; a step's number of tasks is srun's.
    "Slurm": ("SLURM_PROCID", "SLURM_STEP_NUM_TASKS", "SLURM_LOCALID", ""),
    "torchrun": ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE"),
}
MPI_LAUNCHERS = ("Open MPI", "MPICH", "Slurm")


@dataclass(frozen=True)
class Place:
    """A process among others. local_rank counts those of one machine; local_size is 0 where it is not known.
    launcher is "" for a process of its own."""

    rank: int = 0
    size: int = 1
    local_rank: int = 0
    local_size: int = 1
    launcher: str = ""


def place_of(variables: Mapping[str, str] | None = None) -> Place:
    """The place that the environment (default: this process's) describes. DataError where it contradicts
    itself."""
    given = os.environ if variables is None else variables
    for launcher, names in _VARIABLES.items():
        if names[0] in given and names[1] in given:
            rank, size = _number(given, names[0]), _number(given, names[1])
            if not rank < size:
                raise DataError(f"{names[0]}={rank} and {names[1]}={size}: ranks count from 0 to one less")
            local = _number(given, names[2]) if names[2] in given else 0
            here = _number(given, names[3]) if names[3] in given else 0
            return Place(rank, size, local, here, launcher)
    return Place()


def _number(variables: Mapping[str, str], name: str) -> int:
    text = variables[name].strip()
    if not (text.isascii() and text.isdigit()):
        raise DataError(f"{name} is a whole number that a launcher sets, not {text!r}; unset it")
    return int(text)
