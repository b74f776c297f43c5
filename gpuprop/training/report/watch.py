"""A run in progress in the terminal, read from the files that it writes."""

from __future__ import annotations

import contextlib
import math
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.table import Table
from rich.text import Text

from ..failure import failure_after
from ..gradients import GRADIENTS, read_gradients
from ..progress import score_name
from ..run import CONFIG, METRICS, read_config, read_metrics
from .charts import layer_names, relative_update
from .findings import findings_of
from .names import parts_of, short_names

EVERY = 1.0  # seconds
EVERYTHING = 200  # lines, where no terminal has to hold them
SILENT = 120.0  # seconds without a new line, at least, after which a run is taken to have stopped
_BARS = "▁▂▃▄▅▆▇█"
MOST_EPOCHS, MOST_POINTS, MOST_LAYERS = 8, 24, 30
NUMBERS = 48  # letters of a row of layers beside its name and what it was over time

Record = Mapping[str, Any]


def watch(run: str | Path, console: Console | None = None, every: float = EVERY) -> None:
    """Redraw `view` until the run has all its epochs, stops writing, or Ctrl-C. A folder whose first epoch is
    not over yet is waited for; CheckpointError where there is none."""
    run, console = Path(run), console or Console()
    if not run.is_dir():
        read_config(run)
    with contextlib.suppress(KeyboardInterrupt), Live(console=console, auto_refresh=False) as live:
        while True:
            over = ended(run)
            lines = console.height if console.is_terminal else EVERYTHING
            live.update(view(run, console.width, lines), refresh=True)
            if over:
                return
            time.sleep(every)


def ended(run: Path) -> bool:
    """All epochs are there, or patience is out, or nothing was written for long."""
    if not (run / CONFIG).exists():
        return False
    training, metrics = read_config(run).get("training", {}), _metrics(run)
    if _failure(run, metrics) is not None:
        return True
    if metrics and metrics[-1]["epoch"] >= training.get("epochs", math.inf):
        return True
    best = max((r["epoch"] for r in metrics if r.get("best")), default=0)
    patience = training.get("early_stop")
    if patience is not None and metrics and metrics[-1]["epoch"] - best >= patience:
        return True
    longest = max((r.get("seconds", 0.0) for r in metrics), default=0.0)
    files = [run / name for name in (CONFIG, METRICS, GRADIENTS) if (run / name).exists()]
    return time.time() - max(f.stat().st_mtime for f in files) > max(SILENT, 3 * longest)


def view(run: Path, width: int = 80, height: int = 100) -> RenderableType:
    """What is known of the run now, in `height` lines of `width` letters."""
    if not (run / CONFIG).exists():
        return Text(f"{run}: waiting for the first epoch", style="dim")
    config, metrics, gradients = read_config(run), _metrics(run), read_gradients(run)
    epochs = config.get("training", {}).get("epochs", "?")
    step = max((r["step"] for r in (*metrics[-1:], *gradients[-1:])), default=0)
    name = config.get("model", {}).get("name", "")
    where = f"  {name}  epoch {len(metrics)}/{epochs}  step {step:,} ({len(gradients)} recorded)"
    room = max(8, width - len(where))
    title = Text(("…" + str(run)[1 - room :] if len(str(run)) > room else str(run)) + where, style="bold")
    shown = metrics[-min(MOST_EPOCHS, max(1, height // 6)) :]
    parts: list[RenderableType] = [title, _epochs(shown)]
    failure, said = _failure(run, metrics), list[Text]()
    if gradients:
        said = [Text(f"! {sentence}", style="yellow") for sentence in findings_of(gradients, failure)]
        said = said[: max(1, height // 12)]
    if failure is not None:
        said = [*said, Text(f"failed: {failure.get('message', '')}", style="bold red")]
    if gradients:
        lines = 4 + max(1, len(shown)) + sum(-(-len(text) // (width - 8)) for text in said)
        parts += [_whole(gradients, width), _layers(gradients, width, height - 1 - lines)]
    return Group(*parts, *said)


def _epochs(metrics: Sequence[Record]) -> RenderableType:
    if not metrics:
        return Text("no epoch is over yet", style="dim")
    names = [n for n in metrics[-1] if n == "train_loss" or n.startswith("valid_")]
    table = Table(box=None, pad_edge=False, header_style="dim")
    for name in ("epoch", *(score_name(n) if n not in ("train_loss", "valid_loss") else n for n in names)):
        table.add_column(name.replace("_", " "), justify="right", no_wrap=True)
    for record in metrics:
        values = [f"{record[n]:.4f}" if n in record else "" for n in names]
        table.add_row(str(record["epoch"]), *values, style="bold" if record.get("best") else "")
    return table


def _whole(gradients: Sequence[Record], width: int) -> RenderableType:
    last = gradients[-1]
    norm = "not finite" if last.get("gradient") is None else f"{last['gradient']:.3g}"
    line = f"gradient {sparkline([r.get('gradient') for r in gradients], width // 3)} {norm}"
    if "clipped" in last:
        line += f"   clipped {100 * last['clipped']:.0f} %"
    if "power" in last.get("gpu", {}):
        line += f"   {last['gpu']['power']:.0f} W"
    return Text(line, no_wrap=True)


def _layers(gradients: Sequence[Record], width: int, height: int) -> RenderableType:
    """A row a layer or, where they are too many, a part of the model."""
    names = layer_names(gradients)
    parts = parts_of(names, max(1, min(height, MOST_LAYERS)))
    points = max(8, min(MOST_POINTS, (width - NUMBERS) // 3))
    rows = list(dict.fromkeys(parts.values()))
    short = short_names(rows, max(12, width - NUMBERS - points))
    table = Table(box=None, pad_edge=False, header_style="dim", padding=(0, 1, 0, 0))
    table.add_column("layer", no_wrap=True)
    for name in ("activation", "dL/dy", "gradient", "over time", "update/weight", "dead"):
        table.add_column(name, justify="left" if name == "over time" else "right", no_wrap=True)
    most = max(1, min(height, MOST_LAYERS))
    for row in rows if len(rows) <= most else rows[: most - 1]:
        members = [name for name in names if parts[name] == row]
        now = together([gradients[-1]["layers"].get(name, {}) for name in members])
        before = [together([r["layers"].get(name, {}) for name in members]) for r in gradients[-points:]]
        table.add_row(
            short[row],
            *(_number(now.get(key)) for key in ("activation", "flow", "gradient")),
            sparkline([values.get("gradient") for values in before], points),
            _number(relative_update(now)),
            f"{100 * now['dead']:.0f} %" if now.get("dead") is not None else "",
        )
    if len(rows) > most:
        table.add_row(f"and {len(rows) - most + 1} more")
    return table


def together(layers: Sequence[Record]) -> Record:
    """The values of several layers as one: norms over all their parameters, and the largest of the others."""
    found: dict[str, float | None] = {}
    for key in dict.fromkeys(key for values in layers for key in values):
        values = [layer[key] for layer in layers if key in layer]
        if any(value is None for value in values):
            found[key] = None
        else:
            found[key] = math.hypot(*values) if key in ("gradient", "weight", "update") else max(values)
    return found


def sparkline(values: Sequence[float | None], most: int = MOST_POINTS) -> str:
    """The last values as little bars, by their powers of ten; what is 0 or unknown is a space."""
    logs = [math.log10(v) if v is not None and v > 0 else None for v in values[-most:]]
    known = [v for v in logs if v is not None]
    if not known:
        return ""
    low, room = min(known), max(max(known) - min(known), 0.5)
    return "".join(" " if v is None else _BARS[round((v - low) / room * (len(_BARS) - 1))] for v in logs)


def _failure(run: Path, metrics: Sequence[Record]) -> Record | None:
    return failure_after(run, metrics[-1]["step"] if metrics else 0)


def _metrics(run: Path) -> list[dict[str, Any]]:
    return read_metrics(run) if (run / METRICS).exists() else []


def _number(value: float | None) -> str:
    """At most six letters: 0.0123, 1.2e-4."""
    if value is None:
        return ""
    if value == 0.0 or 1e-3 <= value < 1e5:
        return f"{value:.3g}" if value < 1000 else f"{value:.0f}"
    return f"{value:.1e}".replace("e-0", "e-").replace("e+0", "e").replace("e+", "e")
