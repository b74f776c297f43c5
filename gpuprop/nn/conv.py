"""Convolution layer over text."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

from ..errors import ShapeError
from ..ops.conv1d import conv1d
from ..ops.conv1d_relu_max import conv1d_relu_max
from ..tensors import Tensor
from . import init
from .checks import positive, require_text
from .module import Module

Padding = int | str | tuple[int, int]


class Conv1d(Module):
    """Convolution over the length: (B, L, in_channels) -> (B, T, out_channels), text channels last.

    T = (L + left + right - dilation (kernel_size - 1) - 1) // stride + 1. padding: positions of zeros on both
    sides, (left, right), "same" (T = L, needs stride 1) or "causal" (all on the left: output t sees nothing
    after t). groups: out and in channels in that many separate parts; in_channels parts are a depthwise
    convolution.

    weight (out_channels, kernel_size, in_channels / groups) and bias (out_channels,) start uniform in
    ±1/√(kernel_size · in_channels / groups), as in PyTorch, whose weight is (out, in / groups, kernel).
    """

    def __init__(
        self, in_channels: int, out_channels: int, kernel_size: int, stride: int = 1, padding: Padding = 0,
        dilation: int = 1, groups: int = 1, bias: bool = True,
    ) -> None:  # fmt: skip
        self.in_channels = positive("Conv1d", "in_channels", in_channels)
        self.out_channels = positive("Conv1d", "out_channels", out_channels)
        self.kernel_size = positive("Conv1d", "kernel_size", kernel_size)
        self.stride = positive("Conv1d", "stride", stride)
        self.dilation = positive("Conv1d", "dilation", dilation)
        self.groups = positive("Conv1d", "groups", groups)
        self.padding = _checked_padding(padding, self.stride)
        for name, channels in (("in_channels", in_channels), ("out_channels", out_channels)):
            if channels % groups:
                raise ValueError(f"Conv1d: {name} {channels} is not a multiple of groups {groups}")
        shape = (self.out_channels, self.kernel_size, self.in_channels // self.groups)
        self.weight = init.fan_in_uniform(shape, order=(1, 2, 0))
        fan_in = math.prod(shape[1:])
        self.bias = init.fan_in_uniform((self.out_channels,), fan_in=fan_in) if bias else None

    def check(self, x: Any) -> None:
        """Raise ShapeError unless x (B, L, in_channels) has room for the window."""
        require_text("Conv1d", x, self.in_channels)
        room = int(x.shape[1]) + self._padded()
        window = (self.kernel_size - 1) * self.dilation + 1
        if room < window:
            raise ShapeError(
                f"Conv1d expects a length of at least {window - self._padded()} (its window of {window} less "
                f"padding {self.padding!r}) but got {tuple(x.shape)}: "
                f"pad the batch further, or use padding='same'"
            )

    def forward(self, x: Any) -> Tensor:
        self.check(x)
        return conv1d(
            x, self.weight, self.bias,
            stride=self.stride, padding=self.padding, dilation=self.dilation, groups=self.groups,
        )  # fmt: skip

    def _padded(self) -> int:
        """Positions of zeros on both sides together."""
        if isinstance(self.padding, str):
            return (self.kernel_size - 1) * self.dilation
        return 2 * self.padding if isinstance(self.padding, int) else sum(self.padding)

    def extra_repr(self) -> str:
        parts = [f"{self.in_channels}, {self.out_channels}, kernel_size={self.kernel_size}"]
        for name, default in (("stride", 1), ("padding", 0), ("dilation", 1), ("groups", 1)):
            if getattr(self, name) != default:
                parts.append(f"{name}={getattr(self, name)!r}")
        return ", ".join(parts + ([] if self.bias is not None else ["bias=False"]))


class ConvMaxOverTime(Module):
    """Features of a text: the maximum over time of relu(convolution), for windows of one or several widths
    (Kim 2014, section 2).   (B, L, in_channels) -> (B, len(kernel_sizes) · out_channels)

    The same as `Conv1d`, `relu`, `MaxOverTime` and a concatenation, as one operation that leaves out padding
    and computes gradients for the winning windows only. mask (B, L), True = real token: windows that hold no
    real token never win. padding: as for Conv1d, or "full", kernel_size - 1 on both sides.
    """

    def __init__(
        self, in_channels: int, out_channels: int, kernel_sizes: int | Sequence[int], padding: Padding = 0
    ) -> None:
        sizes = [kernel_sizes] if isinstance(kernel_sizes, int) else list(kernel_sizes)
        if not sizes:
            raise ValueError("ConvMaxOverTime: kernel_sizes must name at least one width")
        self.convolutions = [
            Conv1d(in_channels, out_channels, k, padding=(k - 1, k - 1) if padding == "full" else padding)
            for k in sizes
        ]

    def forward(self, x: Any, mask: Any = None) -> Tensor:
        return conv_max_over_time(x, self.convolutions, mask)


def conv_max_over_time(x: Any, convolutions: Sequence[Conv1d], mask: Any = None) -> Tensor:
    """What `ConvMaxOverTime` does, for layers that a model holds itself (stride, dilation and groups 1)."""
    for layer in convolutions:
        layer.check(x)
        if (layer.stride, layer.dilation, layer.groups) != (1, 1, 1):
            raise ValueError(f"the maximum over time of {layer!r} needs stride, dilation and groups of 1")
    pairs = [(layer.weight, layer.bias) for layer in convolutions]
    return conv1d_relu_max(x, pairs, mask, paddings=[layer.padding for layer in convolutions])


def _checked_padding(padding: Any, stride: int) -> Padding:
    if padding == "same" and stride != 1:
        raise ValueError(
            f"Conv1d: padding='same' keeps the length, which stride={stride} cannot; give numbers"
        )
    if padding in ("same", "causal"):
        return str(padding)
    sides = padding if isinstance(padding, (tuple, list)) else (padding, padding)
    if len(sides) != 2 or any(isinstance(p, bool) or not isinstance(p, int) or p < 0 for p in sides):
        raise ValueError(
            f'Conv1d: padding must be an integer of at least 0, (left, right), "same" or "causal", '
            f"not {padding!r}"
        )
    return (int(sides[0]), int(sides[1])) if isinstance(padding, (tuple, list)) else int(padding)
