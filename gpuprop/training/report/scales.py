"""Axes: where values stand between two ends, and the round numbers that are written beside them."""

from __future__ import annotations

import math
from collections.abc import Sequence

from .charts import Chart

TICKS = 5  # about


def limits_of(chart: Chart) -> tuple[float, float]:
    """Ends of the y axis; powers of ten on a logarithmic one."""
    if chart.limits is not None:
        return chart.limits
    values = [y for points in chart.series.values() for _, y in points]
    low, high = min(values), max(values)
    if chart.log:
        low, high = 10.0 ** math.floor(math.log10(low)), 10.0 ** math.ceil(math.log10(high))
        return (low, high) if low < high else (low, low * 10)
    room = 0.08 * (high - low) or 0.1 * abs(high) or 1.0
    return (0.0 if 0 <= low < room else low - room), high + room


def span_of(chart: Chart) -> tuple[float, float]:
    """Ends of the x axis."""
    values = [x for points in chart.series.values() for x, _ in points]
    low, high = min(values), max(values)
    return (low, high) if low < high else (low - 0.5, high + 0.5)


def cell_edges(steps: Sequence[float]) -> list[float]:
    """Where the cells of a map's records begin, and where the last one ends: it is as wide as that before."""
    width = steps[-1] - steps[-2] if len(steps) > 1 else 1.0
    return [*steps, steps[-1] + width]


def place(value: float, low: float, high: float, log: bool = False) -> float:
    """Where a value stands: 0 at `low`, 1 at `high`."""
    if log:
        value, low, high = math.log10(value), math.log10(low), math.log10(high)
    return (value - low) / (high - low)


def ticks(low: float, high: float, log: bool = False, whole: bool = False) -> list[float]:
    """Round numbers from low to high."""
    if log:
        first, last = round(math.log10(low)), round(math.log10(high))
        each = max(1, -(-(last - first) // TICKS))
        return [10.0**power for power in range(first, last + 1, each)]
    rough = (high - low) / TICKS
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(m * power for m in (1, 2, 5, 10) if m * power >= rough * 0.999)
    step = max(1.0, step) if whole else step
    return [step * k for k in range(math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9) + 1)]


def label(value: float) -> str:
    """A number in few letters: 0.001, 1e-6, 25, 12,000, 1.5e5."""
    if value and (abs(value) < 1e-3 or abs(value) >= 1e5):
        digits, power = f"{value:.3e}".split("e")
        return f"{digits.rstrip('0').rstrip('.')}e{int(power)}"
    return f"{value:,.0f}" if float(value).is_integer() else f"{value:.4g}"
