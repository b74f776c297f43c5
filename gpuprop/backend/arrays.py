"""Arrays on either device: which module made one, moving it, and exchange with other libraries (DLPack).

An array is a NumPy or a CuPy ndarray; its type decides dispatch. Nothing here imports CuPy unless a GPU is
used.
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable
from typing import Any

import numpy as np

from gpuprop.backend import cuda_setup
from gpuprop.backend.device import Device, get_device, resolve
from gpuprop.backend.recording import recording
from gpuprop.errors import DataError, DeviceError

Array = Any
_DLPACK_CPU = (1, 3)  # kDLCPU, kDLCUDAHost
_DLPACK_CUDA = (2, 13)  # kDLCUDA, kDLCUDAManaged


def is_cupy(a: Any) -> bool:
    """True for a CuPy array."""
    return isinstance(a, getattr(sys.modules.get("cupy"), "ndarray", ()))


def cupy_array() -> Any:
    """The class of CuPy's arrays, for `isinstance`; without CuPy imported there are none, and this is ()."""
    return getattr(sys.modules.get("cupy"), "ndarray", ())


def get_xp(*arrays: Any) -> Any:
    """The module (numpy or cupy) of the arrays; values that are no arrays (numbers, None) have no say.

    NumPy and CuPy arrays together raise DeviceError. Without any array the answer is numpy.
    """
    cupy = sys.modules.get("cupy")
    if cupy is None:
        return np
    of_cupy = getattr(cupy, "ndarray", ())
    on_gpu = on_host = None
    for a in arrays:
        if isinstance(a, of_cupy):
            on_gpu = a
        elif isinstance(a, np.ndarray):
            on_host = a
    if on_gpu is None:
        return np
    if on_host is not None:
        raise DeviceError(
            f"arrays on different devices: {_describe(on_host)} and {_describe(on_gpu)}. "
            "Move one of them: tensor.to(device), model.to(device) or to_device(array, device)"
        )
    return cupy


def device_of(a: Array) -> Device:
    """The device that computes with `a`. A NumPy array is on "emulated" while that is the current device."""
    if is_cupy(a):
        return Device("cuda", a.device.id)
    current = get_device()
    return current if current.type == "emulated" else Device("cpu")


def to_device(a: Any, device: str | Device | None = None) -> Array:
    """`a` on `device` (the current one when None): the same array if it is there already, else a copy.

    A copy keeps the memory order of the axes.
    """
    target = get_device() if device is None else device if isinstance(device, Device) else resolve(device)
    if target.type != "cuda":
        return to_host(a)
    cupy = cuda_setup.import_cupy()
    a = asarray(a)
    if is_cupy(a) and a.device.id == target.index:
        return a
    now = recording()
    if now is not None and isinstance(a, np.ndarray):
        return now.constant(a)
    try:
        with cupy.cuda.Device(target.index):
            return _copy_in_order(a, lambda x: x.copy() if is_cupy(x) else cupy.asarray(x))
    except (cupy.cuda.runtime.CUDARuntimeError, cupy.cuda.memory.OutOfMemoryError) as error:
        raise cuda_setup.explain(error) from error


def to_host(a: Any) -> np.ndarray[Any, Any]:
    """`a` as a NumPy array: the same array if it is one, else a copy (which waits for the GPU)."""
    if isinstance(a, np.ndarray):
        return a
    a = asarray(a)
    result: np.ndarray[Any, Any] = _copy_in_order(a, lambda x: x.get()) if is_cupy(a) else a
    return result


def asarray(obj: Any) -> Array:
    """A NumPy or CuPy array over the memory of `obj`, on whichever device that is; a copy only where needed.

    Takes arrays of any library with __dlpack__, __cuda_array_interface__ or __array__ (PyTorch, JAX, pandas),
    numbers and nested lists; those keep NumPy's types (a float becomes float64).
    """
    if isinstance(obj, np.ndarray) or is_cupy(obj):
        return obj
    try:
        if hasattr(obj, "__cuda_array_interface__"):
            return cuda_setup.import_cupy().asarray(obj)
        if _is_dlpack(obj):
            return from_dlpack(obj)
        array = np.asarray(obj)
    except (BufferError, RuntimeError, TypeError, ValueError) as error:
        if isinstance(error, DeviceError):
            raise
        raise DataError(f"cannot read {type(obj).__name__} as an array: {error}") from error
    if array.dtype.kind in "OSUmM":
        raise DataError(f"cannot read {type(obj).__name__} as an array of numbers: it holds {array.dtype}")
    return array


def from_dlpack(obj: Any) -> Array:
    """The array behind `obj.__dlpack__`, sharing its memory: NumPy for the CPU's, CuPy for a GPU's."""
    kind, index = obj.__dlpack_device__()
    if kind in _DLPACK_CUDA:
        cupy = cuda_setup.import_cupy()
        with cupy.cuda.Device(index):
            return cupy.from_dlpack(obj)
    if kind not in _DLPACK_CPU:
        name = type(obj).__name__
        raise DeviceError(f"{name} is on a device of DLPack type {int(kind)}: move it to the CPU or CUDA")
    try:
        return np.from_dlpack(obj)
    except (BufferError, RuntimeError, TypeError):
        if not hasattr(obj, "__array__"):
            raise
        return np.asarray(obj)  # what DLPack cannot carry, such as read-only memory in its older versions


def to_dlpack(a: Array) -> Any:
    """A DLPack capsule over the memory of `a`, for libraries that want one; most take the array itself."""
    return a.__dlpack__()


def bfloat16() -> np.dtype[Any]:
    """The dtype bfloat16, on NumPy too; DeviceError with the fix when ml_dtypes is not installed."""
    try:
        dtype: np.dtype[Any] = np.dtype(importlib.import_module("ml_dtypes").bfloat16)
    except ModuleNotFoundError as error:
        raise DeviceError('bfloat16 arrays need ml_dtypes: pip install "gpuprop[half]"') from error
    return dtype


def _is_dlpack(obj: Any) -> bool:
    return hasattr(obj, "__dlpack__") and hasattr(obj, "__dlpack_device__")


def _describe(a: Array) -> str:
    kind, place = ("CuPy", f"cuda:{a.device.id}") if is_cupy(a) else ("NumPy", "cpu")
    return f"a {kind} array {a.dtype} {tuple(a.shape)} on {place}"


def _copy_in_order(a: Array, copy: Callable[[Array], Array]) -> Array:
    """copy(a), but with the axes in the order they have in memory: copies would make them C-ordered."""
    axes = sorted(range(a.ndim), key=lambda axis: -abs(a.strides[axis]))
    dense = a.transpose(axes)
    if a.flags.c_contiguous or not dense.flags.c_contiguous:
        return copy(a)
    return copy(dense).transpose(np.argsort(axes).tolist())
