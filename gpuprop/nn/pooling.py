"""Pooling layers over (batch, length, channels)."""

from __future__ import annotations

from typing import Any

from ..errors import ShapeError
from ..ops.pooling import avg_pool1d, max_over_time, max_pool1d, mean_over_time
from ..tensors import Tensor
from .checks import positive
from .module import Module


class Pool1d(Module):
    """What MaxPool1d and AvgPool1d share: the window."""

    def __init__(self, kernel_size: int, stride: int | None = None, padding: int = 0) -> None:
        name = type(self).__name__
        self.kernel_size = positive(name, "kernel_size", kernel_size)
        self.stride = self.kernel_size if stride is None else positive(name, "stride", stride)
        integer = isinstance(padding, int) and not isinstance(padding, bool)
        if not integer or not 0 <= padding <= self.kernel_size // 2:
            raise ValueError(
                f"{name}: padding must be from 0 to half the kernel size ({self.kernel_size // 2}), "
                f"not {padding!r}"
            )
        self.padding = padding

    def _check(self, x: Any) -> None:
        shape, least = tuple(x.shape), self.kernel_size - 2 * self.padding
        name = type(self).__name__
        if len(shape) != 3:
            raise ShapeError(f"{name} expects (batch, length, channels) but got {shape}")
        if shape[1] < max(1, least):
            raise ShapeError(
                f"{name} expects a length of at least {max(1, least)} for kernel_size={self.kernel_size}, "
                f"padding={self.padding} but got {shape}: pad the batch further"
            )

    def extra_repr(self) -> str:
        parts = [f"{self.kernel_size}"]
        parts += [f"stride={self.stride}"] if self.stride != self.kernel_size else []
        parts += [f"padding={self.padding}"] if self.padding else []
        return ", ".join(parts)


class MaxPool1d(Pool1d):
    """Maximum of each window: (B, L, C) -> (B, (L + 2 padding - kernel_size) // stride + 1, C).

    stride: kernel_size if None. Padding never wins; among equal maxima the first takes the gradient.
    """

    def forward(self, x: Any) -> Tensor:
        self._check(x)
        return max_pool1d(x, self.kernel_size, self.stride, self.padding)


class AvgPool1d(Pool1d):
    """Mean of each window: (B, L, C) -> (B, (L + 2 padding - kernel_size) // stride + 1, C).

    stride: kernel_size if None. Padding counts as zeros unless count_include_pad is False.
    """

    def __init__(
        self, kernel_size: int, stride: int | None = None, padding: int = 0, count_include_pad: bool = True
    ) -> None:
        super().__init__(kernel_size, stride, padding)
        self.count_include_pad = bool(count_include_pad)

    def forward(self, x: Any) -> Tensor:
        self._check(x)
        return avg_pool1d(
            x, self.kernel_size, self.stride, self.padding, count_include_pad=self.count_include_pad
        )

    def extra_repr(self) -> str:
        return super().extra_repr() + ("" if self.count_include_pad else ", count_include_pad=False")


class MaxOverTime(Module):
    """Maximum over the real tokens: x (B, L, C), mask (B, L), True = real -> (B, C).

    A row without any real token gives 0; among equal maxima the first takes the gradient.
    """

    def forward(self, x: Any, mask: Any = None) -> Tensor:
        _check_text("MaxOverTime", x, mask)
        return max_over_time(x, mask)


class MeanOverTime(Module):
    """Mean over the real tokens: x (B, L, C), mask (B, L), True = real -> (B, C).

    A row without any real token gives 0.
    """

    def forward(self, x: Any, mask: Any = None) -> Tensor:
        _check_text("MeanOverTime", x, mask)
        return mean_over_time(x, mask)


def _check_text(layer: str, x: Any, mask: Any) -> None:
    shape = tuple(x.shape)
    if len(shape) != 3 or shape[1] == 0:
        raise ShapeError(f"{layer} expects (batch, length, channels), length at least 1, but got {shape}")
    if mask is not None and tuple(mask.shape) != shape[:2]:
        raise ShapeError(f"{layer} expects a mask {shape[:2]} for {shape} but got {tuple(mask.shape)}")
