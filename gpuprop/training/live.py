"""The live display on a terminal: one line that moves, with the finished epochs above it."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from types import TracebackType
from typing import Any

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from ..backend.device import Device
from .monitor import GpuMonitor
from .progress import Display, clock, epoch_header, epoch_row, speed


class LiveDisplay(Display):
    """Epoch, step, loss, tokens a second and time left; on a GPU also its memory, utilization and power."""

    def __init__(self, console: Console | None = None) -> None:
        self.console = console or Console(stderr=True)
        self.monitor: GpuMonitor | None = None
        self.epochs, self.steps, self.device = 1, None, ""  # type: int, int | None, str
        self.number, self.done, self.tokens, self.loss = 0, 0, 0, math.nan
        self.busy_with = ""
        self.began = self.epoch_began = self.epoch_ended = time.monotonic()
        self.first_epoch = 0
        self.headed = False
        self.live = Live(
            console=self.console, get_renderable=self._render, refresh_per_second=5, transient=True
        )

    def __enter__(self) -> LiveDisplay:
        self.live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.number = 0
        self.live.stop()
        if self.monitor is not None:
            self.monitor.__exit__(kind, error, trace)

    def start(self, epochs: int, steps: int | None, device: Device) -> None:
        self.epochs, self.steps, self.device = epochs, steps, str(device)
        self.monitor = GpuMonitor(device).__enter__()
        self.began = time.monotonic()
        self.first_epoch, self.headed = 0, False

    def epoch(self, number: int) -> None:
        self.first_epoch = self.first_epoch or number
        self.number, self.done, self.tokens, self.busy_with = number, 0, 0, ""
        self.epoch_began = time.monotonic()

    def step(self, number: int, loss: float, tokens: int) -> None:
        self.done, self.loss, self.tokens = number, loss, tokens
        self.epoch_ended = time.monotonic()

    def warn(self, text: str) -> None:
        self.console.print(Text(f"warning: {text}", style="yellow"))

    def validating(self) -> None:
        self.busy_with = "validating"

    def finished(self, record: Mapping[str, Any]) -> None:
        style = "bold" if record.get("best") else ""
        if not self.headed:
            self.console.print(Text(epoch_header(record), style="dim"))
        self.headed = True
        self.console.print(Text(epoch_row(record, self.epochs), style=style))

    def _render(self) -> RenderableType:
        if not self.number:
            return Text("")
        line = Table.grid(padding=(0, 1))
        line.add_row(
            f"epoch {self.number}/{self.epochs}",
            ProgressBar(total=self.steps, completed=self.done, width=14),
            f"step {self.done}/{self.steps}" if self.steps is not None else f"step {self.done}",
            self.busy_with or ("" if math.isnan(self.loss) else f"loss {self.loss:.4f}"),
            speed(self.tokens, self.epoch_ended - self.epoch_began),
            Text(f"{clock(self._left())} left" if self.steps else "", style="dim"),
        )
        gpu = self.monitor.text() if self.monitor is not None else ""
        return Group(line, Text(f"{self.device}: {gpu}", style="dim")) if gpu else line

    def _left(self) -> float:
        """Seconds to the end, if all epochs are as those seen so far, validation included."""
        done = self.number - self.first_epoch + self.done / (self.steps or 1)
        todo = self.epochs - self.first_epoch + 1 - done
        return math.inf if done <= 0.02 else (time.monotonic() - self.began) / done * todo
