"""The methods of `Tensor`, each one line: which operation it is. `gpuprop.ops` fills the table.

They stand apart so that `backprop.py` holds the chain rule alone, and so that a type checker and an editor
see every method with its signature.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, cast

if TYPE_CHECKING:
    from .tensors import Tensor

Axis = int | tuple[int, ...] | None
table: dict[str, Callable[..., Any]] = {}


def _data(x: Any) -> Any:
    return cast(Any, x).data if isinstance(x, TensorMethods) else x


class TensorMethods:
    """Arithmetic, reductions and shapes of a tensor, with NumPy's names and broadcasting.

    <, <=, > and >= compare elements and give arrays of bools; == asks whether both are the same object.
    """

    __slots__ = ()

    def __add__(self, other: Any) -> Tensor:
        return table["add"](self, other)

    def __radd__(self, other: Any) -> Tensor:
        return table["add"](other, self)

    def __sub__(self, other: Any) -> Tensor:
        return table["subtract"](self, other)

    def __rsub__(self, other: Any) -> Tensor:
        return table["subtract"](other, self)

    def __mul__(self, other: Any) -> Tensor:
        return table["multiply"](self, other)

    def __rmul__(self, other: Any) -> Tensor:
        return table["multiply"](other, self)

    def __truediv__(self, other: Any) -> Tensor:
        return table["divide"](self, other)

    def __rtruediv__(self, other: Any) -> Tensor:
        return table["divide"](other, self)

    def __matmul__(self, other: Any) -> Tensor:
        return table["matmul"](self, other)

    def __rmatmul__(self, other: Any) -> Tensor:
        return table["matmul"](other, self)

    def __neg__(self) -> Tensor:
        return table["multiply"](self, -1.0)

    def __pow__(self, exponent: float) -> Tensor:
        return table["power"](self, exponent)

    def __lt__(self, other: Any) -> Any:
        return _data(self) < _data(other)

    def __le__(self, other: Any) -> Any:
        return _data(self) <= _data(other)

    def __gt__(self, other: Any) -> Any:
        return _data(self) > _data(other)

    def __ge__(self, other: Any) -> Any:
        return _data(self) >= _data(other)

    def __getitem__(self, index: Any) -> Tensor:
        return table["getitem"](self, index)

    def exp(self) -> Tensor:
        return table["exp"](self)

    def log(self) -> Tensor:
        return table["log"](self)

    def tanh(self) -> Tensor:
        return table["tanh"](self)

    def sigmoid(self) -> Tensor:
        return table["sigmoid"](self)

    def relu(self) -> Tensor:
        return table["relu"](self)

    def sqrt(self) -> Tensor:
        return table["sqrt"](self)

    def abs(self) -> Tensor:
        return table["abs"](self)

    def gelu(self, approximate: str = "tanh") -> Tensor:
        """Gaussian error linear unit; see `ops.gelu`."""
        return table["gelu"](self, approximate)

    def glu(self) -> Tensor:
        """Gated linear unit, which halves the last axis; see `ops.glu`."""
        return table["glu"](self)

    def sum(self, axis: Axis = None, keepdims: bool = False) -> Tensor:
        return table["sum"](self, axis=axis, keepdims=keepdims)

    def mean(self, axis: Axis = None, keepdims: bool = False) -> Tensor:
        return table["mean"](self, axis=axis, keepdims=keepdims)

    def max(self, axis: Axis = None, keepdims: bool = False) -> Tensor:
        return table["max"](self, axis=axis, keepdims=keepdims)

    def min(self, axis: Axis = None, keepdims: bool = False) -> Tensor:
        return -table["max"](-self, axis=axis, keepdims=keepdims)

    def argmax(self, axis: int | None = None) -> Any:
        """The index of the largest element, as an array of integers; the first among equals."""
        return _data(self).argmax(axis=axis)

    def softmax(self, axis: int = -1) -> Tensor:
        return table["softmax"](self, axis=axis)

    def log_softmax(self, axis: int = -1) -> Tensor:
        return table["log_softmax"](self, axis=axis)

    def reshape(self, *shape: Any) -> Tensor:
        return table["reshape"](self, *shape)

    def transpose(self, *axes: Any) -> Tensor:
        """Permute the axes; reversed when none are given."""
        return table["transpose"](self, *axes)

    def swapaxes(self, first: int, second: int) -> Tensor:
        return table["swapaxes"](self, first, second)

    @property
    def T(self) -> Tensor:
        """The axes in reverse."""
        return table["transpose"](self)
