"""A table of word vectors looked up, and Adam of the rows that occur: a row of the GPU bench.

Beside it stands what most write in PyTorch: a gradient of the whole table, and Adam of all of it. Over a
single batch that is the same, as rows that do not occur have no moments.
"""

from __future__ import annotations

from typing import Any

import numpy as np

import gpuprop as gp

from .floors import Cost
from .gpu_adam import change, fused_adam
from .gpu_case import GpuCase, Peer
from .gpu_data import Normal, Sizes, Store, words
from .gpu_work import MOST_SETS, Work, sets_for

RATE = 1e-2
SCALE = 0.1  # of the table


def _ids(sizes: Sizes, seed: int) -> np.ndarray[Any, Any]:
    return words(sizes["V"], (sizes["B"], sizes["L"]), seed)


def _dy(sizes: Sizes, seed: int) -> Normal:
    return Normal((sizes["B"], sizes["L"], sizes["D"]), seed)


def _seeds(sizes: Sizes) -> range:
    """One for each set of ids and gradients."""
    size = 4.0 * _dy(sizes, 0).size
    return range(sets_for(size, sizes.get("sets", MOST_SETS)))


def ours(sizes: Sizes, store: Store) -> Work:
    """With a gradient of rows."""
    table = gp.Parameter(Normal((sizes["V"], sizes["D"]), 1, SCALE).on_device(store))
    optimizer = gp.optim.SparseAdam([table], lr=RATE)
    sets = [(gp.tensor(_ids(sizes, k)), _dy(sizes, k).on_device(store)) for k in _seeds(sizes)]

    def step(i: int) -> None:
        ids, dy = sets[i]
        optimizer.zero_grad()
        gp.ops.embedding(ids, table, sparse=True).backward(dy)
        optimizer.step()

    return Work(step, [(i,) for i in range(len(sets))], lambda run, most: change(table, run, most))


def theirs(peer: Peer, sizes: Sizes) -> Work:
    """With a gradient of the whole table and the fused update, which a graph can repeat."""
    torch = peer.torch
    table = Normal((sizes["V"], sizes["D"]), 1, SCALE).in_torch(torch, peer.device, peer.precision)
    p = torch.nn.Parameter(table)
    optimizer = fused_adam(torch, [p], peer.device, RATE)
    sets = [
        (torch.from_numpy(_ids(sizes, k)).to(peer.device),
         _dy(sizes, k).in_torch(torch, peer.device, peer.precision))
        for k in _seeds(sizes)
    ]  # fmt: skip
    look_up = peer.wrap(torch.nn.functional.embedding)

    def step(i: int) -> None:
        ids, dy = sets[i]
        optimizer.zero_grad()
        look_up(ids, p).backward(dy)
        optimizer.step()

    return Work(step, [(i,) for i in range(len(sets))], lambda run, most: change(p, run, most))


def floor(sizes: Sizes) -> Cost:
    """Ids and dy are read and y is written once; of the rows that occur weights are read to look them up, and
    weights and both moments are read and written to update them."""
    ids = _ids(sizes, 0)
    return Cost(8.0 * ids.size + 4.0 * sizes["D"] * (2 * ids.size + 7 * np.unique(ids).size))


def embedding_case() -> GpuCase:
    """The row of the table."""
    return GpuCase(
        "embedding", "embedding backward + lazy Adam",
        "64 x 128 ids of 100,000 x 256 fp32, Adam of rows; PyTorch of the table", "fp32",
        {"B": 64, "L": 128, "V": 100_000, "D": 256}, {"V": 20_000}, floor, ours, theirs, None,
        {"eager": 10.0}, {"eager": 25.0}, repeatable=False,
    )  # fmt: skip
