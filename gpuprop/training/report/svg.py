"""Figures as SVG inside the page. Colours are the page's variables, so that they follow its theme."""

from __future__ import annotations

import html
from collections.abc import Sequence

from .charts import Chart, Point
from .flow import Box, Flow
from .names import short_names
from .scales import label, limits_of, place, span_of, ticks

WIDTH, HEIGHT = 560, 270  # of a chart, in its own units
LEFT, RIGHT, TOP, BOTTOM = 70, 24, 10, 46
BOX_WIDTH, LEAST_BOX_WIDTH, BOX_HEIGHT, BOX_GAP, ROW_GAP, LANE = 170, 92, 38, 16, 40, 16  # of a drawing
DASHES = ("", "6 3", "2 3", "8 3 2 3")
NARROW, MARGINS = 358, 32  # pixels for a drawing on a telephone of 390, and beside any drawing
LEAST_SCALE = 0.79  # of a drawing: its letters stay readable
LETTER = 6.6  # width of a small letter


def chart_svg(chart: Chart) -> str:
    """A chart of lines, with its legend."""
    low, high = limits_of(chart)
    first, last = span_of(chart)

    def x(value: float) -> float:
        return LEFT + place(value, first, last) * (WIDTH - LEFT - RIGHT)

    def y(value: float) -> float:
        return HEIGHT - BOTTOM - place(value, low, high, chart.log) * (HEIGHT - TOP - BOTTOM)

    parts = [_horizontal_axis(chart, first, last)]
    for tick in ticks(low, high, chart.log):
        parts.append(
            f'<line class="grid" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y(tick):.1f}" y2="{y(tick):.1f}"/>'
        )
        parts.append(_text(LEFT - 6, y(tick) + 4, label(tick), "end"))
    middle = TOP + (HEIGHT - TOP - BOTTOM) / 2
    upright = f'transform="rotate(-90 12 {middle})" x="12" y="{middle}" text-anchor="middle"'
    parts.append(f"<text {upright}>{_safe(chart.y)}</text>")
    for i, (name, points) in enumerate(chart.series.items()):
        parts.append(_line(name, [(x(a), y(b)) for a, b in points], points, i))
    return _svg(chart.title, WIDTH, HEIGHT, parts) + _legend(chart)


def _line(name: str, places: Sequence[Point], points: Sequence[Point], i: int) -> str:
    style = f'class="line c{i % 8}" stroke-dasharray="{DASHES[i // 2 % len(DASHES)]}"'
    path = "M" + "L".join(f"{a:.1f} {b:.1f}" for a, b in places)
    dots = ""
    if len(places) <= 30:
        dots = "".join(
            f'<circle class="dot c{i % 8}" cx="{a:.1f}" cy="{b:.1f}" r="2.6">'
            f"<title>{_safe(name)}: {value:.4g} at {label(at)}</title></circle>"
            for (a, b), (at, value) in zip(places, points, strict=True)
        )
    return f'<path {style} d="{path}"><title>{_safe(name)}</title></path>{dots}'


def _legend(chart: Chart) -> str:
    if len(chart.series) < 2:
        return ""
    keys = "".join(
        f'<span><svg width="26" height="8" aria-hidden="true"><path class="line c{i % 8}" d="M0 4H26" '
        f'stroke-dasharray="{DASHES[i // 2 % len(DASHES)]}"/></svg> {_safe(name)}</span>'
        for i, name in enumerate(chart.series)
    )
    return f'<div class="legend">{keys}</div>'


def _horizontal_axis(chart: Chart, first: float, last: float) -> str:
    width, bottom = WIDTH - LEFT - RIGHT, HEIGHT - BOTTOM
    parts = [f'<line class="axis" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{bottom}" y2="{bottom}"/>']
    for tick in ticks(first, last, whole=True):
        parts.append(_text(LEFT + place(tick, first, last) * width, bottom + 20, label(tick), "middle"))
    parts.append(_text(LEFT + width / 2, bottom + 39, chart.x, "middle"))
    return "".join(parts)


def flow_svg(flow: Flow) -> str:
    """The model from the loss (top) to its embeddings, arrows as thick and warm as their gradient."""
    width, height = drawing_size(flow)
    arrows = "".join(
        f'<path class="arrow" d="{_path(arrow_points(flow, a, b))}" '
        f'style="stroke:{_stroke(flow.boxes[b])};stroke-width:{thickness(flow.boxes[b]):.1f}"'
        f"{_dashed(flow.boxes[b])}/>"
        for a, b in flow.arrows
    )
    room = box_width(flow)
    short = short_names(flow.boxes, int((room - 10) / LETTER))
    boxes = "".join(_box(box, short[name], room, *corner(flow, name)) for name, box in flow.boxes.items())
    drawing = _svg("Gradient flow", width, height, [arrows, boxes], "flow", LEAST_SCALE * width)
    return f'{_hint(LEAST_SCALE * width)}<div class="wide">{drawing}</div>'


def _hint(least: float) -> str:
    """Shown where a drawing of at least so many pixels has to be scrolled."""
    if least <= NARROW:
        return ""
    where = f"@media (max-width: {least + MARGINS:.0f}px) {{ .hint {{ display: block; }} }}"
    return f'<style>{where}</style><p class="hint">The drawing is wide: scroll it sideways. →</p>'


def box_width(flow: Flow) -> float:
    """Of all boxes: less where many stand side by side, so that a telephone shows them."""
    room = (NARROW / LEAST_SCALE - LANE * sum(_lanes(flow)) - BOX_GAP) / flow.columns - BOX_GAP
    return float(max(LEAST_BOX_WIDTH, min(BOX_WIDTH, int(room))))


def drawing_size(flow: Flow) -> tuple[float, float]:
    """Width and height of the drawing, lanes included."""
    lanes = sum(_lanes(flow))
    width = flow.columns * (box_width(flow) + BOX_GAP) + BOX_GAP + LANE * lanes
    return width, flow.rows * (BOX_HEIGHT + ROW_GAP) - ROW_GAP + 2 * BOX_GAP


def _lanes(flow: Flow) -> tuple[int, int]:
    """How many there are on the left and on the right."""
    used = [0, *flow.detours.values()]
    return -min(used), max(used)


def _middle(flow: Flow) -> float:
    """Where column 0 is."""
    return (flow.columns * (box_width(flow) + BOX_GAP) + BOX_GAP) / 2 + LANE * _lanes(flow)[0]


def arrow_points(flow: Flow, start: str, end: str) -> list[list[Point]]:
    """Bézier curves of four points each: from the bottom of one box to the top of another or, past other
    rows, from its side along a lane to the other's side."""
    (x1, y1), (x2, y2) = corner(flow, start), corner(flow, end)
    width = box_width(flow)
    lane = flow.detours.get((start, end))
    if lane is None:
        x1, x2, y1 = x1 + width / 2, x2 + width / 2, y1 + BOX_HEIGHT
        bend = (y2 - y1) / 2
        return [[(x1, y1), (x1, y1 + bend), (x2, y2 - bend), (x2, y2)]]
    half = flow.columns * (width + BOX_GAP) / 2
    aside = _middle(flow) + (half + LANE * (abs(lane) - 0.5)) * (1 if lane > 0 else -1)
    y1, y2, turn = y1 + BOX_HEIGHT / 2, y2 + BOX_HEIGHT / 2, ROW_GAP * 0.8
    x1, x2 = (x1 + width, x2 + width) if lane > 0 else (x1, x2)
    return [
        [(x1, y1), (aside, y1), (aside, y1), (aside, y1 + turn)],
        [(aside, y1 + turn), (aside, y1 + turn), (aside, y2 - turn), (aside, y2 - turn)],
        [(aside, y2 - turn), (aside, y2), (aside, y2), (x2, y2)],
    ]


def _path(curves: list[list[Point]]) -> str:
    points = ["{:.1f} {:.1f}".format(*point) for curve in curves for point in curve[1:]]
    thirds = " ".join("C" + " ".join(points[i : i + 3]) for i in range(0, len(points), 3))
    return "M{:.1f} {:.1f}".format(*curves[0][0]) + thirds


def _dashed(end: Box) -> str:
    return ' stroke-dasharray="3 4"' if end.flow is None else ""


def corner(flow: Flow, name: str) -> Point:
    """The upper left corner of a box."""
    box = flow.boxes[name]
    width = box_width(flow)
    left = _middle(flow) + box.column * (width + BOX_GAP) - width / 2
    return left, BOX_GAP + box.row * (BOX_HEIGHT + ROW_GAP)


def _box(box: Box, name: str, width: float, left: float, top: float) -> str:
    value = "no gradient" if box.flow is None else ("start: 1" if box.row == 0 else f"{box.flow:.2g}")
    middle = left + width / 2
    return (
        f'<g><title>{_safe(box.name)}: {value}</title><rect class="box" x="{left:.1f}" y="{top}" '
        f'width="{width}" height="{BOX_HEIGHT}" rx="6" style="stroke:{_stroke(box)}"/>'
        f"{_text(middle, top + 16, name, 'middle')}"
        f'<text class="value" x="{middle:.1f}" y="{top + 31}" text-anchor="middle">{value}</text></g>'
    )


def thickness(box: Box) -> float:
    """Of the arrow that leads to a box."""
    return 1.0 if box.flow is None else 1.5 + 10.5 * box.strength


def _stroke(box: Box) -> str:
    return "var(--faint)" if box.flow is None else colour(box.strength)


def colour(strength: float) -> str:
    """From blue (0) over purple to orange (1): apart for colour-blind readers, on light and dark alike."""
    stops = ((59, 111, 212), (142, 95, 190), (208, 82, 120), (240, 138, 36))
    at = min(1.0, max(0.0, strength)) * (len(stops) - 1)
    i = min(int(at), len(stops) - 2)
    mixed = (round(a + (b - a) * (at - i)) for a, b in zip(stops[i], stops[i + 1], strict=True))
    return "#{:02x}{:02x}{:02x}".format(*mixed)


def _svg(
    title: str, width: float, height: float, parts: Sequence[str], kind: str = "chart", least: float = 0.0
) -> str:
    """least: pixels that it is wide at least; narrower pages scroll it."""
    return (
        f'<svg class="{kind}" role="img" aria-label="{_safe(title)}" viewBox="0 0 {width:.0f} {height:.0f}" '
        f'style="max-width:{width:.0f}px;min-width:{least:.0f}px">{"".join(parts)}</svg>'
    )


def _text(x: float, y: float, text: str, anchor: str) -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{_safe(text)}</text>'


def _safe(text: str) -> str:
    return html.escape(text)
