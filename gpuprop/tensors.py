"""Tensor, an array with a place on the tape, and Parameter, one that is trained."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from .backend.arrays import Array, asarray, device_of, get_xp, to_device, to_host
from .backend.device import Device, get_device, resolve
from .backend.recording import ones
from .backprop import Edge, Leaf, backward_from
from .row_gradient import RowGradient
from .tensor_methods import TensorMethods


class Tensor(TensorMethods):
    """An array with a place on the tape.

    data: a NumPy or CuPy array; grad: an array of the same shape after `backward`, or None; a `RowGradient`
    for a table of which only rows have one (`nn.Embedding(sparse=True)`).
    Arithmetic, reductions and shapes are methods as in NumPy; see `gpuprop.ops`.
    """

    __slots__ = ("__weakref__", "_checks", "_leaf", "data", "edge")
    __array_ufunc__ = None  # NumPy arrays on the left hand the operator over to us

    def __init__(self, data: Array, edge: Edge | None = None) -> None:
        self.data = data
        self.edge = edge
        self._leaf: Leaf | None = None
        self._checks: tuple[Callable[[], None], ...] = ()

    @property
    def shape(self) -> tuple[int, ...]:
        return tuple(self.data.shape)

    @property
    def ndim(self) -> int:
        return int(self.data.ndim)

    @property
    def size(self) -> int:
        return int(self.data.size)

    @property
    def dtype(self) -> Any:
        return self.data.dtype

    @property
    def device(self) -> Device:
        return device_of(self.data)

    @property
    def requires_grad(self) -> bool:
        return self.edge is not None

    @requires_grad.setter
    def requires_grad(self, wanted: bool) -> None:
        if wanted and self.edge is None:
            if self.data.dtype.kind != "f" and str(self.data.dtype) != "bfloat16":
                raise TypeError(f"only floating-point tensors have gradients, not {self.data.dtype}")
            if self._leaf is None:
                self._leaf = Leaf(self.shape, self.data.dtype)
            self.edge = (self._leaf, 0)
        elif not wanted and self.edge is not None:
            if self._leaf is None:
                raise RuntimeError("a computed tensor cannot stop requiring its gradient: use detach()")
            self._leaf.grad = self.edge = None  # the leaf stays, and with it the optimizer's memory for it

    @property
    def grad(self) -> Array | RowGradient | None:
        if self._leaf is None or self._leaf.grad is None:
            return None
        self._leaf.seen = True
        return self._leaf.grad

    @grad.setter
    def grad(self, value: Array | RowGradient | None) -> None:
        if self._leaf is None:
            raise RuntimeError("only leaves (parameters, tensors with requires_grad=True) keep a gradient")
        self._leaf.grad = None
        if value is not None:
            self._leaf.accumulate(value)

    def add_check(self, check: Callable[[], None]) -> Tensor:
        """Run `check` when the value is next read by the host (labels out of range on a GPU, say), so that
        no step has to wait for the device. Returns self."""
        self._checks = (*self._checks, check)
        return self

    def numpy(self) -> np.ndarray[Any, Any]:
        """The value on the host (no copy where it already is there). Waits for the device."""
        host = to_host(self.data)
        checks, self._checks = self._checks, ()
        for check in checks:
            check()
        return host

    def item(self) -> Any:
        """The value of a tensor of one element as a Python number. Waits for the device."""
        return self.numpy().item()

    def detach(self) -> Tensor:
        """The same data without the tape."""
        return Tensor(self.data)

    def to(self, device: str | Device) -> Tensor:
        """A copy on another device (self when already there). The copy is a leaf without gradient."""
        data = to_device(self.data, resolve(device))
        return self if data is self.data else Tensor(data)

    def backward(self, grad: Array | None = None) -> None:
        """Add dL/dx to the `grad` of every leaf x that this tensor was computed from.

        grad: dL/d(self), of this tensor's shape, also from the host; one for a tensor of one element.
        """
        if self.edge is None:
            raise RuntimeError("nothing to differentiate: no input of this tensor requires a gradient")
        if grad is None:
            if self.size != 1:
                raise RuntimeError(f"backward() of a tensor of shape {self.shape} needs a grad of that shape")
            grad = ones(get_xp(self.data), self.data)
        else:
            grad = to_device(grad.data if isinstance(grad, Tensor) else grad, self.device)
        if tuple(grad.shape) != self.shape:
            raise RuntimeError(
                f"backward() got a grad of shape {tuple(grad.shape)} for a tensor of shape {self.shape}"
            )
        backward_from(self.edge, grad)

    def __len__(self) -> int:
        return int(self.data.shape[0])

    def __bool__(self) -> bool:
        return bool(self.numpy())

    def __float__(self) -> float:
        return float(self.item())

    def __int__(self) -> int:
        return int(self.item())

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray[Any, Any]:
        return np.asarray(self.numpy(), dtype=dtype)

    def __dlpack__(self, **options: Any) -> Any:
        return self.data.__dlpack__(**options)

    def __dlpack_device__(self) -> Any:
        return self.data.__dlpack_device__()

    def __repr__(self) -> str:
        body = np.array2string(to_host(self.data), precision=4, threshold=20, separator=", ")
        grad = ", requires_grad=True" if self.requires_grad else ""
        return f"Tensor({body}, dtype={self.dtype}, device='{self.device}'{grad})"


class Parameter(Tensor):
    """A leaf that is trained.

    data: values on the host (array, tensor, list, number), which go to the current device, or an array of a
    GPU, which stays there. Python floats become float32.
    order: the memory order of the axes when it differs from what users see. `Linear.weight` is shown as
    (out, in) and kept as (in, out) with order (1, 0), because that product is faster on both devices.
    master: the float32 values while `data` is a copy of them in a half type (mixed precision), else None.
    """

    __slots__ = ("master", "order")

    def __init__(self, data: Any, order: tuple[int, ...] | None = None) -> None:
        data = _values(data)
        if isinstance(data, np.ndarray):
            data = to_device(data, get_device())
        super().__init__(data)
        self.master: Array | None = None
        self.order = order if order is not None else tuple(range(data.ndim))
        self.requires_grad = True
        self.data = self.in_memory_order(data)

    @property
    def leaf(self) -> Leaf:
        assert self._leaf is not None
        return self._leaf

    def in_memory_order(self, values: Array) -> Array:
        """`values` (shape as users see it) laid out in this parameter's memory order."""
        xp = get_xp(values)
        return self.as_seen(xp.ascontiguousarray(values.transpose(self.order)))

    def as_seen(self, stored: Array) -> Array:
        """A view, shaped as users see it, of memory in this parameter's order."""
        inverse = sorted(range(len(self.order)), key=self.order.__getitem__)
        return stored.transpose(inverse)

    def __repr__(self) -> str:
        return f"Parameter(shape={self.shape}, dtype={self.dtype}, device='{self.device}')"


def tensor(
    data: Any, *, requires_grad: bool = False, dtype: Any = None, device: str | Device | None = None
) -> Tensor:
    """A tensor on `device` (default: the current one) from an array, a DLPack object, a number or a list.

    Arrays keep their type; Python floats become float32 and Python integers int64. The data of an array
    that is already on the device is shared, not copied.
    """
    array = to_device(_values(data, dtype), resolve(device) if device is not None else get_device())
    result = Tensor(array)
    if requires_grad:
        result.requires_grad = True
    return result


def _values(data: Any, dtype: Any = None) -> Array:
    """The array behind `data`, where it is; Python floats become float32 unless dtype says otherwise."""
    if isinstance(data, Tensor):
        data = data.data
    array = asarray(data)
    if dtype is None and array.dtype == np.float64 and not hasattr(data, "dtype"):
        dtype = np.float32
    return array if dtype is None else array.astype(dtype, copy=False)
