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

from ..gradients import GRADIENTS, read_gradients
from ..progress import score_name
from ..run import CONFIG, METRICS, read_config, read_metrics
from .charts import layer_names, relative_update
from .findings import findings_of

EVERY = 1.0  # seconds
SILENT = 120.0  # seconds without a new line, at least, after which a run is taken to have stopped
_BARS = "▁▂▃▄▅▆▇█"
MOST_EPOCHS, MOST_POINTS, MOST_LAYERS = 8, 24, 30

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
            live.update(view(run), refresh=True)
            if over:
                return
            time.sleep(every)


def ended(run: Path) -> bool:
    """All epochs are there, or patience is out, or nothing was written for long."""
    if not (run / CONFIG).exists():
        return False
    training, metrics = read_config(run).get("training", {}), _metrics(run)
    if metrics and metrics[-1]["epoch"] >= training.get("epochs", math.inf):
        return True
    best = max((r["epoch"] for r in metrics if r.get("best")), default=0)
    patience = training.get("early_stop")
    if patience is not None and metrics and metrics[-1]["epoch"] - best >= patience:
        return True
    longest = max((r.get("seconds", 0.0) for r in metrics), default=0.0)
    files = [run / name for name in (CONFIG, METRICS, GRADIENTS) if (run / name).exists()]
    return time.time() - max(f.stat().st_mtime for f in files) > max(SILENT, 3 * longest)


def view(run: Path) -> RenderableType:
    """What is known of the run now."""
    if not (run / CONFIG).exists():
        return Text(f"{run}: waiting for the first epoch", style="dim")
    config, metrics, gradients = read_config(run), _metrics(run), read_gradients(run)
    epochs = config.get("training", {}).get("epochs", "?")
    step = max((r["step"] for r in (*metrics[-1:], *gradients[-1:])), default=0)
    title = f"{run}  {config.get('model', {}).get('name', '')}  epoch {len(metrics)}/{epochs}  step {step:,}"
    parts: list[RenderableType] = [Text(title, style="bold"), _epochs(metrics)]
    if gradients:
        parts += [_whole(gradients), _layers(gradients)]
        parts += [Text(f"! {sentence}", style="yellow") for sentence in findings_of(gradients)]
    return Group(*parts)


def _epochs(metrics: Sequence[Record]) -> RenderableType:
    if not metrics:
        return Text("no epoch is over yet", style="dim")
    names = [n for n in metrics[-1] if n == "train_loss" or n.startswith("valid_")]
    table = Table(box=None, pad_edge=False, header_style="dim")
    for name in ("epoch", *(score_name(n) if n not in ("train_loss", "valid_loss") else n for n in names)):
        table.add_column(name.replace("_", " "), justify="right")
    for record in metrics[-MOST_EPOCHS:]:
        values = [f"{record[n]:.4f}" if n in record else "" for n in names]
        table.add_row(str(record["epoch"]), *values, style="bold" if record.get("best") else "")
    return table


def _whole(gradients: Sequence[Record]) -> RenderableType:
    last = gradients[-1]
    norm = "not finite" if last.get("gradient") is None else f"{last['gradient']:.3g}"
    line = f"gradient {sparkline([r.get('gradient') for r in gradients])} {norm}"
    if "clipped" in last:
        line += f"   clipped {100 * last['clipped']:.0f} %"
    if "power" in last.get("gpu", {}):
        line += f"   {last['gpu']['power']:.0f} W"
    return Text(line)


def _layers(gradients: Sequence[Record]) -> RenderableType:
    table = Table(box=None, pad_edge=False, header_style="dim")
    table.add_column("layer")
    for name in ("activation", "dL/dy", "gradient", "over time", "update/weight", "dead"):
        table.add_column(name, justify="left" if name == "over time" else "right")
    names = layer_names(gradients)
    for name in names[:MOST_LAYERS]:
        values = gradients[-1]["layers"].get(name, {})
        table.add_row(
            name,
            *(_number(values.get(key)) for key in ("activation", "flow", "gradient")),
            sparkline([r["layers"].get(name, {}).get("gradient") for r in gradients]),
            _number(relative_update(values)),
            f"{100 * values['dead']:.0f} %" if values.get("dead") is not None else "",
        )
    if len(names) > MOST_LAYERS:
        table.add_row(f"and {len(names) - MOST_LAYERS} more")
    return table


def sparkline(values: Sequence[float | None]) -> str:
    """The last values as little bars, by their powers of ten; what is 0 or unknown is a space."""
    logs = [math.log10(v) if v is not None and v > 0 else None for v in values[-MOST_POINTS:]]
    known = [v for v in logs if v is not None]
    if not known:
        return ""
    low, room = min(known), max(max(known) - min(known), 0.5)
    return "".join(" " if v is None else _BARS[round((v - low) / room * (len(_BARS) - 1))] for v in logs)


def _metrics(run: Path) -> list[dict[str, Any]]:
    return read_metrics(run) if (run / METRICS).exists() else []


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.3g}"
