"""The model as a drawing: where its layers stand, and how much gradient arrives at each on its way back."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ..step_watch import LOSS
from .names import parts_of

MOST_LAYERS = 26  # more are drawn together, those of one part as one
MOST_ARROWS = 1.6  # to a box, on average; of more, those that other ways stand for are left out
LEAST_DECADES = 3  # between the thinnest and the thickest arrow, so that small differences look small

Record = Mapping[str, Any]


@dataclass(frozen=True)
class Box:
    """A layer. row: from the loss (0) down; column: within its row, centred around 0. flow: norm of dL/dy;
    None where no gradient arrives. strength: 0 for the least flow and 1 for the most."""

    name: str
    row: int
    column: float
    flow: float | None
    strength: float


@dataclass(frozen=True)
class Flow:
    """boxes: name -> Box, the loss among them. arrows: (from, to), as the gradient goes. detours: of those
    that pass by other rows, the lane beside the boxes: 1, 2, ... on the right and -1, -2, ... on the left."""

    boxes: dict[str, Box]
    arrows: list[tuple[str, str]]
    detours: dict[tuple[str, str], int]

    @property
    def rows(self) -> int:
        return 1 + max(box.row for box in self.boxes.values())

    @property
    def columns(self) -> int:
        """Boxes side by side in the widest row."""
        rows = [box.row for box in self.boxes.values()]
        return max(rows.count(row) for row in set(rows))


def flow_of(gradients: Sequence[Record]) -> Flow | None:
    """The drawing of the last quarter of a training; None where too little was recorded."""
    graph = next((record["graph"] for record in reversed(gradients) if record.get("graph")), None)
    if not graph:
        return None
    late = gradients[-max(1, len(gradients) // 4) :]
    names = list(dict.fromkeys(name for edge in graph for name in edge))
    groups = parts_of([name for name in names if name != LOSS], MOST_LAYERS)
    groups[LOSS] = LOSS
    flows: dict[str, float | None] = {LOSS: 1.0}
    for name in names:
        if name != LOSS:
            value, before = _mean_flow(late, name), flows.get(groups[name])
            flows[groups[name]] = max(value, before) if value and before else value or before
    edges = list(dict.fromkeys((groups[a], groups[b]) for a, b in graph if groups[a] != groups[b]))
    rows = _rows(edges)
    edges = [(a, b) for a, b in edges if rows[a] > rows[b]]
    if len(edges) > MOST_ARROWS * len(rows):
        edges = _without_shortcuts(edges, rows)
    strengths = _strengths(flows)
    boxes: dict[str, Box] = {}
    for row in range(1 + max(rows.values())):
        side_by_side = [name for name in flows if rows.get(name) == row]
        for i, name in enumerate(_as_parents_stand(side_by_side, edges, boxes)):
            column = i - (len(side_by_side) - 1) / 2
            boxes[name] = Box(name, row, column, flows[name], strengths[name])
    arrows = [(b, a) for a, b in edges]
    return Flow(boxes, arrows, _detours(arrows, boxes))


def _mean_flow(records: Sequence[Record], name: str) -> float | None:
    """The geometric mean, which one wild step does not carry away."""
    found = [record["layers"].get(name, {}).get("flow") for record in records]
    logs = [math.log(value) for value in found if value]
    return math.exp(sum(logs) / len(logs)) if logs else None


def _rows(edges: list[tuple[str, str]]) -> dict[str, int]:
    """How far each box is from the loss, by the longest way; edges that close a circle are passed over."""
    readers: dict[str, list[str]] = {}
    for a, b in edges:
        readers.setdefault(a, []).append(b)
        readers.setdefault(b, [])
    rows: dict[str, int] = {}

    def row(name: str, on_the_way: frozenset[str]) -> int:
        if name not in rows:
            further = [b for b in readers[name] if b not in on_the_way]
            rows[name] = 1 + max((row(b, on_the_way | {name}) for b in further), default=-1)
        return rows[name]

    for name in reversed(readers):
        row(name, frozenset({name}))
    return dict(sorted(rows.items(), key=lambda item: item[1]))


def _without_shortcuts(edges: list[tuple[str, str]], rows: Mapping[str, int]) -> list[tuple[str, str]]:
    """The edges between boxes that no longer way joins: a residual stream reads everything before it."""
    readers: dict[str, set[str]] = {name: set() for name in rows}
    for a, b in edges:
        readers[a].add(b)
    reached: dict[str, set[str]] = {}  # by any way
    for name in rows:  # from the loss down
        reached[name] = readers[name].union(*(reached[b] for b in readers[name]))
    return [(a, b) for a, b in edges if not any(b in reached[c] for c in readers[a] if c != b)]


def _detours(arrows: list[tuple[str, str]], boxes: Mapping[str, Box]) -> dict[tuple[str, str], int]:
    """Lanes for the arrows that pass by rows, the short ones inside, on the side where they start and end."""
    passing = [(a, b) for a, b in arrows if boxes[b].row - boxes[a].row > 1]
    passing.sort(key=lambda arrow: boxes[arrow[1]].row - boxes[arrow[0]].row)
    lanes: dict[tuple[str, str], int] = {}
    for a, b in passing:
        side = -1 if boxes[a].column + boxes[b].column < 0 else 1
        lanes[a, b] = side * (1 + sum(lane * side > 0 for lane in lanes.values()))
    return lanes


def _as_parents_stand(names: list[str], edges: list[tuple[str, str]], boxes: Mapping[str, Box]) -> list[str]:
    """The boxes of a row from left to right, each below those it gets its gradient from: fewer crossings."""

    def middle(name: str) -> float:
        above = [boxes[b].column for a, b in edges if a == name and b in boxes]
        return sum(above) / len(above) if above else 0.0

    return sorted(names, key=middle)


def _strengths(flows: Mapping[str, float | None]) -> dict[str, float]:
    logs = {name: math.log10(value) for name, value in flows.items() if value and name != LOSS}
    if not logs:
        return {name: float(name == LOSS) for name in flows}
    high = max(logs.values())
    low = min(min(logs.values()), high - LEAST_DECADES)
    return {
        name: (logs[name] - low) / (high - low) if name in logs else float(name == LOSS) for name in flows
    }
