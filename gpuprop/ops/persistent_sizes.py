"""What a block of recurrent_sequence.cu holds, and when it is the better way: from sizes alone."""

from __future__ import annotations

import math
from typing import NamedTuple

THREADS, TOGETHER, WARP = 384, 4, 32  # as in recurrent_sequence.cu; a state has at most THREADS columns
PACK = 16  # bytes
MOST_ROWS = 4  # of the batch that a block owns, where it does not own one
LEAST_SHARED = 64 << 10  # bytes of shared memory that each GPU gives a block when asked to (sm_75)
LEAST_OF_A_SLICE, MOST_SLICES = 16, 8  # rows of the matrix; more slices cost more to add up than they bring
SUMS = 48 << 10  # bytes of shared memory for the sums of the slices
# Estimates for `pays`, in cycles of a processor of which there are PROCESSORS
PROCESSORS = 128
HELD = 96 << 10  # bytes of weights in shared memory
FROM_SHARED, FROM_CACHE, OF_CACHE = 128, 64, 3_000  # bytes a cycle, the last for all processors together
LANES, TENSOR_CORES = 128, 8  # multiplications a cycle, and how many times as many
STEP, LAUNCHES = 1_000, 12_000  # of one time: barriers, gates and waits here; two launches there


class Sizes(NamedTuple):
    """Of a launch. The matrix (inner, columns) has `held` of its rows in shared memory; `slices` share it."""

    rows: int
    threads: int
    padded: int
    slices: int
    held: int
    shared: int  # bytes of dynamic shared memory
    blocks: int = 1  # of a cluster
    width: int = 0  # columns of the state that each block of a cluster owns


def padded_size(size: int, itemsize: int) -> int:
    """The size in whole packs, and at least in fours."""
    unit = _unit(itemsize)
    return -(-size // unit) * unit


def sizes(
    sequences: int, gates: int, size: int, itemsize: int, forward: bool, most_shared: int
) -> Sizes | None:
    """For that many rows of the batch, those of each direction counted, of elements of `itemsize` bytes; None
    where a block has no place for what it needs."""
    padded = padded_size(size, itemsize)
    inner, columns = (padded, gates * padded) if forward else (gates * padded, padded)
    rows = _rows(sequences, gates * size * size * itemsize)
    packs, of_sum = columns * itemsize // PACK, max(4, itemsize)
    room = SUMS // (MOST_ROWS * columns * of_sum)
    slices = max(1, min(MOST_SLICES, room, THREADS // packs, inner // LEAST_OF_A_SLICE))
    threads = min(THREADS, -(-max(size, packs * slices) // WARP) * WARP)
    vectors = rows * of_sum * (inner + slices * columns)
    held = rows_held(most_shared - vectors, inner, columns, itemsize)
    if size > THREADS or vectors > most_shared or (held < inner and padded != size):
        return None
    return Sizes(rows, threads, padded, slices, held, vectors + held * columns * itemsize)


def rows_held(room: int, inner: int, columns: int, itemsize: int) -> int:
    """How many rows of a matrix (inner, columns) fit into that many bytes, in whole packs or all."""
    fitting = max(0, room) // (columns * itemsize)
    return inner if fitting >= inner else fitting // _unit(itemsize) * _unit(itemsize)


def suits(length: int, sequences: int, gates: int, size: int, itemsize: int) -> bool:
    """Whether a launch over that many times is possible on each GPU, and pays. One time alone is a step."""
    if length < 2 or not pays(sequences, gates, size, itemsize):
        return False
    return all(sizes(sequences, gates, size, itemsize, way, LEAST_SHARED) for way in (True, False))


def pays(sequences: int, gates: int, size: int, itemsize: int) -> bool:
    """Whether a time step over all blocks is likely to take less than a product and a kernel."""
    return cycles(sequences, gates, size, itemsize) < cycles_of_step(sequences, gates, size, itemsize)


def cycles(sequences: int, gates: int, size: int, itemsize: int) -> float:
    """Of a time step over all blocks: each reads its weights again, from shared memory and past HELD from the
    cache, while it multiplies; blocks beyond PROCESSORS wait."""
    if size > THREADS:
        return math.inf
    numbers = gates * size * size
    rows = _rows(sequences, numbers * itemsize)
    blocks = -(-sequences // rows)
    held = min(numbers * itemsize, HELD)
    rate = min(FROM_CACHE, OF_CACHE / min(blocks, PROCESSORS))
    reading = held / FROM_SHARED + (numbers * itemsize - held) / rate
    return -(-blocks // PROCESSORS) * (STEP + max(reading, rows * numbers / LANES))


def cycles_of_step(sequences: int, gates: int, size: int, itemsize: int) -> float:
    """Of a product of all rows, which uses every processor and with half types its tensor cores, and of a
    kernel."""
    lanes = LANES * PROCESSORS * (TENSOR_CORES if itemsize == 2 else 1)
    return LAUNCHES + sequences * gates * size * size / lanes


def _rows(sequences: int, weight_bytes: int) -> int:
    """Rows of the batch a block: one while each has a processor and its weights, else several for a weight
    that is read."""
    return 1 if sequences <= PROCESSORS and weight_bytes <= HELD else MOST_ROWS


def _unit(itemsize: int) -> int:
    return max(TOGETHER, PACK // itemsize)
