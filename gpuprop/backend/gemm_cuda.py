"""Products of CuPy arrays, by cuBLAS: legal while a stream is captured, and without copies of transposes."""

from __future__ import annotations

import contextlib
import functools
from typing import Any

import numpy as np

from . import cublas, cublaslt, cuda_setup
from .arrays import Array, get_xp
from .gemm_layout import KEPT, Plan, Shape, fits, plan
from .half import is_half

EPILOGUE_TYPES = ("float32", "float16", "bfloat16")


def matmul(a: Array, b: Array, out: Array | None, tf32: bool) -> Array:
    """a b for CuPy arrays (..., M, K) and (..., K, N), in NumPy's types. Half types, and float32 into
    which half types are written, are added up in float32."""
    if a.ndim == 1 or b.ndim == 1:
        return _of_vectors(a, b, out, tf32)
    if a.shape[-1] != b.shape[-2]:
        raise ValueError(f"matmul: {tuple(a.shape)} and {tuple(b.shape)} do not fit: {a.shape[-1]} columns "
                         f"and {b.shape[-2]} rows")  # fmt: skip
    cupy = cuda_setup.import_cupy()
    dtype = np.result_type(a.dtype, b.dtype)
    if dtype.name not in cublas.DATA_TYPES:  # whole and complex numbers, which are never trained
        return cupy.matmul(a, b, out=out)
    lead = np.broadcast_shapes(a.shape[:-2], b.shape[:-2])
    shape = (*lead, a.shape[-2], b.shape[-1])
    if out is not None and tuple(out.shape) != shape:
        raise ValueError(f"matmul: out has shape {tuple(out.shape)}, the product {shape}")
    if b.ndim == 2 and a.ndim > 2 and a.flags.c_contiguous and out is None:  # one large product
        return matmul(a.reshape(-1, a.shape[-1]), b, None, tf32).reshape(shape)
    direct = out is not None and (out.dtype == dtype or (is_half(dtype) and out.dtype == np.float32))
    y = out if out is not None and direct else cupy.empty(shape, dtype)
    if y.size:
        _into(a.astype(dtype, copy=False), b.astype(dtype, copy=False), y, tf32)
    if out is None or y is out:
        return y
    out[...] = y
    return out


def _into(a: Array, b: Array, y: Array, tf32: bool) -> None:
    if not a.shape[-1]:
        y.fill(0)
        return
    cupy, lead = cuda_setup.import_cupy(), tuple(y.shape[:-2])
    a, b = (readable(x, lead) for x in (a, b))
    how = plan_of(a, b, y)
    target = y
    if how is None:
        target = cupy.empty(y.shape, y.dtype)
        how = plan_of(a, b, target)
        assert how is not None, (a.strides, b.strides)
    p, q = (b, a) if how.swapped else (a, b)
    with on_device_of(y):
        cublas.gemm(y.device.id, how, p, q, target, cublas.compute_type(a.dtype, tf32))
    if target is not y:
        y[...] = target


def readable(x: Array, lead: Shape) -> Array:
    """x, or a copy of it that cuBLAS can read as a batch of the axes `lead`."""
    if fits(tuple(x.shape), _in_elements(x.strides, x.dtype.itemsize), lead):
        return x
    cupy = cuda_setup.import_cupy()
    x = cupy.ascontiguousarray(x)
    if not fits(tuple(x.shape), _in_elements(x.strides, x.dtype.itemsize), lead):
        x = cupy.ascontiguousarray(cupy.broadcast_to(x, (*lead, *x.shape[-2:])))
    return x


@functools.lru_cache(KEPT)
def _in_elements(strides: tuple[int, ...], size: int) -> tuple[int, ...]:
    """Strides in elements of `size` bytes."""
    return tuple(step // size for step in strides)


def plan_of(a: Array, b: Array, y: Array) -> Plan | None:
    lies = [(tuple(x.shape), _in_elements(x.strides, x.dtype.itemsize)) for x in (a, b, y)]
    return plan(*lies)


def on_device_of(x: Array) -> Any:
    """The GPU of x as the current one, inside."""
    cupy = cuda_setup.import_cupy()
    if cupy.cuda.runtime.getDevice() == x.device.id:
        return contextlib.nullcontext()
    return cupy.cuda.Device(x.device.id)


def _of_vectors(a: Array, b: Array, out: Array | None, tf32: bool) -> Array:
    """As in NumPy, a vector is a row on the left and a column on the right, and its axis is dropped."""
    left, right = a.ndim == 1, b.ndim == 1
    y = matmul(a[None] if left else a, b[:, None] if right else b, None, tf32)
    y = y[..., 0] if right else y
    y = (y[..., 0] if right else y[..., 0, :]) if left else y
    if out is None:
        return y
    out[...] = y
    return out


def affine(a: Array, b: Array, bias: Array | None, activation: str | None, tf32: bool) -> Array | None:
    """f(a b + bias) in one launch, for matrices; see `gemm.affine`."""
    name = "_".join(part for part in (activation, "bias" if bias is not None else None) if part)
    if name not in cublaslt.EPILOGUES or not _alike(a, b, bias):
        return None
    y = cuda_setup.import_cupy().empty((a.shape[0], b.shape[1]), a.dtype)
    return y if _with_epilogue(a, b, y, tf32, name, bias) else None


def activated(
    a: Array, b: Array, bias: Array | None, activation: str, tf32: bool
) -> tuple[Array, Array] | None:
    """See `gemm.activated`."""
    if not _alike(a, b, bias) or not a.shape[0] or not b.shape[1]:
        return None
    name = f"{activation}_aux" + ("" if bias is None else "_bias")
    y = cuda_setup.import_cupy().empty((a.shape[0], b.shape[1]), a.dtype)
    aux = beside(y, activation)
    return (y, aux) if _with_epilogue(a, b, y, tf32, name, bias, aux) else None


def beside(y: Array, activation: str) -> Array:
    """See `gemm.beside`."""
    ld = cublaslt.aux_ld(activation, y.shape[1])
    relu = activation == "relu"
    shape = (y.shape[0], ld // 8 if relu else ld)
    return get_xp(y).empty(shape, np.uint8 if relu else y.dtype)


def behind(
    dy: Array, weight: Array, aux: Array, activation: str, scale: float, sums: Array | None, tf32: bool
) -> Array | None:
    """See `gemm.behind`."""
    if not _alike(dy, weight, sums) or dy.shape[1] == 1:  # no algorithm takes an inner length of 1
        return None
    if aux.shape[1] * (8 if activation == "relu" else 1) != cublaslt.aux_ld(activation, weight.shape[1]):
        return None
    name = f"d{activation}" + ("" if sums is None else "_bgrad")
    dz = cuda_setup.import_cupy().empty((dy.shape[0], weight.shape[1]), dy.dtype)
    return dz if _with_epilogue(dy, weight, dz, tf32, name, sums, aux, scale) else None


def with_bias(a: Array, b: Array, bias: Array, out: Array, tf32: bool) -> bool:
    """See `gemm.with_bias`."""
    if not _alike(a[0], b, bias) or out.dtype != a.dtype:
        return False
    return _with_epilogue(a, b, out, tf32, "bias", bias)


def with_sums(a: Array, b: Array, out: Array, sums: Array, tf32: bool) -> bool:
    """See `gemm.with_sums`."""
    if not _alike(a, b, None) or sums.dtype != out.dtype or not sums.flags.c_contiguous:
        return False
    how = plan_of(a, b, out)
    if how is None or how.batch != 1:
        return False
    return _with_epilogue(a, b, out, tf32, "sums_p" if how.swapped else "sums_q", sums)


def _with_epilogue(
    a: Array, b: Array, y: Array, tf32: bool, name: str, bias: Array | None, aux: Array | None = None,
    scale: float = 1.0,
) -> bool:  # fmt: skip
    if not y.size or not a.shape[-1]:
        return False
    a, b = (readable(x, tuple(y.shape[:-2])) for x in (a, b))
    how = plan_of(a, b, y)
    if how is None or (name not in ("sums_p", "sums_q") and not how.swapped):
        return False  # a bias runs along the rows of D
    p, q = (b, a) if how.swapped else (a, b)
    compute = cublas.compute_type(a.dtype, tf32)
    with on_device_of(y):
        return cublaslt.run(y.device.id, how, p, q, y, compute, name, bias, aux, scale)


def _alike(a: Array, b: Array, bias: Array | None) -> bool:
    """Two matrices, and a vector, of one type that cublasLt has epilogues for."""
    if a.ndim != 2 or b.ndim != 2 or a.dtype != b.dtype or a.dtype.name not in EPILOGUE_TYPES:
        return False
    return bias is None or (bias.dtype == a.dtype and bias.flags.c_contiguous)
