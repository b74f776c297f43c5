"""How the page looks, in light and in dark."""

from __future__ import annotations

_LIGHT = ["#ffffff", "#1d2127", "#5b6470", "#b6bdc7", "#e3e6ea", "#f6f7f9"]
_DARK = ["#15181c", "#e8eaed", "#a3acb8", "#59626e", "#31373f", "#1d2126"]
_NAMES = ["page", "ink", "soft", "faint", "rule", "card"]
_LINES_LIGHT = ["#0072b2", "#c44e00", "#00835f", "#b0578d", "#2f9bd8", "#8a6d00", "#555f6b", "#8c4a3c"]
_LINES_DARK = ["#56b4e9", "#f28e4b", "#3cc79b", "#e29cc6", "#8fb8ff", "#e0c04a", "#b4bcc6", "#d29a86"]


def _variables(colours: list[str], lines: list[str]) -> str:
    named = [f"--{name}: {colour};" for name, colour in zip(_NAMES, colours, strict=True)]
    return " ".join(named + [f"--c{i}: {colour};" for i, colour in enumerate(lines)])


STYLE = (
    f":root {{ color-scheme: light dark; {_variables(_LIGHT, _LINES_LIGHT)} }}\n"
    f"@media (prefers-color-scheme: dark) {{ :root {{ {_variables(_DARK, _LINES_DARK)} }} }}\n"
    """* { box-sizing: border-box; }
body { margin: 0 auto; padding: 24px 16px 64px; max-width: 1200px; background: var(--page); color: var(--ink);
  font: 15px/1.5 system-ui, sans-serif; }
h1 { font-size: 1.6rem; line-height: 1.25; margin: 0 0 4px; overflow-wrap: anywhere; }
h2 { font-size: 1.2rem; margin: 40px 0 12px; padding-top: 12px; border-top: 1px solid var(--rule); }
h3 { font-size: 1rem; margin: 0 0 2px; }
p { margin: 6px 0; overflow-wrap: anywhere; }
.soft, figcaption { color: var(--soft); }
figcaption { font-size: 0.87rem; margin-bottom: 8px; }
.facts { display: grid; grid-template-columns: repeat(auto-fit, minmax(150px, 1fr)); gap: 8px;
  margin: 16px 0; }
.facts div { background: var(--card); border-radius: 8px; padding: 8px 12px; overflow-wrap: anywhere; }
.facts dt { color: var(--soft); font-size: 0.8rem; }
.facts dd { margin: 0; font-weight: 600; }
.pairs { display: grid; grid-template-columns: repeat(2, minmax(0, 1fr)); gap: 28px 32px; }
figure { margin: 0; min-width: 0; }
figure svg.chart, figure svg.flow { width: 100%; height: auto; display: block; }
figure svg.flow { margin: 0 auto; }
svg text { fill: var(--ink); font-family: system-ui, sans-serif; font-size: 12px; }
svg text.value { fill: var(--soft); }
.grid { stroke: var(--rule); }
.failed { border-left: 4px solid #d0524f; padding-left: 14px; margin: 24px 0; }
.failed h2 { border: 0; margin: 0; padding: 0; }
.map { display: grid; grid-template-columns: max-content minmax(0, 1fr); gap: 6px; font-size: 11.5px; }
.map .names { text-align: right; }
.map .names span { display: block; height: 18px; line-height: 18px; }
.map svg { width: 100%; display: block; border-bottom: 1px solid var(--soft); }
.ticks { position: relative; height: 18px; }
.ticks span { position: absolute; transform: translateX(-50%); }
.ticks span[style="left:0.0%"] { transform: none; }
.under { text-align: center; }
.cell { shape-rendering: crispEdges; }
.axis { stroke: var(--soft); }
.line { fill: none; stroke-width: 2; stroke: var(--c); }
.dot { fill: var(--c); }
.box { fill: var(--page); stroke-width: 1.6; }
.arrow { fill: none; }
.legend { display: flex; flex-wrap: wrap; gap: 2px 16px; font-size: 0.82rem; color: var(--soft);
  padding-left: 8px; }
.legend span { overflow-wrap: anywhere; }
.scale { display: inline-flex; vertical-align: -1px; }
.scale i { width: 6px; height: 11px; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; font-size: 0.87rem; width: 100%; }
th, td { padding: 4px 10px; border-bottom: 1px solid var(--rule); white-space: nowrap; text-align: right;
  font-variant-numeric: tabular-nums; }
th { color: var(--soft); font-weight: 600; }
.left { text-align: left; }
ul { padding-left: 20px; margin: 8px 0; }
.hint { display: none; color: var(--soft); font-size: 0.87rem; }
@media (max-width: 760px) {
  .pairs { grid-template-columns: minmax(0, 1fr); }
  svg.chart text { font-size: 17px; }
  thead { display: none; }
  table, tbody { display: block; }
  tr { display: grid; grid-template-columns: repeat(auto-fit, minmax(58px, 1fr)); gap: 0 8px; padding: 7px 0;
    border-bottom: 1px solid var(--rule); }
  td { border: 0; padding: 0; text-align: left; }
  td:empty { display: none; }
  td:first-child, td:empty + td { font-weight: 600; }
  td.left { grid-column: 1 / -1; white-space: normal; overflow-wrap: anywhere; }
  td:not(.left)::before { content: attr(data-name); display: block; color: var(--soft); font-size: 0.75rem; }
}
""" + "".join(f".c{i} {{ --c: var(--c{i}); }}\n" for i in range(len(_LINES_LIGHT)))
)
