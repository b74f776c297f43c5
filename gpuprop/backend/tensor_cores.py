"""Where kernels multiply on tensor cores through kernels/tensor_core.cuh."""

from __future__ import annotations

import functools
import sys
from typing import Any

import numpy as np

from .arrays import Array, is_cupy
from .gemm import get_matmul_precision
from .half import is_half

LEAST_CAPABILITY = 8  # the first major compute capability that has all of tensor_core.cuh


def multiply(dtype: Any) -> bool:
    """Whether products of this type are for tensor cores: half types, and float32 in TF32 after
    `set_matmul_precision("high")`."""
    return is_half(dtype) or (dtype == np.float32 and get_matmul_precision() == "high")


def there(like: Array) -> bool:
    """Whether the GPU of `like` has them; the emulator does."""
    return not is_cupy(like) or _capability(like.device.id) >= LEAST_CAPABILITY


@functools.cache
def _capability(gpu: int) -> int:
    return int(sys.modules["cupy"].cuda.Device(gpu).compute_capability[:-1])  # "90", "120"
