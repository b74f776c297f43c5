"""Arrays of the fake CuPy."""

from __future__ import annotations

import sys
import types
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import real_cupy
from fake_machine import Chunk, bytes_of, machine_now


def host_of(x: Any, what: str) -> Any:
    """The memory of one of our arrays; numbers as they are. CuPy refuses NumPy arrays."""
    if isinstance(x, ndarray):
        return x.host
    if isinstance(x, np.ndarray):
        raise TypeError(f"Unsupported type {type(x)} for {what}")
    if isinstance(x, (tuple, list)):
        return type(x)(host_of(y, what) for y in x)
    return x


def places_of(*values: Any) -> list[int]:
    """Addresses of the memory that our arrays among the values are in."""
    found = []
    for x in values:
        if isinstance(x, ndarray):
            found.append(x.chunk.ptr)
        elif isinstance(x, (tuple, list)):
            found += places_of(*x)
    return found


def ones_like_meta(x: Any) -> Any:
    """What stands for an array while only the result's shape and type are asked for."""
    if isinstance(x, np.ndarray):
        value = np.zeros if x.dtype.kind in "iu" else np.ones  # an index of 0 is always there
        return np.broadcast_to(value((), x.dtype), x.shape)
    if isinstance(x, (tuple, list)):
        return type(x)(ones_like_meta(y) for y in x)
    return x


def run(name: str, function: Callable[..., Any], *args: Any, out: ndarray | None = None, **how: Any) -> Any:
    """function(*args) as one launch into new memory, or into `out`."""
    hosts = [host_of(x, name) for x in args]
    given, how = how, {key: host_of(x, name) for key, x in how.items()}
    with np.errstate(all="ignore"):
        like = np.asarray(
            function(*(ones_like_meta(x) for x in hosts), **{k: ones_like_meta(v) for k, v in how.items()})
        )
    y = new(like.shape, like.dtype) if out is None else out
    target = y.host
    if out is not None and np.broadcast_shapes(target.shape, like.shape) != target.shape:
        raise ValueError(f"{name}: {like.shape} does not fit into out {target.shape}")

    def work() -> None:
        with np.errstate(all="ignore"):
            target[...] = function(*hosts, **how)

    places = places_of(*args, *given.values(), y)
    machine_now().launch(name, work, bytes_of(*hosts, *how.values(), target), places=places)
    return y


def new(shape: Any, dtype: Any, order: str = "C") -> ndarray:
    shape = (shape,) if isinstance(shape, (int, np.integer)) else tuple(int(n) for n in shape)
    dtype = np.dtype(dtype)
    size = int(np.prod(shape, dtype=np.int64)) * dtype.itemsize
    chunk = machine_now().allocate(size)
    host = chunk.memory[:size].view(dtype).reshape(shape, order="F" if order == "F" else "C")
    return ndarray(host, chunk)


class Data:
    """`array.data`: where it lies."""

    def __init__(self, array: ndarray) -> None:
        self.ptr = array.host.ctypes.data if array.host.size else array.chunk.ptr
        self.mem = array.chunk


class ndarray:
    """cupy.ndarray, as far as gpuprop uses it. `host` is its memory, `chunk` what keeps that in use."""

    __array_priority__ = 100

    def __init__(self, host: np.ndarray, chunk: Chunk) -> None:
        self.host, self.chunk = host, chunk
        self.device = types.SimpleNamespace(id=0)

    shape = property(lambda self: self.host.shape)
    dtype = property(lambda self: self.host.dtype)
    ndim = property(lambda self: self.host.ndim)
    size = property(lambda self: self.host.size)
    nbytes = property(lambda self: self.host.nbytes)
    itemsize = property(lambda self: self.host.itemsize)
    strides = property(lambda self: self.host.strides)
    flags = property(lambda self: self.host.flags)
    data = property(lambda self: Data(self))
    T = property(lambda self: self.view_of(self.host.T))

    def view_of(self, host: np.ndarray) -> ndarray:
        return ndarray(host, self.chunk)

    # What the host reads
    def get(self, *_: Any, **__: Any) -> np.ndarray:
        machine_now().wait("get()")
        return self.host.copy()

    def item(self) -> Any:
        machine_now().wait("item()")
        return self.host.item()

    def tolist(self) -> Any:
        machine_now().wait("tolist()")
        return self.host.tolist()

    def __bool__(self) -> bool:
        machine_now().wait("the truth of an array")
        return bool(self.host)

    def __float__(self) -> float:
        machine_now().wait("float()")
        return float(self.host)

    def __int__(self) -> int:
        machine_now().wait("int()")
        return int(self.host)

    __index__ = __int__

    def __array__(self, *_: Any, **__: Any) -> np.ndarray:
        raise TypeError("Implicit conversion to a NumPy array is not allowed. Please use `.get()`")

    def set(self, arr: np.ndarray, stream: Any = None) -> None:
        machine = machine_now()
        machine.upload("set()")
        if arr.shape != self.shape or arr.dtype != self.dtype:
            raise ValueError(f"set() of {arr.dtype} {arr.shape} into {self.dtype} {self.shape}")
        if not (self.flags.c_contiguous or self.flags.f_contiguous):
            raise RuntimeError("Cannot set to non-contiguous array")
        now = machine.stream if stream is None else stream
        now.works("set()", [self.chunk.ptr])
        machine.order.copy(now.number, now.clock, arr)
        self.host[...] = arr
        if stream is None:  # CuPy then waits
            machine.wait("set()")

    def __len__(self) -> int:
        return len(self.host)

    def __iter__(self) -> Iterator[ndarray]:
        return iter([self[i] for i in range(len(self))])

    # Views
    def reshape(self, *shape: Any, order: str = "C") -> ndarray:
        shape = shape[0] if len(shape) == 1 and isinstance(shape[0], (tuple, list)) else shape
        view = self.host.reshape(shape)
        if np.may_share_memory(view, self.host) or not self.host.size:
            return self.view_of(view)
        return run("copy", lambda x: x.reshape(shape), self)

    def transpose(self, *axes: Any) -> ndarray:
        return self.view_of(self.host.transpose(*axes))

    def swapaxes(self, axis1: int, axis2: int) -> ndarray:
        return self.view_of(self.host.swapaxes(axis1, axis2))

    def view(self, dtype: Any) -> ndarray:
        return self.view_of(self.host.view(dtype))

    def ravel(self) -> ndarray:
        return self.reshape(-1)

    def squeeze(self, axis: Any = None) -> ndarray:
        return self.view_of(self.host.squeeze(axis))

    def __getitem__(self, key: Any) -> ndarray:
        if _is_basic(key):
            found = self.host[key]
            whole = (*key, ...) if isinstance(key, tuple) else (key, ...)
            return self.view_of(found if isinstance(found, np.ndarray) else self.host[whole])
        if _has_mask(key):  # the host waits for the length of the result, then it is a usual index
            machine_now().wait("an index of bools")
            where = host_of(key, "index")
            places = np.arange(self.size).reshape(self.shape)[where]
            return run("take", lambda x: x.reshape(-1)[places], self)
        return run("take", lambda x, *k: x[k], self, *(key if isinstance(key, tuple) else (key,)))

    def __setitem__(self, key: Any, value: Any) -> None:
        if isinstance(value, np.ndarray):  # CuPy fills with it
            if value.ndim:
                raise ValueError("non-scalar numpy.ndarray cannot be used for fill")
            value = value[()]
        if _has_mask(key):  # CuPy asks how many elements it is
            machine_now().wait("an index of bools")
        target = self.host
        where, what = host_of(key, "setitem"), host_of(value, "setitem")

        def work() -> None:
            with np.errstate(all="ignore"):
                target[where] = what

        places = where if isinstance(where, tuple) else (where,)
        moved = bytes_of(what, *((self.host[key],) if _is_basic(key) else (what, *places)))
        machine_now().launch("copy", work, moved, places=places_of(self, key, value))

    # New arrays
    def copy(self, order: str = "C") -> ndarray:
        return run("copy", np.array, self)

    def astype(
        self, dtype: Any, order: str = "K", casting: Any = None, subok: Any = None, copy: bool = True
    ) -> ndarray:
        if not copy and self.dtype == np.dtype(dtype):
            return self
        return run("astype", lambda x: x.astype(dtype), self)

    def fill(self, value: Any) -> None:
        if np.shape(host_of(value, "fill")) != ():
            raise ValueError("non-scalar cupy.ndarray cannot be used for fill")
        places = places_of(self, value)
        target, value = self.host, host_of(value, "fill")
        machine_now().launch("fill", lambda: target.fill(value), bytes_of(value, target), places=places)


def _is_basic(key: Any) -> bool:
    parts = key if isinstance(key, tuple) else (key,)
    return not any(isinstance(p, (ndarray, list, np.ndarray)) for p in parts)


def _has_mask(key: Any) -> bool:
    parts = key if isinstance(key, tuple) else (key,)
    return any(isinstance(p, ndarray) and p.dtype == bool for p in parts)


def _binary(name: str, ufunc: Any) -> tuple[Any, Any, Any]:
    def forward(self: ndarray, other: Any) -> Any:
        return run(name, ufunc, self, other)

    def reflected(self: ndarray, other: Any) -> Any:
        if isinstance(other, np.ndarray):
            raise TypeError(f"Unsupported type {type(other)}")
        return run(name, ufunc, other, self)

    def in_place(self: ndarray, other: Any) -> Any:
        return run(name, lambda a, b: ufunc(a, b).astype(a.dtype, copy=False), self, other, out=self)

    return forward, reflected, in_place


for _name, _ufunc in {
    "add": np.add, "sub": np.subtract, "mul": np.multiply, "truediv": np.true_divide, "pow": np.power,
    "floordiv": np.floor_divide, "mod": np.remainder, "and": np.bitwise_and, "or": np.bitwise_or,
    "xor": np.bitwise_xor,
}.items():  # fmt: skip
    _methods = _binary(_name, _ufunc)
    for _prefix, _method in zip(("", "r", "i"), _methods, strict=True):
        setattr(ndarray, f"__{_prefix}{_name}__", _method)
for _name, _ufunc in {
    "lt": np.less, "le": np.less_equal, "gt": np.greater, "ge": np.greater_equal, "eq": np.equal,
    "ne": np.not_equal,
}.items():  # fmt: skip
    setattr(ndarray, f"__{_name}__", _binary(_name, _ufunc)[0])
for _name, _ufunc in {"neg": np.negative, "invert": np.invert, "abs": np.abs}.items():
    setattr(ndarray, f"__{_name}__", lambda self, n=_name, u=_ufunc: run(n, u, self))
for _name in ("sum", "mean", "max", "min", "argmax", "any", "all", "clip", "cumsum", "prod"):

    def _method_of(self: ndarray, *args: Any, _name: str = _name, **how: Any) -> Any:
        real_cupy.check(f"ndarray.{_name}", args, how)
        return getattr(sys.modules["cupy"], _name)(self, *args, **how)

    setattr(ndarray, _name, _method_of)
for _name in ("dot", "__matmul__", "__rmatmul__", "__imatmul__"):

    def _refused(self: ndarray, *args: Any, _name: str = _name, **how: Any) -> Any:
        raise AssertionError(f"{_name} of a CuPy array goes around gpuprop.backend.gemm")

    setattr(ndarray, _name, _refused)
ndarray.__hash__ = object.__hash__  # type: ignore[method-assign]


def asarray(a: Any, dtype: Any = None, order: str = "C") -> ndarray:
    if isinstance(a, ndarray):
        return a if dtype is None else a.astype(dtype, copy=False)
    if isinstance(a, (tuple, list)) and any(isinstance(x, ndarray) for x in a):
        return stack_of(a)
    host = np.asarray(a, dtype=dtype)
    if host.ndim:
        machine_now().upload("asarray")
    elif machine_now().capture is not None and isinstance(a, np.ndarray):
        machine_now().upload("asarray of a number")
    y = new(host.shape, host.dtype)
    if host.ndim:
        y.host[...] = host
    else:
        y.fill(host[()])
    return y


def stack_of(arrays: Any) -> ndarray:
    return run("stack", lambda *a: np.stack(a), *arrays)
