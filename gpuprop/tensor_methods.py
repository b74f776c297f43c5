"""The methods of `Tensor`, each one line: which operation it is. `gpuprop.ops` fills the table.

They stand apart so that `backprop.py` holds the chain rule alone, and so that a type checker and an editor
see every method with its signature.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .backprop import Tensor

Axis = int | tuple[int, ...] | None
table: dict[str, Callable[..., Any]] = {}


class TensorMethods:
    """Arithmetic, reductions and shapes of a tensor, with NumPy's names and broadcasting."""

    __slots__ = ()

    def __add__(self, other: Any) -> Tensor:
        return table["add"](self, other)  # type: ignore[no-any-return]

    def __radd__(self, other: Any) -> Tensor:
        return table["add"](other, self)  # type: ignore[no-any-return]

    def __sub__(self, other: Any) -> Tensor:
        return table["subtract"](self, other)  # type: ignore[no-any-return]

    def __rsub__(self, other: Any) -> Tensor:
        return table["subtract"](other, self)  # type: ignore[no-any-return]

    def __mul__(self, other: Any) -> Tensor:
        return table["multiply"](self, other)  # type: ignore[no-any-return]

    def __rmul__(self, other: Any) -> Tensor:
        return table["multiply"](other, self)  # type: ignore[no-any-return]

    def __truediv__(self, other: Any) -> Tensor:
        return table["divide"](self, other)  # type: ignore[no-any-return]

    def __rtruediv__(self, other: Any) -> Tensor:
        return table["divide"](other, self)  # type: ignore[no-any-return]

    def __matmul__(self, other: Any) -> Tensor:
        return table["matmul"](self, other)  # type: ignore[no-any-return]

    def __rmatmul__(self, other: Any) -> Tensor:
        return table["matmul"](other, self)  # type: ignore[no-any-return]

    def __neg__(self) -> Tensor:
        return table["multiply"](self, -1.0)  # type: ignore[no-any-return]

    def __pow__(self, exponent: float) -> Tensor:
        return table["power"](self, exponent)  # type: ignore[no-any-return]

    def __getitem__(self, index: Any) -> Tensor:
        return table["getitem"](self, index)  # type: ignore[no-any-return]

    def exp(self) -> Tensor:
        return table["exp"](self)  # type: ignore[no-any-return]

    def log(self) -> Tensor:
        return table["log"](self)  # type: ignore[no-any-return]

    def tanh(self) -> Tensor:
        return table["tanh"](self)  # type: ignore[no-any-return]

    def sigmoid(self) -> Tensor:
        return table["sigmoid"](self)  # type: ignore[no-any-return]

    def relu(self) -> Tensor:
        return table["relu"](self)  # type: ignore[no-any-return]

    def sqrt(self) -> Tensor:
        return table["sqrt"](self)  # type: ignore[no-any-return]

    def abs(self) -> Tensor:
        return table["abs"](self)  # type: ignore[no-any-return]

    def gelu(self) -> Tensor:
        """Gaussian error linear unit; see `ops.gelu`."""
        return table["gelu"](self)  # type: ignore[no-any-return]

    def sum(self, axis: Axis = None, keepdims: bool = False) -> Tensor:
        return table["sum"](self, axis=axis, keepdims=keepdims)  # type: ignore[no-any-return]

    def mean(self, axis: Axis = None, keepdims: bool = False) -> Tensor:
        return table["mean"](self, axis=axis, keepdims=keepdims)  # type: ignore[no-any-return]

    def max(self, axis: Axis = None, keepdims: bool = False) -> Tensor:
        return table["max"](self, axis=axis, keepdims=keepdims)  # type: ignore[no-any-return]

    def softmax(self, axis: int = -1) -> Tensor:
        return table["softmax"](self, axis=axis)  # type: ignore[no-any-return]

    def log_softmax(self, axis: int = -1) -> Tensor:
        return table["log_softmax"](self, axis=axis)  # type: ignore[no-any-return]

    def reshape(self, *shape: Any) -> Tensor:
        return table["reshape"](self, *shape)  # type: ignore[no-any-return]

    def transpose(self, *axes: Any) -> Tensor:
        """Permute the axes; reversed when none are given."""
        return table["transpose"](self, *axes)  # type: ignore[no-any-return]

    def swapaxes(self, first: int, second: int) -> Tensor:
        return table["swapaxes"](self, first, second)  # type: ignore[no-any-return]

    @property
    def T(self) -> Tensor:
        """The axes in reverse."""
        return table["transpose"](self)  # type: ignore[no-any-return]
