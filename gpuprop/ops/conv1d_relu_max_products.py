"""Maximum over time of convolutions that a product of cuBLAS stores (conv1d_relu_max_products.cu), for where
tensor cores are worth it: in half types, and float32 with `set_matmul_precision("high")`."""

from __future__ import annotations

import math
from typing import Any

from ..backend import kernels, tensor_cores
from ..backend.arrays import Array, is_cupy
from ..backend.instantiations import PACK
from ..backend.kernel_memory import aligned
from . import conv1d_products
from .windows import Geometry, Width

THREADS, MOST_BLOCKS = 256, 65536


def suits(x: Array, weight: Array, width: Width) -> bool:
    """Whether the convolution of x (B, L, C) with weight (K, C, F) is a product for tensor cores."""
    return is_cupy(x) and pays(x.shape, x.dtype, weight.shape, _geometry(width))


def pays(shape: tuple[int, ...], dtype: Any, filters: tuple[int, ...], at: Geometry) -> bool:
    """Whether a product is the faster way on a GPU for x (B, L, C), weight (K, C, F) of these shapes: where
    tensor cores compute it, and it is worth its launches (estimated)."""
    return tensor_cores.multiply(dtype) and conv1d_products.pays(shape, filters, at)


def forward(
    x: Array, weight: Array, bias: Array | None, mask: Array | None, width: Width, y: Array, winner: Array
) -> None:
    """Set the columns of y (B, ΣF) and winner (B, ΣF) that belong to one width."""
    c, rows = conv1d_products.outputs(x, weight, bias, _geometry(width))
    largest(c, rows, x.shape[1], mask, width, y, winner)


def largest(
    c: Array, rows: int, length: int, mask: Array | None, width: Width, y: Array, winner: Array
) -> None:
    """`forward` of c (at least B · rows, F), whose row b · rows + t is window t of text b, with its bias."""
    (batch, features), size = y.shape, c.dtype.itemsize
    pack = PACK // size if width.out * size % PACK == 0 and aligned(c) else 1
    windows = _geometry(width).out_length(length, width.kernel)
    sizes = (batch, length, rows, windows, width.kernel, width.left, width.out, features, width.feature)
    grid = min(batch * math.ceil(width.out / (32 * pack)), MOST_BLOCKS)
    name = f"conv1d_relu_max_largest<{', '.join(kernels.c_types(c.dtype))}, {pack}>"
    kernels.project("conv1d_relu_max_products", name)(grid, THREADS, (c, mask, y, winner, *sizes))


def _geometry(width: Width) -> Geometry:
    return Geometry(1, (width.left, width.right), 1, 1)
