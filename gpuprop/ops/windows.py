"""How the window of a convolution moves over a text, and whether the arrays fit it."""

from __future__ import annotations

from dataclasses import dataclass

from ..backend.arrays import Array
from ..errors import DataError, ShapeError

Padding = int | str | tuple[int, int]


@dataclass(frozen=True)
class Geometry:
    """How the window moves: padding is (left, right) in positions of the text."""

    stride: int
    padding: tuple[int, int]
    dilation: int
    groups: int

    def out_length(self, length: int, kernel_size: int) -> int:
        """Number of places at which the window fits."""
        room = length + sum(self.padding) - (kernel_size - 1) * self.dilation - 1
        return room // self.stride + 1 if room >= 0 else 0


@dataclass(frozen=True)
class Width:
    """One of several convolutions side by side: its windows and filters, its first column among the products
    of all offsets (offset o starts at column + o · out) and among the features, and how the text is padded.
    """

    kernel: int
    out: int
    column: int
    feature: int
    left: int
    right: int


def geometry_of(
    x: Array, weight: Array, bias: Array | None, stride: int, padding: Padding, dilation: int, groups: int
) -> Geometry:
    """The checked geometry of a convolution of x (B, L, channels) with weight (O, K, channels / groups)."""
    for name, value in (("stride", stride), ("dilation", dilation), ("groups", groups)):
        if value < 1:
            raise DataError(f"conv1d: {name} is at least 1, not {value}")
    if weight.ndim != 3 or weight.shape[1] < 1 or weight.shape[0] % groups:
        raise ShapeError(
            f"conv1d expects weight (out, kernel, in / groups), out a multiple of groups={groups}, "
            f"but got {tuple(weight.shape)}"
        )
    out, kernel_size, channels = (int(size) for size in weight.shape)
    channels *= groups
    if x.ndim != 3 or x.shape[2] != channels:
        swapped = x.ndim == 3 and x.shape[1] == channels
        hint = ": text is channels last; use x.swapaxes(1, 2)" if swapped else ""
        raise ShapeError(f"conv1d expects (batch, length, {channels}) but got {tuple(x.shape)}{hint}")
    if bias is not None and tuple(bias.shape) != (out,):
        raise ShapeError(f"conv1d expects bias ({out},) but got {tuple(bias.shape)}")
    types = {a.dtype for a in (x, weight, bias) if a is not None}
    if len(types) > 1:
        names = ", ".join(sorted(map(str, types)))
        raise DataError(f"conv1d got arrays of different types ({names}): cast them to one")
    geometry = Geometry(stride, _sides(padding, kernel_size, stride, dilation), dilation, groups)
    if geometry.out_length(x.shape[1], kernel_size) < 1:
        window = (kernel_size - 1) * dilation + 1
        raise ShapeError(
            f"conv1d: a window of {window} does not fit length {x.shape[1]} with padding {geometry.padding}; "
            f"pad the text, or use padding='same'"
        )
    if x.shape[1] + sum(geometry.padding) >= 2**31 or max(weight.size, channels, out) >= 2**31:
        raise ShapeError(
            f"conv1d: {tuple(x.shape)} with weight {tuple(weight.shape)} is too large for 32-bit positions"
        )
    return geometry


def _sides(padding: Padding, kernel_size: int, stride: int, dilation: int) -> tuple[int, int]:
    reach = (kernel_size - 1) * dilation
    if padding == "same":
        if stride != 1:
            raise DataError(
                f"conv1d: padding='same' keeps the length, which stride={stride} cannot; give numbers"
            )
        return reach // 2, reach - reach // 2
    if padding == "causal":
        return reach, 0
    sides = (padding, padding) if isinstance(padding, int) else padding
    if isinstance(sides, str) or len(sides) != 2 or min(sides) < 0:
        raise DataError(f'conv1d: padding is a number, (left, right), "same" or "causal", not {padding!r}')
    return int(sides[0]), int(sides[1])
