"""Pooling of windows: composed of launches over the places of one offset in all windows."""

from __future__ import annotations

from collections.abc import Callable

from ..ops.pooling import check_windows, output_length, windows_of
from .measure import INT, LONG, Cost, Pass, Spec, both, launch


def _pooled(name: str, x: Spec, kernel: int, stride: int | None, padding: int) -> tuple[Spec, list[Spec]]:
    """The result, and for each offset in a window the part of it that has a place there."""
    stride = kernel if stride is None else stride
    check_windows(name, x, kernel, stride, padding)
    batch, length, channels = x.shape
    offsets = windows_of(length, kernel, stride, padding)
    parts = [x.like(batch, out.stop - out.start, channels) for _, out, _ in offsets]
    return x.like(batch, output_length(length, kernel, stride, padding), channels), parts


def max_pool1d(x: Spec, kernel_size: int, stride: int | None = None, padding: int = 0) -> Cost:
    """Where the first place of each window lies, in five launches and a copy; then for each offset a
    comparison, a maximum, and the winner's number. Backward: where that number won, times dy, added."""
    y, parts = _pooled("max_pool1d", x, kernel_size, stride, padding)
    windows, winner = y.like(y.shape[1], dtype=LONG), y.like(*y.shape, dtype=INT)
    first = winner.like(y.shape[1], dtype=INT)
    forward = launch(y) + launch(windows) + launch(windows, windows).times(3)
    forward += launch(windows, first) + launch(first, winner)
    backward = launch(x)
    for part in parts:
        won, number = part.like(*part.shape, dtype=bool), part.like(*part.shape, dtype=INT)
        forward += launch(part, part, won) + launch(part, part, part) + launch(number, won)
        backward += launch(number, won) + launch(part, won, part) + launch(part, part, part)
    return Cost(both([forward], y.size), both([backward], x.size) if x.needs_grad else Pass())


def avg_pool1d(
    x: Spec, kernel_size: int, stride: int | None = None, padding: int = 0, *, count_include_pad: bool = True
) -> Cost:
    """One launch an offset adds its places; one more multiplies the sums, or dy."""
    y, parts = _pooled("avg_pool1d", x, kernel_size, stride, padding)
    added = both(launch(part, part, part) for part in parts)
    scaled = launch(y, y.like(y.shape[1]), y)
    forward, backward = launch(y) + added + scaled, launch(x) + scaled + added
    return Cost(both([forward], y.size), both([backward], x.size) if x.needs_grad else Pass())


FORMULAS: dict[str, Callable[..., Cost]] = {"avg_pool1d": avg_pool1d, "max_pool1d": max_pool1d}
