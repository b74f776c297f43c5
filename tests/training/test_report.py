"""The report of a training: what its figures hold, what it points out, and the page in a browser."""

import html
import json
import re
import shutil
import subprocess

import pytest

from gpuprop.errors import CheckpointError
from gpuprop.explanation import Explanation, Row
from gpuprop.training import report
from gpuprop.training.failure import failure_after
from gpuprop.training.report import write_report
from gpuprop.training.report.charts import MOST_LINES, charts_of
from gpuprop.training.report.colour_map import map_html
from gpuprop.training.report.findings import findings_of, verdict
from gpuprop.training.report.flow import MOST_LAYERS, flow_of
from gpuprop.training.report.names import short_names
from gpuprop.training.report.page import Contents
from gpuprop.training.report.page import page as render
from gpuprop.training.report.scales import label, limits_of, ticks
from gpuprop.training.report.slowest import quickest
from gpuprop.training.report.svg import chart_svg, flow_svg, thickness

LAYERS = ("encoder.embedding", "encoder.cell", "bridge.layers.0", "decoder.hidden", "decoder.output")
GRAPH = [[a, b] for a, b in zip(LAYERS, (*LAYERS[1:], "loss"), strict=True)] + [
    ["encoder.cell", "decoder.output"]
]


def layer(step, strength=1.0, **more):
    return {
        "activation": 1.0, "flow": strength / step, "gradient": strength / step, "weight": 10.0,
        "update": 0.01, **more,
    }  # fmt: skip


def record(step, names=LAYERS, **more):
    layers = {name: layer(step, 10.0**-i) for i, name in enumerate(reversed(names))}
    return {"step": step, "gradient": 1.2 / step, "clipped": 0.04, "layers": layers, **more}


def gradients(count=8, gpu=True):
    made = [record(1 + 25 * i) for i in range(count)]
    for i, r in enumerate(made):
        r["layers"]["decoder.hidden"]["dead"] = 0.125
        if gpu:
            r["gpu"] = {"power": 200.0 + i, "memory": 8 * 2**30, "joules": 100.0}
    made[0]["graph"] = GRAPH
    return made


def metrics(epochs=3):
    return [
        {
            "epoch": e, "step": 60 * e, "train_loss": 2.0 / e, "valid_loss": 2.1 / e,
            "valid_exact_match": 0.2 * e, "lr": 0.001, "seconds": 3.0, "device": "cuda:0", "best": True,
        }
        for e in range(1, epochs + 1)
    ]  # fmt: skip


def write_run(folder, records=None, history=None):
    folder.mkdir()
    config = {
        "format": "gpuprop-run", "version": 1, "task": "seq2seq", "model": {"name": "gru"},
        "training": {"epochs": 3, "batch_size": 4}, "data": {"train": {"path": "<pairs>.tsv", "rows": 1234}},
    }  # fmt: skip
    (folder / "config.json").write_text(json.dumps(config), "utf-8")
    for name, lines in (
        ("metrics.jsonl", metrics() if history is None else history),
        ("gradients.jsonl", gradients() if records is None else records),
    ):
        (folder / name).write_text("".join(json.dumps(line) + "\n" for line in lines), "utf-8")
    return folder


def rendered(history, records, explanation="it was not asked for", failure=None):
    """The page as text."""
    charts, flow = charts_of(history, records), flow_of(records)
    return render(Contents("run", {}, history, records, charts, flow, explanation, "cpu", failure))


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    """report.html of a made-up encoder-decoder on a GPU."""
    pytest.importorskip("matplotlib")
    return write_report(write_run(tmp_path_factory.mktemp("runs") / "mine"))[0]


@pytest.fixture(scope="module")
def large_page(tmp_path_factory):
    """report.html of a made-up model of many layers, which are drawn as maps."""
    parts = ("self_attn", "self_attn.out_proj", "linear1", "linear2")
    names = [
        f"{side}.layers.{i}.{part}" for side in ("encoder", "decoder") for i in range(3) for part in parts
    ]
    records = [record(1 + 25 * i, names) for i in range(5)]
    records[0]["graph"] = [[a, b] for a, b in zip(names, [*names[1:], "loss"], strict=True)]
    return write_report(write_run(tmp_path_factory.mktemp("runs") / "large", records), measure=False)[0]


@pytest.fixture(scope="module")
def measured_page(tmp_path_factory):
    """report.html with tables of operations, and a drawing of six layers side by side."""
    run = write_run(tmp_path_factory.mktemp("runs") / "wide")
    records = [record(1 + 25 * i, [f"convolutions.{i}" for i in range(6)]) for i in range(5)]
    records[0]["graph"] = [[f"convolutions.{i}", "loss"] for i in range(6)]
    shapes = ((16, 31, 300), None), ((16, 31, 300), (1234, 300), (300,))
    rows = [
        Row(name, operation, *shapes, 2_690_000, 126_000_000, 0.0489, 1.49e-3)
        for name in ("", "decoder.layers.0.multihead_attn.out_proj")
        for operation in ("SoftmaxCrossEntropy", "Linear")
    ]
    text = rendered(metrics(), records, Explanation(rows, 2.5))
    (run / "report.html").write_text(text, "utf-8")
    return run / "report.html"


def test_there_is_a_chart_for_everything_recorded():
    charts = {chart.title: chart for chart in charts_of(metrics(), gradients())}
    assert list(charts) == [
        "Loss", "Validation scores", "Gradient", "Clipped steps", "Activations", "Gradients of activations",
        "Gradients of parameters", "Updates", "Dead units", "Gradient that reaches the encoder", "GPU power",
        "GPU memory",
    ]  # fmt: skip
    assert charts["Loss"].series["validation"] == [(1.0, 2.1), (2.0, 1.05), (3.0, pytest.approx(0.7))]
    assert charts["Updates"].series["decoder.output"][0] == (1.0, 0.001)
    assert list(charts["Dead units"].series) == ["decoder.hidden"]
    shares = {
        part: points[0][1] for part, points in charts["Gradient that reaches the encoder"].series.items()
    }
    squares = [10.0 ** (-2 * i) for i in range(5)]  # from decoder.output on
    assert shares["decoder"] == pytest.approx((squares[0] + squares[1]) / sum(squares))
    assert shares["encoder"] == pytest.approx((squares[3] + squares[4]) / sum(squares))
    assert sum(shares.values()) == pytest.approx(1.0)
    for chart in charts.values():
        assert "Healthy: " in chart.caption


def test_what_was_not_recorded_has_no_chart():
    assert charts_of([], []) == []
    titles = [chart.title for chart in charts_of(metrics(), [record(1, ("0", "2"))])]
    assert "Dead units" not in titles
    assert "Gradient that reaches the encoder" not in titles
    assert "GPU power" not in titles


def test_values_that_are_null_leave_a_gap():
    broken = record(26)
    broken["gradient"] = broken["layers"]["encoder.cell"]["flow"] = None
    charts = {chart.title: chart for chart in charts_of([], [record(1), broken, record(51)])}
    assert [x for x, _ in charts["Gradient"].series["all parameters"]] == [1.0, 51.0]
    assert len(charts["Gradients of activations"].series["encoder.cell"]) == 2
    assert len(charts["Gradients of activations"].series["decoder.output"]) == 3


def test_many_layers_become_a_map_of_colours():
    names = [f"layers.{i}" for i in range(MOST_LINES + 1)]
    chart = next(c for c in charts_of([], [record(1, names), record(26, names)]) if c.title == "Activations")
    assert map_html(chart).count('class="cell"') == 2 * len(names)
    few = next(c for c in charts_of([], [record(1), record(26)]) if c.title == "Activations")
    assert chart_svg(few).count('<path class="line') == len(LAYERS) * 2  # in the figure and in its legend


def test_a_cell_of_a_map_lasts_until_the_next_record():
    names = [f"layers.{i}" for i in range(MOST_LINES + 1)]
    records = [record(step, names) for step in (1, 2, 6, 11)]
    chart = next(c for c in charts_of([], records) if c.title == "Activations")
    found = re.findall(r'class="cell" x="([0-9.]+)" y="1" width="([0-9.]+)"', map_html(chart))
    places = [float(number) for cell in found for number in cell]
    assert places == pytest.approx([0, 66.7, 66.7, 266.7, 333.3, 333.3, 666.7, 333.3], abs=0.1)
    assert re.findall(r'left:([0-9.]+)%">([0-9]+)<', map_html(chart)) == [
        ("26.7", "5"), ("60.0", "10"), ("93.3", "15"),
    ]  # fmt: skip


@pytest.mark.parametrize("most", [12, 20, 26])
def test_short_names_stay_distinct(most):
    parts = ("norm1", "self_attn", "self_attn.out_proj", "multihead_attn.out_proj", "linear1", "linear2")
    sides = [f"{side}.layers.{i}" for side in ("encoder", "decoder") for i in range(12)]
    names = [f"{side}.{part}" for side in sides for part in parts]
    names += ["encoder.norm", "loss", "x." + "a" * 40 + "b" + "a" * 40, "x." + "a" * 40 + "c" + "a" * 40]
    short = short_names(names, most)
    assert list(short) == names
    assert len(set(short.values())) == len(names)
    if most == 26:
        assert short["decoder.layers.11.multihead_attn.out_proj"] == "decoder.11.multi….out_proj"
        assert short["encoder.layers.0.linear1"] == "encoder.0.linear1"
        assert max(len(short[name]) for name in names[:-2]) == most


def test_containers_are_left_out_where_that_tells_layers_apart():
    names = ["layers.0", "0", "a.layers.1"]
    assert short_names(names, 10) == {name: name for name in names}
    assert list(short_names(names, 8).values()) == ["layers.0", "0", "a.1"]


def test_the_gradient_flows_from_the_loss_to_the_embedding():
    flow = flow_of(gradients())
    assert [flow.boxes[name].row for name in ("loss", *reversed(LAYERS))] == [0, 1, 2, 3, 4, 5]
    assert ("loss", "decoder.output") in flow.arrows
    assert ("encoder.cell", "encoder.embedding") in flow.arrows
    assert flow.detours == {("decoder.output", "encoder.cell"): 1}
    strengths = [thickness(flow.boxes[name]) for name in reversed(LAYERS)]
    assert strengths == sorted(strengths, reverse=True)
    assert strengths[0] > 3 * strengths[-1]
    assert flow_svg(flow).count('class="arrow"') == len(GRAPH)


def test_layers_without_gradient_are_drawn_as_such():
    records = gradients()
    for r in records:
        r["layers"]["encoder.embedding"]["flow"] = 0.0
    flow = flow_of(records)
    assert flow.boxes["encoder.embedding"].flow is None
    assert "no gradient" in flow_svg(flow)
    assert flow_of([record(1)]) is None


def test_a_large_model_is_drawn_by_its_parts_and_without_shortcuts():
    names = [f"encoder.layers.{i}.{part}" for i in range(12) for part in ("norm1", "attn", "norm2", "linear")]
    graph = [[a, b] for i, a in enumerate(names) for b in names[i + 1 :]] + [[names[-1], "loss"]]
    flow = flow_of([record(1, names, graph=graph)])
    assert len(flow.boxes) <= MOST_LAYERS
    assert flow.rows == 13
    assert len(flow.arrows) == 12
    assert flow.detours == {}


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda r: r["layers"]["decoder.hidden"].update(dead=0.9), "decoder.hidden: 90 % of its ReLU units"),
        (lambda r: r.update(clipped=0.75), "75 % of the steps were clipped"),
        (lambda r: r["layers"]["encoder.cell"].update(update=5.0), "moves it by 0.5 of its size"),
        (lambda r: r["layers"]["encoder.cell"].update(update=1e-7), "hardly learns"),
        (lambda r: r["layers"]["encoder.cell"].update(flow=1e-9), "it vanishes"),
        (lambda r: r.update(gradient=None), "At step 1 the gradient was not finite"),
        (
            lambda r: r["layers"]["encoder.cell"].update(activation=0.5 if r["step"] == 1 else 2e4),
            "encoder.cell: what it puts out has grown from 0.5 to 2e+04: training has exploded",
        ),
        (lambda r: r.update(gradient=float(r["step"] ** 4)), "The gradient has grown from 1 to "),
        (lambda r: r["layers"]["decoder.output"].update(gradient=100.0), "reaches the encoder"),
    ],
)
def test_what_stands_out_is_said(change, words):
    healthy = gradients()
    for r in healthy:
        r["layers"]["encoder.cell"]["gradient"] = r["layers"]["decoder.output"]["gradient"]
    assert findings_of(healthy) == []
    for r in healthy:
        change(r)
    assert any(words in sentence for sentence in findings_of(healthy))


def test_how_much_was_recorded_is_said():
    text = rendered(metrics(1), gradients(2))
    assert "<li>" in text
    assert "Recorded: 2 of 60 steps, from 1 to 26." in text
    healthy = gradients(5)
    assert verdict(healthy, metrics(1)).startswith(
        "Nothing in what was recorded (5 of 101 steps, from 1 to 101)"
    )
    assert verdict(healthy[:4], []) == "Too little was recorded to tell: 4 of 76 steps, from 1 to 76."


def explained(*seconds, operations=("Linear", "Tanh")):
    both = zip(operations, seconds, strict=True)
    return Explanation([Row("", operation, ((2,),), ((2,),), 8, 2, 1.0, s) for operation, s in both], 1.0)


def test_the_slowest_operations_are_by_the_least_time_of_each():
    """One pass is disturbed here, another there."""
    found = quickest([explained(5.0, 1.0), explained(2.0, 9.0), explained(3.0, 4.0)])
    assert [(row.operation, row.seconds) for row in found.rows] == [("Linear", 2.0), ("Tanh", 1.0)]
    other = explained(2.0, 0.5, operations=("Linear", "ReLU"))
    assert quickest([explained(5.0, 1.0), other]) is other


def test_steps_that_float16_skipped_are_no_findings_and_those_after_a_failure_do_not_count():
    skipped = gradients()
    for r in skipped:
        r["layers"]["encoder.cell"]["gradient"] = r["layers"]["decoder.output"]["gradient"]
    for i in (0, 1, 6):
        skipped[i]["gradient"] = None
        for values in skipped[i]["layers"].values():
            values.update(update=0.0)
    assert findings_of(skipped) == []
    failed = [*skipped[:6], *({**skipped[6], "gradient": 1e9, "step": step} for step in (151, 152, 153))]
    assert findings_of(failed) != []
    assert findings_of(failed, {"step": 151, "message": "the loss is nan"}) == []


def test_a_failed_step_is_shown_unless_training_went_on(tmp_path):
    run = write_run(tmp_path / "failed")
    (run / "failure").mkdir()
    message = "the loss is nan at step 190 (epoch 4): training has diverged"
    record = {
        "format": "gpuprop-failure",
        "step": 190,
        "message": message,
        "operation": "Log",
        "layer": "<gate>",
    }
    (run / "failure" / "failure.json").write_text(json.dumps(record), "utf-8")
    failure = failure_after(run, metrics()[-1]["step"])
    text = rendered(metrics(), gradients(), failure=failure)
    assert f"<h2>Training failed</h2><p>{message}</p><p>First: <b>Log of &lt;gate&gt;</b>." in text
    assert "look healthy" not in text
    assert failure_after(run, 190) is None
    other = run / "failure" / "config.json"  # that of another training than the folder's
    other.write_text("{}", "utf-8")
    assert failure_after(run, metrics()[-1]["step"]) is None
    other.unlink()
    assert failure_after(tmp_path, 0) is None
    (run / "failure" / "failure.json").write_text("{", "utf-8")
    with pytest.raises(CheckpointError, match=r"failure\.json: no failed step can be read"):
        failure_after(run, 0)


def test_axes_have_round_numbers():
    assert ticks(0.0, 1.0) == pytest.approx([0, 0.2, 0.4, 0.6, 0.8, 1.0])
    assert ticks(1.0, 3.0, whole=True) == [1, 2, 3]
    assert ticks(1e-6, 1.0, log=True) == pytest.approx([1e-6, 1e-4, 1e-2, 1.0])
    assert [label(v) for v in (0.0, 0.25, 1e-6, 1500.0, 2e7)] == ["0", "0.25", "1e-6", "1,500", "2e7"]
    assert [label(v) for v in (99_999.0, 150_000.0, 2.5e-4)] == ["99,999", "1.5e5", "2.5e-4"]
    level = next(c for c in charts_of([], [record(1)]) if c.title == "Activations")
    assert limits_of(level) == (1.0, 10.0)


def test_the_page_stands_alone_and_says_what_it_could_not_measure(page):
    text = page.read_text("utf-8")
    assert not re.search(r"https?:|@import|<script|<link(?! rel=\"icon\" href=\"data:,\")|<img", text)
    assert "Not measured: &lt;pairs&gt;.tsv cannot be read any more" in text
    assert "Energy from the first record to the last: 800 J." in text
    assert text.count("<figure>") == text.count("</figcaption>") == 13
    for picture in ("curves", "layers", "flow", "encoder", "gpu"):
        assert (page.parent / f"report_{picture}.png").read_bytes().startswith(b"\x89PNG")


def test_an_old_run_without_records_has_curves_and_says_what_is_missing(tmp_path):
    run = write_run(tmp_path / "old")
    (run / "gradients.jsonl").unlink()
    text = write_report(run, tmp_path / "old.html", measure=False)[0].read_text("utf-8")
    assert "no gradients.jsonl" in text
    assert text.count("<figure>") == 2


def test_the_page_is_written_without_matplotlib(tmp_path, monkeypatch):
    run = write_run(tmp_path / "run")
    monkeypatch.setitem(__import__("sys").modules, "matplotlib.figure", None)
    with pytest.raises(report.pictures.PlotError, match="no PNG files: matplotlib is not installed"):
        write_report(run, measure=False)
    assert (run / "report.html").exists()


def test_a_folder_without_run_is_refused(tmp_path):
    with pytest.raises(CheckpointError, match="is not a run folder"):
        write_report(tmp_path)


MEASURE = """<script>
const rgb = c => c.match(/[0-9.]+/g).slice(0, 3).map(v => { v /= 255;
  return v <= 0.03928 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4; });
const light = c => { const [r, g, b] = rgb(c); return 0.2126 * r + 0.7152 * g + 0.0722 * b; };
const contrast = (a, b) => { const [x, y] = [light(a), light(b)].sort((p, q) => q - p);
  return (x + 0.05) / (y + 0.05); };
const back = getComputedStyle(document.body).backgroundColor;
const all = selector => [...document.querySelectorAll(selector)];
const drawings = all("figure svg.chart, figure .map, figure svg.flow");
const texts = all("figure svg text"), labels = all(".map span, .map .under");
const shown = e => e.getClientRects().length > 0;
const view = t => t.ownerSVGElement.viewBox.baseVal;
const scale = t => t.ownerSVGElement.getBoundingClientRect().width / view(t).width;
const outside = t => { const b = t.getBBox();
  return !t.hasAttribute("transform") && (b.x < -1 || b.x + b.width > view(t).width + 1); };
const words = all("h1, h2, h3, p, figcaption, dt, dd, td, th, .legend span, .map span");
const lines = all("figure .line, figure .arrow");
const wide = e => e.getBoundingClientRect().right > window.innerWidth + 1;
const names = all(".map").map(m => [...m.querySelectorAll(".names span")].map(s => s.textContent));
const style = e => getComputedStyle(e);
parent.postMessage(JSON.stringify({
  window: window.innerWidth,
  width: document.documentElement.scrollWidth,
  dark: light(back) < 0.2,
  figures: document.querySelectorAll("figure").length,
  drawings: drawings.map(d => { const b = d.getBoundingClientRect(); return [b.width, b.height]; }),
  letters: Math.min(...texts.map(t => parseFloat(style(t).fontSize) * scale(t)),
    ...labels.map(t => parseFloat(style(t).fontSize))),
  outside: texts.filter(outside).map(t => t.textContent),
  beyond: all("body *").filter(e => shown(e) && wide(e) && !e.closest(".wide")).map(e => e.outerHTML),
  scrolled: all("*").filter(e => e.scrollWidth > e.clientWidth + 1 && style(e).overflowX != "visible").length,
  hints: all(".hint").filter(shown).length,
  ambiguous: names.filter(n => new Set(n).size < n.length).length,
  contrast: Math.min(...words.map(e => contrast(style(e).color, back)),
    ...texts.map(t => contrast(style(t).fill, back))),
  lines: Math.min(...lines.map(l => contrast(style(l).stroke, back))),
}), "*");
</script>"""
FRAME = """<!doctype html><link rel="icon" href="data:,"><pre></pre><script>
addEventListener("message", m => { document.querySelector("pre").textContent = m.data; });
</script><iframe width="{width}" height="900" style="border: 0" src="page.html"></iframe>"""


@pytest.mark.parametrize(
    ("name", "width", "theme", "figures", "scrolled"),
    [
        ("page", 1280, "light", 13, 0),
        ("page", 390, "light", 13, 0),
        ("large_page", 390, "dark", 10, 0),
        ("measured_page", 1280, "dark", 9, 0),
        ("measured_page", 390, "light", 9, 1),
    ],
)
def test_the_page_in_a_browser(request, tmp_path, name, width, theme, figures, scrolled):
    browser = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if browser is None:
        pytest.skip("no chromium: apt-get install chromium")
    text = request.getfixturevalue(name).read_text("utf-8")
    (tmp_path / "page.html").write_text(text.replace("</body>", MEASURE + "</body>"), "utf-8")
    (tmp_path / "frame.html").write_text(FRAME.replace("{width}", str(width)), "utf-8")  # no window is narrow
    options = [
        "--headless=new", "--no-sandbox", "--disable-gpu", "--enable-logging=stderr", "--hide-scrollbars",
        "--window-size=1400,1000", "--virtual-time-budget=5000", f"--user-data-dir={tmp_path / 'profile'}",
        f"--blink-settings=preferredColorScheme={int(theme == 'light')}", "--dump-dom",
    ]  # fmt: skip
    done = subprocess.run(
        [browser, *options, (tmp_path / "frame.html").as_uri()],
        capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert "CONSOLE" not in done.stderr
    found = json.loads(html.unescape(re.search(r"<pre>(.*)</pre>", done.stdout, re.DOTALL)[1]))
    assert found["figures"] == len(found["drawings"]) == figures
    assert all(w > 200 and h > 100 for w, h in found["drawings"])
    assert found["width"] <= found["window"] == width
    assert found["letters"] > 9.0
    assert found["outside"] == found["beyond"] == []
    assert found["scrolled"] == found["hints"] == scrolled  # what is scrolled says so
    assert found["ambiguous"] == 0
    assert found["dark"] == (theme == "dark")
    assert found["contrast"] > 4.5
    assert found["lines"] > 2.5
