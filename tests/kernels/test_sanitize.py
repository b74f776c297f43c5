"""Our kernels under compute-sanitizer (tests/gpu/sanitize.py): what runs, and what is made of its answers."""

from __future__ import annotations

import sys

import pytest
import scripts

from gpuprop.backend import kernels, signatures


@pytest.fixture(scope="module")
def sanitize():
    return scripts.load("sanitize")


@pytest.fixture
def tool(sanitize, monkeypatch, tmp_path):
    """Stands in for compute-sanitizer: says `words`, then ends with `code`."""

    def install(words, code, wait=0):
        program = tmp_path / "compute-sanitizer"
        program.write_text(
            f"#!{sys.executable}\nimport sys, time\n"
            f"print(sys.argv[2], {words!r}, flush=True)\ntime.sleep({wait})\nsys.exit({code})\n"
        )
        program.chmod(0o755)
        monkeypatch.setenv("PATH", str(tmp_path))

    return install


def test_every_tool_runs_the_cases_and_reports(sanitize, tool):
    tool("ERROR SUMMARY: 0 errors", 0)
    outcome = sanitize.sanitize(60)
    assert [(part["returncode"], part["errors"]) for part in outcome.values()] == [(0, 0)] * 3
    assert [part["output"].split()[0] for part in outcome.values()] == list(sanitize.TOOLS)


def test_findings_are_counted_and_fail(sanitize, tool):
    tool("RACECHECK SUMMARY: 2 hazards displayed (2 errors, 0 warnings)", sanitize.FOUND)
    part = sanitize.sanitize(60)["racecheck"]
    assert (part["returncode"], part["errors"]) == (sanitize.FOUND, 2)


def test_a_tool_that_takes_too_long_is_stopped(sanitize, tool):
    tool("so far", 0, wait=60)
    outcome = sanitize.sanitize(0)
    assert {part["returncode"] for part in outcome.values()} == {124}
    assert outcome["memcheck"]["errors"] is None


def test_without_the_tool_it_is_left_out(sanitize, monkeypatch):
    monkeypatch.setattr(sanitize, "executable", lambda: None)
    outcome = sanitize.sanitize(60)
    assert set(outcome) == set(sanitize.TOOLS)
    assert {(part["returncode"], part["output"]) for part in outcome.values()} == {(0, sanitize.LEFT_OUT)}


def test_the_cases_launch_every_kernel(sanitize, fake_gpu, capsys):
    """Here on the fake GPU; but for the one that only runs where algorithms need not be deterministic."""
    sanitize.run_cases("cuda")
    assert capsys.readouterr().out.splitlines() == [f"ran {file}" for file in sanitize.OURS]
    declared = {
        name for file in kernels.kernel_files() for name in signatures.parse_kernels(file.path.read_text())
    }
    assert declared - set(fake_gpu.launches) == {"embedding_backward_atomic"}
