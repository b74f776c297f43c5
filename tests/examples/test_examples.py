"""Each example runs as it is, in short, in a process of its own."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

import gpuprop as gp
from gpuprop.testing import unavailable
from gpuprop.text import datasets

ROOT = Path(__file__).parents[2]
EXAMPLES = {
    "feedforward_sentiment.py": ("vader_movie", "accuracy on the test sentences"),
    "cnn_sentiment.py": ("vader_movie", "accuracy on the test sentences"),
    "encoder_decoder_pronounce.py": ("cmudict", "test words wrong"),
    "translate.py": ("multi30k", "BLEU on the test captions"),
    "summarize.py": ("debian_descriptions", "ROUGE-1 on the test paragraphs"),
}

SCORES = ("BLEU", "ROUGE")  # in points, the others are shares


@pytest.fixture(params=["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
def place(request):
    reason = unavailable(request.param)
    if reason is not None:
        pytest.skip(f"{request.param}: {reason.splitlines()[0]}")
    return request.param


def fetch(name):
    """The data set's files from GPUPROP_DATA, the cache or their origin; skips where none can be reached."""
    try:
        datasets.fetch(name)
    except gp.DataError as error:
        pytest.skip(f"{name} cannot be had: {error}")


def test_all_examples_are_run_here():
    assert {path.name for path in (ROOT / "examples").glob("*.py")} == {*EXAMPLES, "custom_kernel.py"}


@pytest.mark.parametrize("name", EXAMPLES)
def test_example_runs(name, place):
    dataset, last = EXAMPLES[name]
    fetch(dataset)
    command = [sys.executable, "-W", "error", str(ROOT / "examples" / name), "--device", place]
    run = subprocess.run(
        [*command, "--epochs", "1", "--limit", "200"],
        capture_output=True, text=True, timeout=120,
        env={**os.environ, "OPENBLAS_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    assert run.returncode == 0, run.stderr
    assert "epoch 1: loss " in run.stdout
    measured = [line for line in run.stdout.splitlines() if line.startswith(last)]
    assert len(measured) == 1
    assert 0.0 <= float(measured[0].rsplit(" ", 1)[1]) <= (100.0 if last.startswith(SCORES) else 1.0)


@pytest.mark.skipif(sys.platform != "linux", reason="/proc is there on Linux only")
def test_the_cnn_example_needs_less_than_400_MB():
    fetch("vader_movie")
    path = str(ROOT / "examples" / "cnn_sentiment.py")
    code = (
        "import re, runpy, sys\n"
        f"sys.argv = [{path!r}, '--device', 'cpu', '--epochs', '1']\n"
        f"runpy.run_path({path!r}, run_name='__main__')\n"
        # not ru_maxrss, which starts from the memory of the process that started this one
        "print('KiB', re.search(r'VmHWM:\\s*(\\d+)', open('/proc/self/status').read())[1])"
    )
    environment = {**os.environ, "OPENBLAS_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    run = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=120, env=environment
    )
    assert run.returncode == 0, run.stderr
    assert 0 < int(run.stdout.rsplit("KiB ", 1)[1]) < 400 * 1024


@pytest.mark.parametrize("name", EXAMPLES)
def test_examples_stay_short(name):
    assert len((ROOT / "examples" / name).read_text(encoding="utf-8").splitlines()) <= 90
