"""A map of colours inside the page: a row a series, a cell a record. Names and numbers are text beside it, so
that they keep their size where the map gets narrow."""

from __future__ import annotations

import html
from itertools import pairwise

from .charts import Chart
from .names import short_names
from .scales import cell_edges, label, limits_of, place, ticks
from .svg import colour

ROW_HEIGHT = 18  # pixels
WIDTH = 1000  # of all cells together, in the drawing's own units
MOST_LETTERS = 26  # of a name


def map_html(chart: Chart) -> str:
    """The map, its axis and the key to its colours."""
    steps = sorted({x for points in chart.series.values() for x, _ in points})
    edges = dict(zip(steps, _places(steps), strict=True))
    low, high = limits_of(chart)
    height = ROW_HEIGHT * len(chart.series)
    cells, names = [], []
    short = short_names(chart.series, MOST_LETTERS)
    for row, (name, points) in enumerate(chart.series.items()):
        names.append(f'<span title="{_safe(name)}">{_safe(short[name])}</span>')
        for x, value in points:
            left, right = edges[x]
            shade = colour(place(value, low, high, chart.log))
            cells.append(
                f'<rect class="cell" x="{left:.1f}" y="{ROW_HEIGHT * row + 1}" width="{right - left:.1f}" '
                f'height="{ROW_HEIGHT - 2}" style="fill:{shade}">'
                f"<title>{_safe(name)}: {value:.3g} at {label(x)}</title></rect>"
            )
    return (
        f'<div class="map" role="img" aria-label="{_safe(chart.title)}">'
        f'<div class="names">{"".join(names)}</div>'
        f'<div><svg viewBox="0 0 {WIDTH} {height}" preserveAspectRatio="none" style="height:{height}px">'
        f"{''.join(cells)}</svg>{_axis(chart, steps)}</div></div>{_key(chart)}"
    )


def _places(steps: list[float]) -> list[tuple[float, float]]:
    """Where each record's cell begins and ends: with the next record."""
    edges = cell_edges(steps)
    at = [WIDTH * place(edge, edges[0], edges[-1]) for edge in edges]
    return list(pairwise(at))


def _axis(chart: Chart, steps: list[float]) -> str:
    edges = cell_edges(steps)
    first, last = edges[0], edges[-1]
    numbers = "".join(
        f'<span style="left:{100 * place(tick, first, last):.1f}%">{label(tick)}</span>'
        for tick in ticks(first, last, whole=True)
        if place(tick, first, last) < 0.95  # further right it would stand outside
    )
    return f'<div class="ticks">{numbers}</div><div class="under">{_safe(chart.x)}</div>'


def _key(chart: Chart) -> str:
    low, high = limits_of(chart)
    scale = "".join(f'<i style="background:{colour(i / 19)}"></i>' for i in range(20))
    return (
        f'<div class="legend"><span>{label(low)} <b class="scale">{scale}</b> {label(high)} '
        f"{_safe(chart.y)}</span></div>"
    )


def _safe(text: str) -> str:
    return html.escape(text)
