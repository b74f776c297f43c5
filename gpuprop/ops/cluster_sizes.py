"""What the blocks of a cluster hold in recurrent_cluster.cu, and when they pay: from sizes alone."""

from __future__ import annotations

import contextlib
import functools
import math
from collections.abc import Iterator
from contextvars import ContextVar

from . import persistent_sizes
from .persistent_sizes import FROM_CACHE, FROM_SHARED, LANES, OF_CACHE, PACK, STEP, Sizes

BLOCKS, ROWS, THREADS = 8, 4, 256  # as in recurrent_cluster.cuh
SHARED = 227 << 10  # bytes a block can have where there are clusters and this way is taken (sm_90, sm_100)
MOST = THREADS // ROWS * BLOCKS  # columns of a state
# Estimates, as in persistent_sizes.py
CLUSTERS = 16  # that run at once: 132 processors lie in groups of 16 or 18
LESS = 0.75  # the estimate has to be clearly below the others
EXCHANGE = 1_500  # cycles of one time: writes into other blocks' memory, and the cluster's barrier

_wherever_possible = ContextVar("clusters wherever possible", default=False)


@functools.lru_cache(maxsize=1024)
def sizes(gates: int, size: int, itemsize: int, forward: bool, most_shared: int) -> Sizes | None:
    """Of a launch; None where the size is no whole number of packs, or a block has no place for what it
    needs."""
    pack = PACK // itemsize
    width = math.ceil(size / (BLOCKS * pack)) * pack
    inner, columns = (size, gates * width) if forward else (gates * size, width)
    slices = max(1, min(THREADS * pack // columns, inner // persistent_sizes.LEAST_OF_A_SLICE))
    vectors = ROWS * max(4, itemsize) * (2 * inner + slices * columns)
    held = persistent_sizes.rows_held(most_shared - vectors, inner, columns, itemsize)
    whole = persistent_sizes.padded_size(size, itemsize) == size
    if not whole or size > MOST or vectors > most_shared:
        return None
    return Sizes(
        ROWS, THREADS, size, slices, held, vectors + held * columns * itemsize, blocks=BLOCKS, width=width
    )


def cycles(sequences: int, gates: int, size: int, itemsize: int) -> float:
    """Of a time step over all clusters, backward, which has less room for weights than forward.

    A block reads its share of the weights each time, from shared memory and what does not fit from the cache,
    while it multiplies; clusters beyond CLUSTERS wait.
    """
    how = sizes(gates, size, itemsize, False, SHARED)
    if how is None:
        return math.inf
    of_row, rows = how.width * itemsize, gates * size
    clusters = math.ceil(sequences / ROWS)
    blocks = BLOCKS * min(clusters, CLUSTERS)
    rate = min(FROM_CACHE, OF_CACHE / blocks)
    reading = of_row * (how.held / FROM_SHARED + (rows - how.held) / rate)
    return math.ceil(clusters / CLUSTERS) * (STEP + EXCHANGE + max(reading, ROWS * rows * how.width / LANES))


@contextlib.contextmanager
def wherever_possible() -> Iterator[None]:
    """Clusters also where they do not pay: for checks of their kernels with small sizes."""
    token = _wherever_possible.set(True)
    try:
        yield
    finally:
        _wherever_possible.reset(token)


def suits(length: int, sequences: int, gates: int, size: int, itemsize: int, most_shared: int) -> bool:
    """Whether a GPU that gives a block so much shared memory has clusters, and they pay. One time alone is a
    step."""
    if length < 2 or most_shared < SHARED or sizes(gates, size, itemsize, False, SHARED) is None:
        return False
    return _wherever_possible.get() or pays(sequences, gates, size, itemsize)


@functools.lru_cache(maxsize=1024)
def pays(sequences: int, gates: int, size: int, itemsize: int) -> bool:
    """Whether a time step by clusters is likely to take clearly less than by blocks, or than a product and a
    kernel."""
    others = [persistent_sizes.cycles_of_step(sequences, gates, size, itemsize)]
    if persistent_sizes.suits(2, sequences, gates, size, itemsize):
        others.append(persistent_sizes.cycles(sequences, gates, size, itemsize))
    return cycles(sequences, gates, size, itemsize) < LESS * min(others)


def one_launch(length: int, sequences: int, gates: int, size: int, itemsize: int, most_shared: int) -> bool:
    """Whether all times are one launch, by blocks or by clusters."""
    sizes = sequences, gates, size, itemsize
    return persistent_sizes.suits(length, *sizes) or suits(length, *sizes, most_shared)
