"""`gp.explain(loss)`: the backward pass of one step as a table."""

from __future__ import annotations

import html
import math
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from .backend.arrays import get_xp, is_cupy
from .backend.gemm import sum_of_squares
from .backprop import Context, Node, Watcher, watching
from .flops import Shape, amount, backward_flops
from .nn.attribution import Layers, joined
from .nn.module import Module
from .ops.operands import is_array
from .tensors import Tensor

MOST_ROWS = 60  # in a table; a recurrent net has thousands
_HEAD = ("layer", "operation", "dL/dy → dL/dx", "bytes", "FLOPs", "‖dL/dy‖", "time")
_LEFT = 3  # columns of text


@dataclass(frozen=True)
class Row:
    """The backward pass of one operation.

    layer: dotted path of the module whose parameters it uses, "" where unknown. arrived, returned: shapes of
    the gradients of its outputs and inputs, None where there is none. bytes: of these gradients and of what
    the forward kept, each of which is read or written at least once. flops: see `gpuprop.flops`. norm: the
    2-norm of dL/d(outputs). seconds: of one run, the device waited for.
    """

    layer: str
    operation: str
    arrived: tuple[Shape | None, ...]
    returned: tuple[Shape | None, ...]
    bytes: int
    flops: int
    norm: float
    seconds: float

    def cells(self) -> list[str]:
        """The row of the table."""
        return [
            self.layer,
            self.operation,
            f"{_shapes(self.arrived)} → {_shapes(self.returned)}",
            amount(self.bytes, 1024, "B"),
            amount(self.flops, 1000, ""),
            f"{self.norm:.3g}",
            _seconds(self.seconds),
        ]


@dataclass(frozen=True)
class Total:
    """All backward passes of one kind of operation."""

    operation: str
    count: int
    bytes: int
    flops: int
    seconds: float


class Explanation:
    """What `explain` measured. `print` shows it as text, a notebook as a table.

    rows: in the order of the backward pass, from the loss on. loss: its value.
    """

    def __init__(self, rows: Sequence[Row], loss: float) -> None:
        self.rows, self.loss = list(rows), loss

    @property
    def seconds(self) -> float:
        """Of all operations together."""
        return sum(row.seconds for row in self.rows)

    def by_operation(self) -> list[Total]:
        """One total a kind of operation, the slowest first."""
        kinds: dict[str, list[Row]] = {}
        for row in self.rows:
            kinds.setdefault(row.operation, []).append(row)
        totals = []
        for name, rows in kinds.items():
            sizes = sum(r.bytes for r in rows), sum(r.flops for r in rows)
            totals.append(Total(name, len(rows), *sizes, sum(r.seconds for r in rows)))
        return sorted(totals, key=lambda total: total.seconds, reverse=True)

    def notes(self) -> list[str]:
        """What stands out: where the gradient stops being a number, and where nothing of it is left."""
        found = []
        broken = next((row for row in self.rows if not math.isfinite(row.norm)), None)
        if broken is not None:
            found.append(f"the gradient is {broken.norm} on arrival at {_name(broken)}, first of all")
        silent = [row for row in self.rows if row.norm == 0.0]
        if silent:
            found.append(f"no gradient (0) arrives at {_few([_name(row) for row in silent])}")
        return found

    def summary(self) -> str:
        """One line: the loss, how many operations, and what they took in all."""
        total_bytes = amount(sum(row.bytes for row in self.rows), 1024, "B")
        flops = amount(sum(row.flops for row in self.rows), 1000, "FLOPs")
        return (
            f"loss {self.loss:.4g}: backward through {len(self.rows)} operations, {total_bytes}, {flops}, "
            f"{_seconds(self.seconds)}"
        )

    def __repr__(self) -> str:
        lines = [self.summary(), "", *_aligned([list(_HEAD), *(row.cells() for row in self._shown())], _LEFT)]
        lines += [self._left_out()] if len(self.rows) > MOST_ROWS else []
        lines += ["", *_aligned(self.totals(), 1)]
        return "\n".join(lines + ["", *self.notes()] if self.notes() else lines)

    def _repr_html_(self) -> str:
        parts = [
            f"<p>{html.escape(self.summary())}</p>",
            _html_table([list(_HEAD), *(row.cells() for row in self._shown())], _LEFT),
            f"<p>{self._left_out()}</p>" if len(self.rows) > MOST_ROWS else "",
            _html_table(self.totals(), 1),
            *(f"<p>{html.escape(note)}</p>" for note in self.notes()),
        ]
        return "".join(parts)

    def _shown(self) -> list[Row]:
        return self.rows[:MOST_ROWS]

    def _left_out(self) -> str:
        return f"and {len(self.rows) - MOST_ROWS} more; all are in .rows"

    def totals(self) -> list[list[str]]:
        """The table by operation, its head first."""
        whole = self.seconds or 1.0
        return [["by operation", "count", "bytes", "FLOPs", "time", "share"]] + [
            [
                t.operation,
                str(t.count),
                amount(t.bytes, 1024, "B"),
                amount(t.flops, 1000, ""),
                _seconds(t.seconds),
                f"{100 * t.seconds / whole:.0f} %",
            ]
            for t in self.by_operation()
        ]


def explain(loss: Tensor, model: Module | None = None) -> Explanation:
    """Run the backward pass of `loss`, a tensor of one element, and measure each operation.

    model: whose layers the table names. The gradients are added to the parameters as by `loss.backward()`,
    and as there what the forward kept is freed. On a GPU every operation is waited for, so that the times are
    its own; the whole pass takes longer than without. Raises TypeError for a loss that is no tensor and a
    model that is no Module.
    """
    if not isinstance(loss, Tensor):
        raise TypeError(
            f"explain takes the loss, a gpuprop Tensor of one element, not {type(loss).__name__} "
            f"{loss!r:.60}; call it as gp.explain(loss, model) in place of loss.backward()"
        )
    if model is not None and not isinstance(model, Module):
        raise TypeError(
            f"explain takes the model, a gpuprop nn.Module whose layers the table names, not "
            f"{type(model).__name__} {model!r:.60}; call it as gp.explain(loss, model)"
        )
    measure = _Measure(None if model is None else Layers(model))
    with watching(measure):
        loss.backward()
    return Explanation(measure.rows, float(loss.item()))


class _Measure(Watcher):
    """Runs each node and writes its row."""

    def __init__(self, layers: Layers | None) -> None:
        self.layers = layers
        self.rows: list[Row] = []

    def passing(self, node: Node) -> None:
        op, layers = node.op, () if self.layers is None else self.layers.of(node)
        timed = _Timed(op)
        node.op = timed
        try:
            node.run_backward()
        finally:
            node.op = op
        self.rows.append(timed.row(joined(layers)))


class _Timed:
    """An operation whose backward is measured."""

    def __init__(self, op: Any) -> None:
        self.op, self.__name__ = op, op.__name__

    def backward(self, ctx: Context, *dy: Any) -> Any:
        arrived = [_shape(g) for g in dy]
        kept = _memory([*dy, *ctx.saved])
        self.norm = _norm(dy)
        _wait(dy)
        started = time.perf_counter()
        result = self.op.backward(ctx, *dy)
        _wait(dy)
        self.seconds = time.perf_counter() - started
        returned = list(result) if isinstance(result, tuple) else [result]
        self.arrived, self.returned = arrived, [_shape(g) for g in returned]
        self.bytes = kept + sum(int(g.nbytes) for g in returned if is_array(g))
        self.flops = backward_flops(self.op, ctx, arrived, self.returned)
        return result

    def row(self, layer: str) -> Row:
        return Row(
            layer, self.__name__, tuple(self.arrived), tuple(self.returned),
            self.bytes, self.flops, self.norm, self.seconds,
        )  # fmt: skip


def _shape(array: Any) -> Shape | None:
    return tuple(array.shape) if is_array(array) else None


def _memory(values: Iterable[Any]) -> int:
    """Bytes of the arrays among the values, each once."""
    arrays = {id(v): v for v in values if is_array(v)}
    return sum(int(array.nbytes) for array in arrays.values())


def _norm(arrays: Iterable[Any]) -> float:
    total = 0.0
    for array in arrays:
        if is_array(array):
            total += float(sum_of_squares(array))
    return math.sqrt(total)


def _wait(arrays: Iterable[Any]) -> None:
    """Until the GPU has done what was asked of it."""
    for array in arrays:
        if is_cupy(array):
            get_xp(array).cuda.get_current_stream().synchronize()


def _name(row: Row) -> str:
    return f"{row.operation} of {row.layer}" if row.layer else row.operation


def _few(names: list[str]) -> str:
    distinct = list(dict.fromkeys(names))
    return ", ".join(distinct[:4]) + (f" and {len(distinct) - 4} more" if len(distinct) > 4 else "")


def _shapes(shapes: Sequence[Shape | None]) -> str:
    return " ".join(f"({', '.join(map(str, s))})" for s in shapes if s is not None) or "nothing"


def _seconds(seconds: float) -> str:
    if seconds >= 1.0:
        return f"{seconds:.3g} s"
    return f"{seconds * 1e3:.3g} ms" if seconds >= 1e-3 else f"{seconds * 1e6:.0f} µs"


def _aligned(table: Sequence[Sequence[str]], left: int) -> list[str]:
    """Columns side by side, the first `left` of them text, the others numbers."""
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    return [
        "  ".join(
            cell.ljust(width) if i < left else cell.rjust(width)
            for i, (cell, width) in enumerate(zip(line, widths, strict=True))
        ).rstrip()
        for line in table
    ]


def _html_cell(cell: str, tag: str, is_text: bool) -> str:
    """Only a list of shapes may be broken into lines."""
    style = f"text-align:{'left' if is_text else 'right'};padding:2px 8px"
    style += "" if "→" in cell else ";white-space:nowrap"
    return f'<{tag} style="{style}">{html.escape(cell)}</{tag}>'


def _html_table(table: Sequence[Sequence[str]], left: int) -> str:
    def line(cells: Sequence[str], tag: str) -> str:
        return "".join(_html_cell(cell, tag, i < left) for i, cell in enumerate(cells))

    head, *body = table
    rows = "".join(f"<tr>{line(cells, 'td')}</tr>" for cells in body)
    return f"<table><thead><tr>{line(head, 'th')}</tr></thead><tbody>{rows}</tbody></table>"
