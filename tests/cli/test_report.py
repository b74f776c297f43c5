"""`gpuprop report`: what it writes, what it says where something is missing, and the view of a live run."""

import io
import json
import os
import shutil
import threading
import time

import pytest
from rich.console import Console

from gpuprop.training.report import watch as live


@pytest.fixture
def run(classifier, tmp_path):
    """A copy of the classifier's run."""
    return shutil.copytree(classifier, tmp_path / "mine")


def test_a_report_is_written_into_the_run_folder(cli, run):
    pytest.importorskip("matplotlib")
    done = cli("report", run)
    assert done.code == 0
    names = ["report.html", "report_curves.png", "report_layers.png", "report_flow.png"]
    assert done.out.split() == [str(run / name) for name in names]
    page = (run / "report.html").read_text("utf-8")
    assert "<h1>mine</h1>" in page
    assert ">MeanOverTime</td>" in page  # measured on the run's own rows
    assert "Power and energy</h2><p>Not recorded: the training ran on cpu." in page


def test_a_report_of_a_translator_shows_its_encoder(cli, translator, tmp_path):
    pytest.importorskip("matplotlib")
    done = cli("report", translator, "--out", tmp_path / "pairs.html")
    assert done.code == 0
    assert (tmp_path / "report_encoder.png").exists()
    page = (tmp_path / "pairs.html").read_text("utf-8")
    assert "Gradient that reaches the encoder" in page
    assert ">GRU</td>" in page
    assert not (translator / "report.html").exists()


def test_data_that_is_gone_or_changed_is_said(cli, run, tmp_path):
    config = json.loads((run / "config.json").read_text("utf-8"))
    moved = tmp_path / "rows.tsv"
    shutil.copy(config["data"]["train"]["path"], moved)
    config["data"]["train"]["path"] = str(moved)
    (run / "config.json").write_text(json.dumps(config), "utf-8")
    page = run / "report.html"
    with moved.open("a") as file:
        file.write("kind\tone more\n")
    assert cli("report", run).code == 0
    assert f"Not measured: {moved} has changed since the training." in page.read_text("utf-8")
    moved.unlink()
    assert cli("report", run).code == 0
    assert f"Not measured: {moved} cannot be read any more" in page.read_text("utf-8")
    assert cli("report", run, "--no-measure").code == 0
    assert "Not measured: it was not asked for." in page.read_text("utf-8")


def test_a_folder_that_is_no_run_is_refused(cli, tmp_path):
    done = cli("report", tmp_path)
    assert done.code == 2
    assert "is not a run folder" in done.err
    done = cli("report", tmp_path / "nowhere", "--watch")
    assert done.code == 2
    assert "no such run folder" in done.err


def test_a_place_that_cannot_be_written_is_named(cli, run):
    done = cli("report", run, "--no-measure", "--out", run / "no" / "where.html")
    assert done.code == 1
    assert "where.html: could not be saved" in done.err


def test_watching_a_finished_run_shows_it_once(cli, run):
    done = cli("report", run, "--watch")
    assert done.code == 0
    assert "epoch 3/3" in done.out
    assert "valid loss" in done.out
    for word in ("embedding", "output", "update/weight"):
        assert word in done.out


def console():
    return Console(file=io.StringIO(), width=120, force_terminal=True)


def test_watching_follows_a_run_until_its_last_epoch(run):
    """The files of a run come one by one, as from a training in another process."""
    later = run.parent / "later"
    later.mkdir()
    lines = (run / "metrics.jsonl").read_text("utf-8").splitlines(keepends=True)
    seen = console()
    thread = threading.Thread(target=live.watch, args=(later, seen, 0.01))
    thread.start()

    def showed(text):
        end = time.monotonic() + 20
        while text not in seen.file.getvalue():
            assert time.monotonic() < end, seen.file.getvalue()[-2000:]
            time.sleep(0.01)

    showed("waiting for the first epoch")
    shutil.copy(run / "gradients.jsonl", later)
    staged = later / "config.new"
    shutil.copy(run / "config.json", staged)
    os.replace(staged, later / "config.json")
    showed("no epoch is over yet")
    for count, line in enumerate(lines, start=1):
        with (later / "metrics.jsonl").open("a") as file:
            file.write(line)
        if count < len(lines):
            showed(f"epoch {count}/3")
            assert thread.is_alive()
    thread.join(timeout=20)
    assert not thread.is_alive()
    assert "epoch 3/3" in seen.file.getvalue()


def test_watching_ends_on_ctrl_c(run, monkeypatch):
    (run / "metrics.jsonl").unlink()

    def interrupt(seconds):
        raise KeyboardInterrupt

    monkeypatch.setattr(live.time, "sleep", interrupt)
    live.watch(run, console())


def test_watching_ends_when_a_run_stopped_early_or_is_silent(run):
    config = json.loads((run / "config.json").read_text("utf-8"))
    config["training"] |= {"epochs": 10, "early_stop": 2}
    (run / "config.json").write_text(json.dumps(config), "utf-8")
    records = [json.loads(line) for line in (run / "metrics.jsonl").read_text("utf-8").splitlines()]
    for best, over in ((2, False), (1, True)):
        lines = [json.dumps(r | {"best": r["epoch"] == best}) for r in records]
        (run / "metrics.jsonl").write_text("\n".join(lines) + "\n", "utf-8")
        assert live.ended(run) is over
    lines = [json.dumps(r | {"best": True}) for r in records]
    (run / "metrics.jsonl").write_text("\n".join(lines) + "\n", "utf-8")
    assert not live.ended(run)
    for name in ("config.json", "metrics.jsonl", "gradients.jsonl"):
        os.utime(run / name, (time.time() - 2 * live.SILENT,) * 2)
    assert live.ended(run)


def test_sparklines_show_powers_of_ten():
    assert live.sparkline([1.0, 10.0, 100.0]) == "▁▅█"
    assert live.sparkline([1.0, None, 1.01]) == "▁ ▁"
    assert live.sparkline([None, 0.0]) == ""


@pytest.mark.parametrize("layers", [1, 3, 40])
def test_the_view_fits_a_small_terminal(run, layers):
    parts = ("self_attn", "self_attn.out_proj", "multihead_attn.out_proj", "linear1", "linear2", "norm1")
    sides = [f"{side}.layers.{i}" for side in ("encoder", "decoder") for i in range(layers)]
    names = [f"{side}.{part}" for side in sides for part in parts] + ["encoder.norm", "decoder.output"]
    values = {"activation": 0.5, "flow": 2e-5, "gradient": 3.0, "weight": 9.0, "update": 0.01, "dead": 0.9}
    layers = dict.fromkeys(names, values)
    records = [{"step": step, "gradient": 1.5, "clipped": 1.0, "layers": layers} for step in range(50)]
    (run / "gradients.jsonl").write_text("".join(json.dumps(r) + "\n" for r in records), "utf-8")
    screen = Console(file=io.StringIO(), width=80, height=24)
    screen.print(live.view(run, 80, 24))
    lines = screen.file.getvalue().splitlines()
    assert len(lines) < 24
    assert max(map(len, lines)) <= 80
    assert "epoch 3/3" in lines[0]
    assert "(50 recorded)" in lines[0]
    head = next(i for i, line in enumerate(lines) if line.startswith("layer"))
    assert lines[head].split() == "layer activation dL/dy gradient over time update/weight dead".split()  # noqa: SIM905
    rows = [line for line in lines[head + 1 :] if "\u2584" in line or "\u2581" in line]
    assert len({row.split()[0] for row in rows}) == len(rows) > 1
    assert "2.0e-5" in rows[0]
    assert rows[0].rstrip().endswith("90 %")
    assert any(line.startswith("! ") for line in lines)


def test_layers_shown_as_one_have_the_norm_of_all_their_parameters():
    first = {"activation": 2.0, "gradient": 3.0, "weight": 30.0, "update": 0.3, "dead": 0.5}
    second = {"activation": 1.0, "gradient": 4.0, "weight": 40.0, "update": 0.4}
    found = live.together([first, second])
    assert found == {"activation": 2.0, "gradient": 5.0, "weight": 50.0, "update": 0.5, "dead": 0.5}
    assert live.together([first, {"gradient": None}])["gradient"] is None
