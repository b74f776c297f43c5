"""A kernel's parameters, and packing NumPy arrays and scalars for them."""

from __future__ import annotations

import ctypes
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from gpuprop.errors import KernelError

_KINDS = {"f": "float", "i": "int", "u": "uint"}


@dataclass(frozen=True)
class Array:
    """Memory an argument gives the kernel."""

    address: int
    bytes: int
    name: str
    read_only: bool


@dataclass
class Packed:
    """Arguments in the form the runtime takes: a pointer to each value."""

    pointers: Any
    arrays: list[Array]
    keep: list[Any]  # what the pointers point at
    addresses: list[Any]  # of `keep`, those that hold an array's address
    scalars: list[Any]  # of `keep`, the values of the other parameters


@dataclass(frozen=True)
class Parameter:
    """One parameter. kind: as in kernel_table.h; size: bytes of the value, or of what is pointed at."""

    label: str  # "argument 2 'weight'"
    pointer: bool
    read_only: bool
    kind: str
    size: int

    def wanted(self) -> str:
        """The NumPy type this parameter takes."""
        if self.kind in _KINDS:
            return f"{_KINDS[self.kind]}{8 * self.size}"
        return {"b": "bool", "B": "bfloat16", "v": "any type"}.get(self.kind, f"a type of {self.size} bytes")

    def accepts(self, dtype: np.dtype[Any]) -> bool:
        """Whether an array (or a scalar) of `dtype` is what the kernel reads."""
        if self.kind == "v":
            return True
        if self.kind == "V":  # a vector or struct: its members' type is not known here
            return self.pointer or dtype.itemsize == self.size
        if self.kind == "B":
            return dtype.name == "bfloat16" or (self.pointer and dtype == np.uint16)
        return dtype.name == self.wanted()


@dataclass(frozen=True)
class Signature:
    """A kernel's parameters, as its C++ types say."""

    name: str
    parameters: tuple[Parameter, ...]

    @classmethod
    def parse(cls, name: str, codes: str, names: Sequence[str]) -> Signature:
        """From the codes of kernel_table.h, with the parameters' names where the source shows them."""
        parameters = []
        for i, code in enumerate(codes.split()):
            match = re.fullmatch(r"([cP]*)([fiubBVv])(\d+)", code)
            if match is None:
                raise KernelError(f"{name}: unknown parameter code {code!r}")
            label = f"argument {i}" + (f" '{names[i]}'" if len(names) > i and names[i] else "")
            kind, size = (match[2], int(match[3])) if len(match[1]) < 2 else ("u", 8)  # a table of pointers
            parameters.append(Parameter(label, bool(match[1]), match[1][:1] == "c", kind, size))
        return cls(name, tuple(parameters))

    def pack(self, args: Sequence[Any]) -> Packed:
        """KernelError for a wrong number, type or layout of arguments."""
        if len(args) != len(self.parameters):
            raise KernelError(f"{self.name} takes {len(self.parameters)} arguments, {len(args)} given")
        pointers = (ctypes.c_void_p * max(1, len(args)))()
        packed = Packed(pointers, [], [], [], [])
        for i, (value, parameter) in enumerate(zip(args, self.parameters, strict=True)):
            if parameter.pointer:
                kept = self._array(value, parameter, packed)
            else:
                kept = self._scalar(value, parameter)
                packed.scalars.append(kept)
            packed.keep.append(kept)
            pointers[i] = kept.ctypes.data
        packed.arrays = _merged(packed.arrays)
        return packed

    def _array(self, value: Any, parameter: Parameter, packed: Packed) -> Any:
        where = f"{self.name}, {parameter.label}"
        if value is None:
            return np.zeros(1, np.uint64)
        if not isinstance(value, np.ndarray):
            raise KernelError(f"{where}: an array of {parameter.wanted()} or None is wanted, got {value!r}")
        if not parameter.accepts(value.dtype):
            raise KernelError(f"{where}: an array of {parameter.wanted()} is wanted, got {value.dtype}")
        if not value.flags.c_contiguous:
            raise KernelError(
                f"{where}: the array is not C-contiguous (shape {value.shape}, strides {value.strides}); "
                "pass numpy.ascontiguousarray(...)"
            )
        if not parameter.read_only and not value.flags.writeable:
            raise KernelError(f"{where}: the array is read-only and the kernel may write to it")
        packed.arrays.append(Array(value.ctypes.data, value.nbytes, parameter.label, parameter.read_only))
        packed.keep.append(value)
        packed.addresses.append(np.array([value.ctypes.data], np.uint64))
        return packed.addresses[-1]

    def _scalar(self, value: Any, parameter: Parameter) -> Any:
        where = f"{self.name}, {parameter.label}"
        if value is None or (isinstance(value, np.ndarray) and value.ndim > 0):
            raise KernelError(
                f"{where}: a NumPy scalar of {parameter.wanted()} is wanted, got {type(value).__name__}"
            )
        array = np.asarray(value)
        if not isinstance(value, np.generic | np.ndarray) or not parameter.accepts(array.dtype):
            got = (
                f"numpy.{array.dtype.name}"
                if isinstance(value, np.generic | np.ndarray)
                else type(value).__name__
            )
            raise KernelError(
                f"{where}: a NumPy scalar of {parameter.wanted()} is wanted, got {got} {value!r}"
            )
        return np.ascontiguousarray(array).reshape(1)


def _merged(arrays: list[Array]) -> list[Array]:
    """One entry for memory that is given twice; it may be written when any of the parameters allows it."""
    merged: dict[tuple[int, int], Array] = {}
    writable = [(array.address, array.address + array.bytes) for array in arrays if not array.read_only]
    for array in arrays:
        key = (array.address, array.bytes)
        if array.read_only and any(a < key[0] + key[1] and key[0] < b for a, b in writable):
            array = replace(array, read_only=False)
            if key in merged:
                continue
        if key not in merged or not array.read_only:
            merged[key] = array
    # Larger ones first: a part of an array that is also given whole is found within the whole.
    return sorted(merged.values(), key=lambda array: -array.bytes)
