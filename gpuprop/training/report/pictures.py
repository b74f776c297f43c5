"""The same figures as PNG files, drawn by matplotlib."""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from io import BytesIO
from pathlib import Path
from typing import Any

from ..curves import MISSING, PlotError
from ..files import atomic_write
from .charts import Chart
from .colour_map import MOST_LETTERS
from .flow import Flow
from .names import short_names
from .scales import cell_edges, limits_of
from .svg import BOX_HEIGHT, LETTER, arrow_points, box_width, colour, corner, drawing_size, thickness

COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#56b4e9", "#b8860b", "#555555", "#8c564b")
_DASHES = ("-", "--", ":", "-.")
LEGEND = 48  # letters of all names of one line: a wider legend would push the axes aside
_GREY = "#666666"


def write_pictures(charts: Sequence[Chart], flow: Flow | None, folder: Path) -> list[Path]:
    """Write report_<picture>.png files into a folder. PlotError, with the remedy, without matplotlib."""
    try:
        figures = importlib.import_module("matplotlib.figure")
        importlib.import_module("matplotlib.backends.backend_agg")  # draws without a window
    except ImportError as error:
        raise PlotError(MISSING.format("PNG files")) from error
    written = []
    for picture in dict.fromkeys(chart.picture for chart in charts):
        own = [chart for chart in charts if chart.picture == picture]
        written.append(_save(_panels(figures, own), folder / f"report_{picture}.png"))
    if flow is not None:
        written.append(_save(_drawing(figures, flow), folder / "report_flow.png"))
    return written


def _save(figure: Any, path: Path) -> Path:
    picture = BytesIO()
    figure.savefig(picture, format="png")
    atomic_write(path, picture.getvalue())
    return path


def _panels(figures: Any, charts: Sequence[Chart]) -> Any:
    """Two charts a row."""
    columns = min(2, len(charts))
    rows = [charts[i : i + columns] for i in range(0, len(charts), columns)]
    heights = [max(3.2, *(0.22 * len(c.series) * c.as_map for c in row), 0.0) for row in rows]
    figure = figures.Figure(figsize=(6.2 * columns, sum(heights)), dpi=110, layout="constrained")
    grid = figure.subplots(len(rows), columns, squeeze=False, height_ratios=heights)
    for row, places in zip(rows, grid, strict=True):
        for axes in places[len(row) :]:
            axes.set_axis_off()
        for chart, axes in zip(row, places, strict=False):
            (_map if chart.as_map else _lines)(figure, axes, chart)
            axes.set_title(chart.title, fontsize=11, loc="left")
            axes.set_xlabel(chart.x, fontsize=9)
            axes.tick_params(labelsize=8, color=_GREY)
    return figure


def _lines(figure: Any, axes: Any, chart: Chart) -> None:
    for i, (name, points) in enumerate(chart.series.items()):
        x, y = zip(*points, strict=True)
        marker = "o" if len(points) <= 30 else None
        style = {"color": COLOURS[i % 8], "linestyle": _DASHES[i // 2 % 4], "marker": marker}
        axes.plot(x, y, label=name, markersize=3, linewidth=1.5, **style)
    if chart.log:
        axes.set_yscale("log")
    axes.set_ylim(*limits_of(chart))
    axes.set_ylabel(chart.y, fontsize=9)
    axes.xaxis.get_major_locator().set_params(integer=True)
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(axis="y", color="#e0e0e0", linewidth=0.8)
    axes.set_axisbelow(True)
    if len(chart.series) > 1:
        columns = max(1, min(3, len(chart.series), LEGEND // max(map(len, chart.series))))
        below = {"loc": "upper center", "bbox_to_anchor": (0.5, -0.16), "ncols": columns}
        axes.legend(fontsize=7.5, frameon=False, **below)


def _map(figure: Any, axes: Any, chart: Chart) -> None:
    colors = importlib.import_module("matplotlib.colors")
    palette = colors.LinearSegmentedColormap.from_list("flow", [colour(i / 9) for i in range(10)])
    steps = sorted({x for points in chart.series.values() for x, _ in points})
    cells = [[dict(points).get(step, float("nan")) for step in steps] for points in chart.series.values()]
    low, high = limits_of(chart)
    norm = (colors.LogNorm if chart.log else colors.Normalize)(low, high)
    mesh = axes.pcolormesh(cell_edges(steps), range(len(cells) + 1), cells, cmap=palette, norm=norm)
    names = short_names(chart.series, MOST_LETTERS)
    axes.set_yticks([i + 0.5 for i in range(len(cells))], [names[name] for name in chart.series])
    axes.tick_params(axis="y", length=0)
    axes.invert_yaxis()
    figure.colorbar(mesh, ax=axes, pad=0.01).ax.tick_params(labelsize=7)


def _drawing(figures: Any, flow: Flow) -> Any:
    patches = importlib.import_module("matplotlib.patches")
    width, height = drawing_size(flow)
    figure = figures.Figure(figsize=(width / 100, height / 100), dpi=120)
    axes = figure.add_axes((0, 0, 1, 1))
    axes.set_axis_off()
    axes.set(xlim=(0, width), ylim=(height, 0))
    for a, b in flow.arrows:
        end = flow.boxes[b]
        shade = "#bbbbbb" if end.flow is None else colour(end.strength)
        path = _curve(arrow_points(flow, a, b))
        axes.add_patch(patches.PathPatch(path, fill=False, edgecolor=shade, linewidth=thickness(end) * 0.72))
    room = box_width(flow)
    short = short_names(flow.boxes, int((room - 10) / LETTER))
    for name, box in flow.boxes.items():
        left, y = corner(flow, name)
        x = left + room / 2
        shade = "#bbbbbb" if box.flow is None else colour(box.strength)
        axes.add_patch(
            patches.FancyBboxPatch(
                (left, y), room, BOX_HEIGHT, boxstyle="round,pad=0,rounding_size=6",
                facecolor="white", edgecolor=shade, linewidth=1.4, zorder=3,
            )
        )  # fmt: skip
        value = "no gradient" if box.flow is None else ("start: 1" if box.row == 0 else f"{box.flow:.2g}")
        axes.text(x, y + 13, short[name], ha="center", va="center", fontsize=7, zorder=4)
        axes.text(x, y + 27, value, ha="center", va="center", fontsize=7, color=_GREY, zorder=4)
    return figure


def _curve(curves: list[list[tuple[float, float]]]) -> Any:
    path = importlib.import_module("matplotlib.path").Path
    points = [curves[0][0], *(point for curve in curves for point in curve[1:])]
    return path(points, [path.MOVETO, *[path.CURVE4] * (len(points) - 1)])
