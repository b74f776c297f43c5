"""The report of a run: one HTML page and PNG files from metrics.jsonl, gradients.jsonl and the run's data."""

from __future__ import annotations

from pathlib import Path

from ...backend.device import get_device
from ...errors import GpupropError
from ..failure import failure_after
from ..files import atomic_write
from ..gradients import read_gradients
from ..run import METRICS, REPORT, read_config, read_metrics
from .charts import charts_of
from .findings import sound
from .flow import flow_of
from .page import Contents, page
from .pictures import write_pictures
from .slowest import explain_batch

__all__ = ["write_report"]


def write_report(run: str | Path, out: str | Path | None = None, measure: bool = True) -> list[Path]:
    """Write report.html and report_*.png into the run folder, or the page to `out` and pictures beside it.

    measure: also run one batch of the training data, to find the slowest operations; the page says so where
    that cannot be done. Returns the files written, the page first. Raises CheckpointError for a folder that
    holds no run, PlotError, once the page is written, where matplotlib is missing.
    """
    run = Path(run)
    path = run / REPORT if out is None else Path(out)
    config = read_config(run)
    metrics = read_metrics(run) if (run / METRICS).exists() else []
    gradients = read_gradients(run)
    failure = failure_after(run, metrics[-1]["step"] if metrics else 0)
    if failure is not None:  # the steps after it, until it was noticed, changed nothing
        gradients = [record for record in gradients if record["step"] <= failure["step"]]
    charts, flow = charts_of(metrics, gradients), flow_of(sound(gradients, failure))
    try:
        explanation = explain_batch(run, config) if measure else "it was not asked for"
    except GpupropError as error:
        explanation = str(error)
    name = run.resolve().name
    where = str(get_device())
    contents = Contents(name, config, metrics, gradients, charts, flow, explanation, where, failure)
    atomic_write(path, page(contents).encode())
    return [path, *write_pictures(charts, flow, path.parent)]
