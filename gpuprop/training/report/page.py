"""The report as one HTML page that needs nothing from anywhere: styles and figures stand inside it."""

from __future__ import annotations

import html
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ...explanation import Explanation
from .charts import Chart, joules
from .colour_map import map_html
from .findings import findings_of, seen, verdict
from .flow import Flow
from .slowest import PASSES
from .style import STYLE
from .svg import chart_svg, flow_svg

SLOWEST = 12  # operations listed one by one


@dataclass(frozen=True)
class Contents:
    """All a page shows. explanation: or why there is none; where: the device it was measured on; failure:
    failure.json of a training that ended with a failed step."""

    name: str
    config: dict[str, Any]
    metrics: list[dict[str, Any]]
    gradients: list[dict[str, Any]]
    charts: list[Chart]
    flow: Flow | None
    explanation: Explanation | str
    where: str
    failure: dict[str, Any] | None = None


def page(contents: Contents) -> str:
    """The whole document."""
    body = "".join(
        [
            _head(contents),
            _failure(contents.failure),
            _findings(contents),
            _section("Curves", contents, "curves"),
            _section("Layers over time", contents, "layers", _without_records(contents)),
            _flow(contents.flow),
            _section("Encoder and decoder", contents, "encoder"),
            _slowest(contents),
            _gpu(contents),
        ]
    )
    title = _safe(f"{contents.name}: training report")
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f'<title>{title}</title>\n<link rel="icon" href="data:,">\n<style>{STYLE}</style>\n</head>\n'
        f"<body>\n{body}</body>\n</html>\n"
    )


def _head(contents: Contents) -> str:
    config, metrics = contents.config, contents.metrics
    best = next((r for r in reversed(metrics) if r.get("best")), None)
    training = config.get("training", {})
    facts = {
        "task": config.get("task", ""),
        "model": config.get("model", {}).get("name", ""),
        "device": metrics[-1].get("device", "") if metrics else training.get("device", ""),
        "epochs": str(len(metrics)),
        "steps": f"{max((r['step'] for r in (*metrics[-1:], *contents.gradients[-1:])), default=0):,}",
        "time": f"{sum(r.get('seconds', 0.0) for r in metrics):,.0f} s",
        "rows": f"{config.get('data', {}).get('train', {}).get('rows', 0):,}",
    }
    if best is not None:
        facts["best epoch"] = str(best["epoch"])
        facts |= {
            name.replace("valid_", "validation ").replace("_", " "): f"{value:.4f}"
            for name, value in best.items()
            if name.startswith("valid_") and isinstance(value, float)
        }
    cells = "".join(f"<div><dt>{_safe(k)}</dt><dd>{_safe(v)}</dd></div>" for k, v in facts.items() if v)
    trained = _safe(str(config.get("data", {}).get("train", {}).get("path", "")))
    head = f'<h1>{_safe(contents.name)}</h1><p class="soft">Trained on {trained}</p>'
    return f'{head}<dl class="facts">{cells}</dl>'


def _failure(failure: Mapping[str, Any] | None) -> str:
    if failure is None:
        return ""
    named = [str(failure[key]) for key in ("operation", "layer") if failure.get(key)]
    first = f"<p>First: <b>{_safe(' of '.join(named))}</b>.</p>" if named else ""
    replayed = "<code>gp.training.load_failure(run).replay(model, loss)</code> computes the step again."
    return (
        f'<div class="failed"><h2>Training failed</h2><p>{_safe(str(failure.get("message", "")))}</p>'
        f"{first}<p>{replayed}</p></div>"
    )


def _findings(contents: Contents) -> str:
    gradients, metrics = contents.gradients, contents.metrics
    if not gradients:
        return ""
    found = findings_of(gradients, contents.failure)
    items = "".join(f"<li>{_safe(sentence)}</li>" for sentence in found)
    recorded = f'<p class="soft">Recorded: {seen(gradients, metrics)}.</p>'
    healthy = recorded if contents.failure is not None else f"<p>{verdict(gradients, metrics)}</p>"
    text = f"<ul>{items}</ul>{recorded}" if found else healthy
    return f"<h2>What stands out</h2>{text}"


def _section(title: str, contents: Contents, picture: str, instead: str = "") -> str:
    charts = [chart for chart in contents.charts if chart.picture == picture]
    if not charts:
        return f"<h2>{title}</h2><p>{instead}</p>" if instead else ""
    figures = "".join(_figure(chart.title, chart.caption, _drawn(chart)) for chart in charts)
    return f'<h2>{title}</h2><div class="pairs">{figures}</div>'


def _drawn(chart: Chart) -> str:
    return map_html(chart) if chart.as_map else chart_svg(chart)


def _figure(title: str, caption: str, drawing: str) -> str:
    return f"<figure><h3>{_safe(title)}</h3><figcaption>{_safe(caption)}</figcaption>{drawing}</figure>"


def _without_records(contents: Contents) -> str:
    return "" if contents.gradients else "The run has no gradients.jsonl: an older gpuprop trained it."


def _flow(flow: Flow | None) -> str:
    if flow is None:
        return ""
    caption = (
        "The gradient on its way from the loss to the embeddings, in the last quarter of the training: each "
        "arrow is as thick and as warm as dL/dy of the layer it reaches, and each box shows that 2-norm, the "
        "largest where it stands for several layers. Healthy: arrows stay thick down to the embeddings; thin "
        "blue ones are where the gradient vanishes."
    )
    return f"<h2>Gradient flow</h2>{_figure('From the loss to the embeddings', caption, flow_svg(flow))}"


def _slowest(contents: Contents) -> str:
    title = "<h2>Slowest operations</h2>"
    found = contents.explanation
    if isinstance(found, str):
        return f"{title}<p>Not measured: {_safe(found)}.</p>"
    rows = sorted(found.rows, key=lambda row: row.seconds, reverse=True)[:SLOWEST]
    caption = (
        f"The backward pass of one training batch, measured on {contents.where}: {found.summary()}. Each "
        f"time is the least of {PASSES} passes. Healthy: "
        "products (Linear, MatMul, Conv1d, ConvReluMax, GRU, LSTM, Attention) take most of the time."
    )
    head = ["layer", "operation", "dL/dy → dL/dx", "bytes", "FLOPs", "‖dL/dy‖", "time"]
    return (
        f"{title}<p class='soft'>{_safe(caption)}</p>"
        f"{_table(found.totals(), 1)}<h3 style='margin-top:20px'>One by one</h3>"
        f"{_table([head, *(row.cells() for row in rows)], 3)}"
    )


def _gpu(contents: Contents) -> str:
    energy = joules(contents.gradients)
    section = _section("GPU", contents, "gpu")
    if not section:
        device = contents.metrics[-1].get("device", "the CPU") if contents.metrics else "the CPU"
        return f"<h2>Power and energy</h2><p>Not recorded: the training ran on {_safe(str(device))}.</p>"
    text = "" if energy is None else f"<p>Energy from the first record to the last: {energy:,.0f} J.</p>"
    return section + text


def _table(lines: Sequence[Sequence[str]], left: int) -> str:
    """The first `left` columns are text. Where the page is narrow each row is a block of its own, whose
    numbers have the names of their columns above them."""
    head, *body = lines

    def row(cells: Sequence[str], tag: str) -> str:
        return "".join(
            f'<{tag}{" class=left" if i < left else ""} data-name="{_safe(head[i])}">{_safe(cell)}</{tag}>'
            for i, cell in enumerate(cells)
        )

    rows = "".join(f"<tr>{row(cells, 'td')}</tr>" for cells in body)
    table = f"<thead><tr>{row(head, 'th')}</tr></thead><tbody>{rows}</tbody>"
    return f"<table>{table}</table>"


def _safe(text: str) -> str:
    return html.escape(text)
