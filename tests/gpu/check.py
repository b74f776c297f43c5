"""What `make gpu` runs: the GPU tests, the experiments, the kernels under compute-sanitizer, a short
training of each example, and last the bench suite; one JSON out.

    make gpu PYTHON=python3          # this machine's own Python, with CuPy, NumPy, pytest, hypothesis, ...
    GPUPROP_DATA=DIR make gpu        # where copies of the data sets are, when there is no network

Needs CuPy, NumPy, pytest, hypothesis and gpuprop's own dependencies (typer, rich, safetensors,
nvidia-ml-py); pooch (for downloads), ml_dtypes, psutil, matplotlib, sacrebleu, rouge-score, pytest's plugins
and PyTorch may be missing.

Ends within ten minutes: each part has a time limit and the outcome says which parts ran out of it.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib.metadata
import importlib.util
import json
import os
import platform
import signal
import subprocess
import sys
import tempfile
import time
import xml.etree.ElementTree as ET
from collections.abc import Callable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
PACKAGES = (
    "gpuprop",
    "numpy",
    "cupy-cuda13x",
    "cupy-cuda12x",
    "cupy",
    "nvidia-ml-py",
    "pytest",
    "hypothesis",
    "nvidia-cuda-nvrtc",
    "torch",
)
LAST_ROW = 15.0  # seconds that a row of the bench may need beyond the suite's time
GRACE = 8.0  # seconds that a part has, after its time, to write what it found
# A machine's own Python may lack pytest's plugins: what they configure is overridden or ignored.
PYTEST = (
    *("-q", "-m", "gpu and not full", "-p", "no:cacheprovider", "-o", "addopts=--import-mode=importlib"),
    *("-W", "ignore::pytest.PytestConfigWarning", "-W", "ignore::pytest.PytestUnknownMarkWarning"),
    *("-W", "default::DeprecationWarning"),  # its NumPy may be newer than what CuPy was written for
)
# Each example, and the package it needs beside gpuprop's own: without it the example is left out.
EXAMPLES = {
    "feedforward_sentiment.py": None,
    "cnn_sentiment.py": None,
    "encoder_decoder_pronounce.py": None,
    "translate.py": "sacrebleu",
    "summarize.py": "rouge_score",
}


def versions() -> dict[str, str]:
    found = {"python": platform.python_version()}
    for name in PACKAGES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def command(arguments: list[str], limit: float) -> dict[str, Any]:
    """Run one command; its outcome, seconds and the end of what it printed. After its time it is interrupted,
    as by Ctrl-C, so that pytest writes what it has; then it ends, and all that it started."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])}
    pipe, start = subprocess.PIPE, time.perf_counter()
    run = subprocess.Popen(
        arguments, stdout=pipe, stderr=pipe, text=True, cwd=ROOT, env=environment, process_group=0
    )
    try:
        output = run.communicate(timeout=max(limit, 1))
        code = run.returncode
    except subprocess.TimeoutExpired:
        code, output = 124, _stopped(run)
    finally:
        _kill_group(run)
    seconds = round(time.perf_counter() - start, 1)
    return {"returncode": code, "seconds": seconds, "output": "".join(output)[-4000:]}


def _stopped(run: subprocess.Popen[str]) -> tuple[str, str]:
    """What a command printed that is interrupted, and killed where that does not end it."""
    run.send_signal(signal.SIGINT)
    end = time.perf_counter() + GRACE
    while run.poll() is None and time.perf_counter() < end:
        with contextlib.suppress(subprocess.TimeoutExpired):
            return run.communicate(timeout=0.2)
    _kill_group(run)  # what it started may hold its standard output
    return run.communicate()


def _kill_group(run: subprocess.Popen[str]) -> None:
    """What it started must not be on the GPU while the next part is measured."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(run.pid, signal.SIGKILL)


def gpu_tests(limit: float) -> dict[str, Any]:
    """The tests marked `gpu`: counts, and the first lines of each failure."""
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "report.xml"
        result = command(
            [sys.executable, "-m", "pytest", *PYTEST, f"--junitxml={report}"],
            limit,
        )
        if not report.exists():
            return result
        found = ET.parse(report).getroot().iter("testcase")
        cases = [case for case in found if case.get("name")]  # a test that was interrupted has none
    outcome: dict[str, Any] = {"passed": 0, "failed": 0, "skipped": 0}
    failures, skips = {}, {}
    for case in cases:
        name = f"{case.get('classname')}::{case.get('name')}"
        bad = next((e for e in case if e.tag in ("failure", "error")), None)
        skip = next((e for e in case if e.tag == "skipped"), None)
        outcome["failed" if bad is not None else "skipped" if skip is not None else "passed"] += 1
        if bad is not None:
            failures[name] = (bad.get("message") or "")[:600]
        if skip is not None:
            skips[name] = (skip.get("message") or "")[:200]
    return {**result, **outcome, "failures": failures, "skips": skips}


def experiments(limit: float) -> dict[str, Any]:
    """What tests/gpu/experiments.py measures, in `results`."""
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "experiments.json"
        arguments = [str(ROOT / "tests" / "gpu" / "experiments.py"), "--out", str(out)]
        part = command([sys.executable, *arguments, "--seconds", str(limit * 0.7)], limit)
        return {**part, "results": json.loads(out.read_text()) if out.exists() else None}


def sanitizer(limit: float) -> dict[str, Any]:
    """What compute-sanitizer finds in the kernels (tests/gpu/sanitize.py), a tool each in `results`."""
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "sanitizer.json"
        arguments = [str(ROOT / "tests" / "gpu" / "sanitize.py"), "--out", str(out)]
        part = command([sys.executable, *arguments, "--seconds", str(limit * 0.9)], limit)
        return {**part, "results": json.loads(out.read_text()) if out.exists() else None}


def examples(limit: float) -> dict[str, Any]:
    """A short training of each, none longer than half of the time left: its outcome by name."""
    end, found = time.perf_counter() + limit, {}
    for name, package in EXAMPLES.items():
        if package is not None and importlib.util.find_spec(package) is None:
            found[name] = {"returncode": 0, "seconds": 0, "output": f"left out: no {package}"}
            continue
        left = end - time.perf_counter()
        arguments = [sys.executable, str(ROOT / "examples" / name), "--device", "cuda", "--epochs", "2"]
        found[name] = command(arguments, left / 2) if left > 5 else {"returncode": 124, "seconds": 0}
    own = [sys.executable, str(ROOT / "examples" / "custom_kernel.py"), "--device", "cuda"]
    found["custom_kernel.py"] = command(own, end - time.perf_counter())
    return found


def bench(limit: float) -> dict[str, Any]:
    """What `gpuprop bench --suite gpu` finds, in `results`; of a run that was cut off, the rows it had."""
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "bench.json"
        arguments = ["--suite", "gpu", "--limit", f"{max(limit - LAST_ROW, 1):.0f}", "--json", str(out)]
        part = command([sys.executable, "-m", "gpuprop", "bench", *arguments], limit)
        return {**part, "results": json.loads(out.read_text()) if out.exists() else None}


def _outcome(part: dict[str, Any]) -> str:
    return f"exit {part['returncode']} after {part['seconds']} s"


def rows(found: dict[str, Any] | None) -> list[str]:
    """A line a row of the bench: how it did, or why it has no time."""
    if found is None:
        return []
    lines = [
        f"{row['name']}: {row.get('wrong') or row.get('failed') or row['verdict']}" for row in found["rows"]
    ]
    return lines + [f"{name}: no time" for name in found["left_out"]]


# Each part, and how much it may take of the time that is left when it begins.
PARTS: dict[str, tuple[Callable[[float], dict[str, Any]], float]] = {
    "tests": (gpu_tests, 0.3),
    "experiments": (experiments, 0.13),
    "sanitizer": (sanitizer, 0.12),
    "examples": (examples, 0.2),
    "bench": (bench, 1.0),
}


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, default=Path("runs/gpu.json"))
    parser.add_argument(
        "--seconds", type=float, default=540, help="time for everything (default: %(default)s)"
    )
    options = parser.parse_args()
    end = time.perf_counter() + options.seconds
    result: dict[str, Any] = {
        "date": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "versions": versions(),
        "devices": command([sys.executable, "-m", "gpuprop", "devices", "--json"], 60),
        "doctor": command([sys.executable, "-m", "gpuprop", "doctor", "--json"], 60),
    }
    for name, (part, share) in PARTS.items():
        result[name] = part((end - time.perf_counter()) * share)
    parts = [result[name] for name in ("doctor", "tests", "experiments", "sanitizer", "bench")]
    parts += result["examples"].values()
    result["ok"] = all(part["returncode"] == 0 for part in parts) and result["tests"].get("passed", 0) > 0
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    tests = result["tests"]
    print("tests: " + ", ".join(f"{tests.get(name, 0)} {name}" for name in ("passed", "failed", "skipped")))
    print(f"experiments: {_outcome(result['experiments'])}")
    print(f"compute-sanitizer: {_outcome(result['sanitizer'])}")
    for name, example in result["examples"].items():
        left_out = str(example.get("output", "")).startswith("left out")
        print(f"{name}: {example['output'] if left_out else _outcome(example)}")
    print(f"bench: {_outcome(result['bench'])}")
    for line in rows(result["bench"]["results"]):
        print(f"  {line}")
    print(f"{'ok' if result['ok'] else 'NOT ok'}; {options.out}")
    return 0 if result["ok"] else 1


if __name__ == "__main__":
    sys.exit(main())
