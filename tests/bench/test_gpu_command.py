"""The command `gpuprop bench` on the fake GPU: its JSON, its exit codes and what it refuses."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import typer
from gpu_tiny import SPEEDS, WRONG, FakeTimer, made_wrong, tiny
from typer.testing import CliRunner

import gpuprop as gp
from gpuprop.bench import gpu_measure, gpu_row, gpu_suite, gpu_work
from gpuprop.bench.gpu_catalogue import gpu_cases
from gpuprop.cli import bench_gpu as cli_bench_gpu
from gpuprop.cli.bench import bench

app = typer.Typer()
app.command()(bench)
CASES = gpu_cases()


@pytest.fixture(autouse=True)
def few(monkeypatch: pytest.MonkeyPatch) -> None:
    """Sets of inputs and samples; no search for garbage, which is long beside PyTorch."""
    monkeypatch.setattr(gpu_row.gc, "collect", lambda: 0)
    monkeypatch.setattr(gpu_work, "ROTATED", 1)
    monkeypatch.setattr(gpu_measure, "SAMPLES", 2)
    monkeypatch.setattr(gpu_measure, "MOST_SAMPLES", 3)


@pytest.fixture
def tiny_command(fake_gpu: Any, monkeypatch: pytest.MonkeyPatch) -> Any:
    """The command with two rows, one of them wrong if it is told so."""
    known = {name: CASES[name] for name in (WRONG, "embedding")}
    tell = {"wrong": False}
    run = gpu_suite.run

    def small(cases: Any, peer: bool, limit: float, **how: Any) -> Any:
        return run(cases, peer, limit, timer=FakeTimer(2.0), speeds=SPEEDS, sizes=tiny, torch=None, **how)

    monkeypatch.setattr(gpu_suite, "run", small)
    monkeypatch.setattr(
        cli_bench_gpu,
        "gpu_cases",
        lambda: {n: made_wrong()[n] for n in known} if tell["wrong"] else known,
    )
    return tell


def test_the_suite_writes_its_json_and_a_wrong_row_is_an_exit_code(tiny_command: Any, tmp_path: Path) -> None:
    out = tmp_path / "new" / "gpu.json"
    result = CliRunner().invoke(app, ["--suite", "gpu", "--json", str(out)], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    assert f"wrote {out}" in result.output
    assert [row["name"] for row in json.loads(out.read_text())["rows"]] == [WRONG, "embedding"]
    (line,) = [line.split() for line in result.output.splitlines() if line.startswith("embedding ")]
    assert line[1:3] == ["2.000", "2.000"]
    assert 0 < int(line[6].split("/")[1]) < int(line[6].split("/")[0])  # Python calls
    assert line[7:] == ["0", "/", *"------", "not", "measured"]  # no PyTorch: its memory, and five ratios
    tiny_command["wrong"] = True
    result = CliRunner().invoke(app, [WRONG, "--device", "cuda", "--json", str(out)], catch_exceptions=False)
    assert result.exit_code == 1
    assert "wrong" in json.loads(out.read_text())["rows"][0]
    assert f"{WRONG} wrong: " in result.output


def test_without_a_place_for_it_the_result_goes_to_the_package(
    tiny_command: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    default = gpu_suite.default_file
    monkeypatch.setattr(
        gpu_suite, "default_file", lambda machine, date: default(machine, date, tmp_path / "results")
    )
    assert CliRunner().invoke(app, ["--suite", "gpu"], catch_exceptions=False).exit_code == 0
    (path,) = (tmp_path / "results").iterdir()
    assert path.name.startswith("fake-20")
    assert json.loads(path.read_text())["rows"]
    (tmp_path / "file").touch()
    monkeypatch.setattr(
        gpu_suite, "default_file", lambda machine, date: default(machine, date, tmp_path / "file")
    )
    with pytest.raises(gp.DataError, match="say where with --json FILE"):
        CliRunner().invoke(app, ["--suite", "gpu"], catch_exceptions=False)


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["nothing", "--device", "cuda"], "no nothing; there is cross_entropy_32000"),
        (["--suite", "cpu"], "--suite is gpu"),
        (["adam_clip", "--suite", "gpu"], "without names"),
        (["--growth", "--device", "cuda"], "--growth measures the CPU"),
    ],
)
def test_what_it_cannot_measure_is_refused(args: list[str], message: str) -> None:
    with pytest.raises(gp.DataError, match=message):
        CliRunner().invoke(app, args, catch_exceptions=False)


def test_without_a_gpu_it_says_why(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse() -> int:
        raise gp.DeviceError("CUDA sees no GPU")

    monkeypatch.setattr("gpuprop.backend.cuda_setup.count", refuse)
    with pytest.raises(gp.DeviceError, match="'cuda' cannot be used: CUDA sees no GPU"):
        CliRunner().invoke(app, ["--device", "cuda"], catch_exceptions=False)
