"""What `make gpu` runs, with every command stood in for: the bench suite comes last, in the time that is
left, and its rows go into the one JSON."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest
import scripts


@pytest.fixture
def check() -> Any:
    return scripts.load("check")


def run(
    check: Any, monkeypatch: pytest.MonkeyPatch, out: Path, rows: list[Any], code: int
) -> tuple[int, Any]:
    """(exit code, the commands with their limits)."""
    ran: list[tuple[list[str], float]] = []

    def command(arguments: list[str], limit: float) -> dict[str, Any]:
        ran.append((arguments, limit))
        if "bench" in arguments:
            found = {"rows": rows, "left_out": ["step_mlp"]}
            Path(arguments[arguments.index("--json") + 1]).write_text(json.dumps(found))
            return {"returncode": code, "seconds": 1.0, "output": ""}
        for argument in arguments:
            if argument.startswith("--junitxml="):
                Path(argument.partition("=")[2]).write_text(
                    '<r><testcase classname="a" name="b"/><testcase time="0.0"/></r>'
                )
        return {"returncode": 0, "seconds": 1.0, "output": ""}

    monkeypatch.setattr(check, "command", command)
    monkeypatch.setattr(sys, "argv", ["check.py", "--out", str(out), "--seconds", "500"])
    return check.main(), ran


def test_the_bench_is_last_and_has_the_time_that_is_left(
    check: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, ran = run(
        check, monkeypatch, tmp_path / "o" / "gpu.json", [{"name": "gru_256", "verdict": "pass"}], 0
    )
    assert code == 0
    arguments, limit = ran[-1]
    assert arguments[1:6] == ["-m", "gpuprop", "bench", "--suite", "gpu"]
    assert 490 < limit <= 500
    assert float(arguments[arguments.index("--limit") + 1]) == pytest.approx(limit - check.LAST_ROW, abs=0.6)
    written = json.loads((tmp_path / "o" / "gpu.json").read_text())
    assert written["bench"]["results"]["rows"][0]["verdict"] == "pass"
    assert written["tests"]["passed"] == 1
    assert written["ok"]
    assert "  gru_256: pass\n  step_mlp: no time\n" in capsys.readouterr().out


def test_a_wrong_row_fails_all(
    check: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    wrong = {"name": "gru_256", "wrong": "y is 1 from float64", "verdict": "not measured"}
    code, _ = run(check, monkeypatch, tmp_path / "gpu.json", [wrong], 1)
    assert code == 1
    assert "gru_256: y is 1 from float64" in capsys.readouterr().out


def test_at_worst_the_bench_has_two_fifths_of_the_time(check: Any) -> None:
    left = 1.0
    for name, (_, share) in check.PARTS.items():
        if name == "bench":
            assert (left * share) == left > 0.4
        left *= 1 - share
    assert list(check.PARTS)[-1] == "bench"
    assert check.rows(None) == []


WRITES_WHEN_INTERRUPTED = """
import pathlib, subprocess, sys, time
subprocess.Popen(["sleep", "60"])
try:
    time.sleep(60)
except KeyboardInterrupt:
    print("what it has")
"""
DEAF = """
import signal, subprocess, time
signal.signal(signal.SIGINT, signal.SIG_IGN)
print("so far", flush=True)
subprocess.Popen(["sleep", "60"])
time.sleep(60)
"""


@pytest.mark.parametrize(
    ("program", "grace", "words"), [(WRITES_WHEN_INTERRUPTED, 8.0, "what it has"), (DEAF, 0.5, "so far")]
)
def test_a_part_without_time_says_what_it_has_and_ends_with_all_it_started(
    check: Any, monkeypatch: pytest.MonkeyPatch, program: str, grace: float, words: str
) -> None:
    """Else the pipe of its standard output stays open for a minute."""
    monkeypatch.setattr(check, "GRACE", grace)
    part = check.command([sys.executable, "-c", program], 1.0)
    assert (part["returncode"], part["output"].strip()) == (124, words)
    assert part["seconds"] < 30


def test_the_outcome_of_a_command(check: Any) -> None:
    part = check.command([sys.executable, "-c", "import sys; print('seen'); sys.exit(3)"], 60)
    assert (part["returncode"], part["output"]) == (3, "seen\n")
