"""What CUDA refuses to launch. The numbers: CUDA C++ Programming Guide, appendix on compute capabilities."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence

from gpuprop.errors import BuildError, KernelError

MAX_THREADS = 1024
MAX_BLOCK = (1024, 1024, 64)
MAX_GRID = (2**31 - 1, 65535, 65535)
_INVALID = "CUDA_ERROR_INVALID_VALUE: invalid argument"
MAX_CLUSTER = 8  # blocks; more need an attribute that CuPy does not set
STATIC_SHARED = 48 << 10
# Shared memory a block can have after opting in, in KB.
_SHARED_KB = {
    70: 96,
    72: 96,
    75: 64,
    80: 163,
    86: 99,
    87: 163,
    88: 99,
    89: 99,
    90: 227,
    100: 227,
    101: 227,
    103: 227,
    110: 227,
    120: 99,
    121: 99,
}


def architecture(options: Sequence[str], default: int = 90) -> int:
    """The compute capability that the options name (-arch=sm_80 is 80), else `default`."""
    for option in options:
        found = re.fullmatch(r"(?:-arch|--gpu-architecture)=(?:sm|compute)_(\d+)[af]?", option)
        if found:
            arch = int(found[1])
            if arch not in _SHARED_KB:
                raise BuildError(
                    f"{option}: unknown architecture; known are sm_{', sm_'.join(map(str, _SHARED_KB))}"
                )
            return arch
    return default


def three(values: Sequence[int] | int, what: str) -> tuple[int, int, int]:
    """`values` as three sizes."""
    sizes = (values,) if isinstance(values, int) else tuple(int(v) for v in values)
    if not 1 <= len(sizes) <= 3:
        raise KernelError(f"a {what} has one to three sizes, not {sizes}")
    x, y, z = (*sizes, 1, 1)[:3]
    return x, y, z


def check_launch(
    name: str, grid: tuple[int, int, int], block: tuple[int, int, int], static: int, dynamic: int, arch: int
) -> None:
    """KernelError with CUDA's own error where it would refuse this launch."""
    threads = math.prod(block)
    for what, sizes, most in (("grid", grid, MAX_GRID), ("block", block, MAX_BLOCK)):
        for axis, size, limit in zip("xyz", sizes, most, strict=True):
            if not 1 <= size <= limit:
                raise KernelError(f"{name}: {_INVALID}: {what} {axis} is {size}, it must be 1 to {limit}")
    if threads > MAX_THREADS:
        raise KernelError(
            f"{name}: {_INVALID}: block {block} has {threads} threads, the limit is {MAX_THREADS}"
        )
    if static > STATIC_SHARED:
        raise KernelError(
            f"{name}: ptxas error: uses too much shared data ({static:#x} bytes, {STATIC_SHARED:#x} max): "
            "use dynamic shared memory for more than 48 KB"
        )
    most_shared = _SHARED_KB[arch] << 10
    if dynamic < 0 or static + dynamic > most_shared:
        raise KernelError(
            f"{name}: {_INVALID}: {static} bytes of static and {dynamic} of dynamic shared memory, "
            f"a block on sm_{arch} has {most_shared}"
        )


def check_bounds(name: str, block: tuple[int, int, int], most: int) -> None:
    """KernelError when a block has more threads than the kernel's __launch_bounds__ (0: it has none)."""
    threads = math.prod(block)
    if most and threads > most:
        raise KernelError(
            f"{name}: CUDA refuses this launch: block {block} has {threads} threads, "
            f"the kernel's __launch_bounds__ allow {most}"
        )


def cluster_of(
    name: str,
    declared: tuple[int, int, int],
    given: Sequence[int] | int | None,
    grid: tuple[int, int, int],
    arch: int,
) -> tuple[int, int, int]:
    """The blocks of a cluster of this launch. KernelError with CUDA's own error where it would refuse it."""
    if given is not None and declared != (1, 1, 1) and three(given, "cluster") != declared:
        raise KernelError(f"{name}: {_INVALID}: cluster {given}, its __cluster_dims__ are {declared}")
    cluster = declared if given is None else three(given, "cluster")
    if cluster == (1, 1, 1):
        return cluster
    if min(cluster) < 1 or math.prod(cluster) > MAX_CLUSTER:
        raise KernelError(
            f"{name}: CUDA_ERROR_INVALID_CLUSTER_SIZE: cluster {cluster} has {math.prod(cluster)} blocks, it "
            f"must have 1 to {MAX_CLUSTER}"
        )
    if arch < 90:
        raise KernelError(f"{name}: CUDA refuses this launch: clusters need sm_90, this is sm_{arch}")
    if any(blocks % size for blocks, size in zip(grid, cluster, strict=True)):
        raise KernelError(
            f"{name}: CUDA_ERROR_INVALID_CLUSTER_SIZE: grid {grid} is not a multiple of cluster {cluster}"
        )
    return cluster
