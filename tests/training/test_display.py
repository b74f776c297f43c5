"""The live display and the learning curves."""

import io
import math
import sys

import pytest
from rich.console import Console

import gpuprop as gp
from gpuprop.backend.device import Device
from gpuprop.training.curves import PlotError, draw_curves
from gpuprop.training.live import LiveDisplay
from gpuprop.training.progress import clock, epoch_header, epoch_row, make_display, speed

RECORD = {
    "epoch": 1, "step": 9, "train_loss": 0.51234, "valid_loss": 0.6, "valid_accuracy": 0.75, "lr": 0.1,
    "seconds": 1.26, "best": True,
}  # fmt: skip


def drawn(display):
    console = Console(width=80, file=io.StringIO(), force_terminal=False)
    console.print(display._render())
    return console.file.getvalue()


def test_the_line_holds_epoch_step_loss_speed_and_time_left_in_80_columns():
    display = LiveDisplay(Console(file=io.StringIO()))
    display.start(12, 1600, Device("cpu"))
    display.epoch(3)
    display.began -= 60
    display.epoch_began -= 60
    display.step(1200, 0.51234, 600_000)
    line = drawn(display)
    for part in ("epoch 3/12", "step 1200/1600", "loss 0.5123", "10.0k tokens/s", "left"):
        assert part in line
    assert line.count("\n") == 1
    display.validating()
    assert "validating" in drawn(display)


def test_time_left_counts_from_the_first_epoch_of_this_fit():
    display = LiveDisplay(Console(file=io.StringIO()))
    display.start(4, 10, Device("cpu"))
    display.epoch(3)
    assert display._left() == math.inf
    display.began -= 30
    display.step(5, 0.5, 100)
    assert display._left() == pytest.approx(90, rel=0.05)  # half an epoch took 30 s; one and a half are left


def test_finished_epochs_stay_on_the_screen():
    console = Console(width=80, file=io.StringIO(), force_terminal=False)
    with LiveDisplay(console) as display:
        display.start(2, 9, Device("cpu"))
        display.epoch(1)
        display.finished(RECORD)
        display.finished({**RECORD, "epoch": 2, "best": False})
    lines = [line.rstrip() for line in console.file.getvalue().splitlines() if line.strip()]
    assert lines == [
        epoch_header(RECORD),
        epoch_row(RECORD, 2),
        epoch_row({**RECORD, "epoch": 2, "best": False}, 2),
    ]


def test_a_row_lines_up_with_its_heading():
    header, row = epoch_header(RECORD), epoch_row(RECORD, 10)
    for name, value in (("train loss", "0.5123"), ("accuracy", "0.7500"), ("seconds", "1.3")):
        assert header.index(name) + len(name) == row.index(value) + len(value)
    assert row.endswith("best")


def test_units():
    assert [speed(10, 1), speed(12_345, 1), speed(3_000_000, 2), speed(0, 1), speed(5, 0)] == [
        "10 tokens/s", "12.3k tokens/s", "1.50M tokens/s", "", "",
    ]  # fmt: skip
    assert [clock(7), clock(754), clock(3723), clock(math.inf)] == ["0:07", "12:34", "1:02:03", "-:--"]


def test_displays_by_name(monkeypatch):
    assert type(make_display("live")) is LiveDisplay
    assert type(make_display("auto")).__name__ == "PlainDisplay"  # pytest is no terminal
    monkeypatch.setattr(sys, "stderr", type("Tty", (io.StringIO,), {"isatty": lambda self: True})())
    monkeypatch.setenv("TERM", "xterm")
    assert type(make_display("auto")) is LiveDisplay
    monkeypatch.setenv("TERM", "dumb")
    assert type(make_display("auto")).__name__ == "PlainDisplay"
    with pytest.raises(gp.DataError):
        make_display("loud")


def test_curves_of_several_runs_are_one_picture(tmp_path):
    pytest.importorskip("matplotlib")
    history = [{**RECORD, "epoch": e, "train_loss": 1 / e, "best": e == 2} for e in (1, 2, 3)]
    draw_curves({"one": history}, tmp_path / "one.png")
    draw_curves({"one": history, "two": history, "none": []}, tmp_path / "two.png", "title")
    sizes = {}
    for name in ("one", "two"):
        content = (tmp_path / f"{name}.png").read_bytes()
        assert content.startswith(b"\x89PNG")
        sizes[name] = int.from_bytes(content[20:24], "big")
    assert sizes["two"] == 2 * sizes["one"]


def test_curves_without_validation(tmp_path):
    pytest.importorskip("matplotlib")
    draw_curves({"a": [{"epoch": 1, "train_loss": 0.5, "best": True}]}, tmp_path / "c.png")
    assert (tmp_path / "c.png").exists()


def test_curves_without_matplotlib_say_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(PlotError, match=r'pip install "gpuprop\[plots\]"'):
        draw_curves({"a": [RECORD]}, tmp_path / "c.png")
    assert not (tmp_path / "c.png").exists()


def test_short_names_have_room_for_their_numbers():
    record = {"epoch": 1, "train_loss": 1.0, "valid_bleu": 34.125, "valid_wer": 0.25, "seconds": 1.0}
    header, row = epoch_header(record), epoch_row(record, 3)
    assert header.split() == ["epoch", "train", "loss", "BLEU", "WER", "seconds"]
    assert header.index("BLEU") + len("BLEU") == row.index("34.1250") + len("34.1250")
    assert header.index("WER") + len("WER") == row.index("0.2500") + len("0.2500")
