"""How many blocks and warps of a kernel a multiprocessor holds at once, from what the compiler says it uses.

The limits are those of the CUDA C++ Programming Guide ("Technical Specifications per Compute Capability"),
the rounding that of NVIDIA's cuda_occupancy.h.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

WARP = 32
REGISTERS, MOST_OF_A_THREAD = 65536, 255  # of a multiprocessor
QUARTERS = 4  # a multiprocessor has four schedulers, each with a quarter of the registers
REGISTER_UNIT = 256  # a warp takes a multiple of it
MOST_THREADS = 1024  # of a block
KIB = 1024


@dataclass(frozen=True)
class Limits:
    """Of a multiprocessor: threads, blocks, bytes of shared memory; bytes of it that a block may have, that
    the driver adds to each, and that it is given out in multiples of."""

    threads: int
    blocks: int
    shared: int
    shared_of_block: int
    shared_reserved: int = KIB
    shared_unit: int = 128


LIMITS = {
    "sm_75": Limits(1024, 16, 64 * KIB, 64 * KIB, 0, 256),
    "sm_80": Limits(2048, 32, 164 * KIB, 163 * KIB),
    "sm_86": Limits(1536, 16, 100 * KIB, 99 * KIB),
    "sm_89": Limits(1536, 24, 100 * KIB, 99 * KIB),
    "sm_90": Limits(2048, 32, 228 * KIB, 227 * KIB),
    "sm_90a": Limits(2048, 32, 228 * KIB, 227 * KIB),
    "sm_100": Limits(2048, 32, 228 * KIB, 227 * KIB),
    "sm_120": Limits(1536, 24, 100 * KIB, 99 * KIB),
}


@dataclass(frozen=True)
class Occupancy:
    """Blocks and warps that a multiprocessor holds at once; limit: what holds them back, "threads", "blocks",
    "registers" or "shared memory". With 0 blocks the kernel cannot be launched."""

    blocks: int
    warps: int
    limit: str


def occupancy(arch: str, threads: int, registers: int, shared_bytes: int = 0) -> Occupancy:
    """Of a kernel on architecture `arch` ("sm_90"), a key of LIMITS. threads: of a block; registers: of a
    thread; shared_bytes: of a block, static and dynamic."""
    limits = LIMITS[arch]
    warps = math.ceil(threads / WARP)
    bounds = {
        "threads": limits.threads // WARP // warps if threads <= MOST_THREADS else 0,
        "blocks": limits.blocks,
        "registers": _by_registers(warps, registers),
        "shared memory": _by_shared_memory(limits, shared_bytes),
    }
    limit = min(bounds, key=bounds.__getitem__)
    return Occupancy(bounds[limit], bounds[limit] * warps, limit)


def _by_registers(warps: int, registers: int) -> int:
    """Warps are spread over the quarters, and none takes registers of two."""
    of_a_warp = max(1, math.ceil(registers * WARP / REGISTER_UNIT)) * REGISTER_UNIT
    of_a_quarter = REGISTERS // QUARTERS // of_a_warp
    fits = registers <= MOST_OF_A_THREAD and math.ceil(warps / QUARTERS) <= of_a_quarter
    return of_a_quarter * QUARTERS // warps if fits else 0


def _by_shared_memory(limits: Limits, shared_bytes: int) -> int:
    if shared_bytes > limits.shared_of_block:
        return 0
    of_a_block = shared_bytes + limits.shared_reserved
    of_a_block = math.ceil(of_a_block / limits.shared_unit) * limits.shared_unit
    return limits.shared // of_a_block if of_a_block else limits.blocks
