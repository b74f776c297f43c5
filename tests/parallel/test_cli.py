"""`mpirun -n N gpuprop train` and `gpuprop resume`."""

import json
import math
import random
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
from ranks import command, environment, finish, launch

import gpuprop as gp

psutil = pytest.importorskip("psutil")

GPUPROP = ("-m", "gpuprop")
CLASSIFY = ("--model", "feedforward", "--embedding-dim", "8", "--hidden", "6", "--dropout", "0.2")
SEQ2SEQ = ("--model", "transformer", "--embedding-dim", "8", "--heads", "2", "--layers", "1")


@pytest.fixture
def texts(tmp_path):
    chance, lines = random.Random(1), []
    for _ in range(90):
        label = chance.choice(["good", "bad"])
        words = chance.choices(["film", "story", "actor", "plot"], k=chance.randint(2, 9))
        lines.append(f"{label}\t{' '.join(words)} {'great' if label == 'good' else 'awful'}\n")
    file = tmp_path / "train.tsv"
    file.write_text("".join(lines))
    return file


@pytest.fixture
def pairs(tmp_path):
    chance, lines = random.Random(2), []
    for _ in range(70):
        letters = chance.choices("abcde", k=chance.randint(2, 6))
        lines.append(f"{''.join(letters)}\t{' '.join(reversed(letters))}\n")
    file = tmp_path / "pairs.tsv"
    file.write_text("".join(lines))
    return file


def gpuprop(ranks, *arguments):
    """(exit code, standard output, standard error); one rank is started without mpirun."""
    if ranks > 1:
        return finish(launch(ranks, *GPUPROP, *arguments))
    done = subprocess.run(
        [sys.executable, *GPUPROP, *map(str, arguments)], capture_output=True, text=True, env=environment()
    )
    return done.returncode, done.stdout, done.stderr


def metrics(run):
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


def check_alike(one, other, tolerance=1e-4):
    """Two run folders of one training."""
    for a, b in zip(metrics(one), metrics(other), strict=True):
        for name in ("epoch", "step", "lr", "best"):
            assert a[name] == b[name]
        for name in ("train_loss", "valid_loss"):
            assert math.isclose(a[name], b[name], rel_tol=tolerance)
    names = [{file.name for file in run.iterdir()} for run in (one, other)]
    assert names[0] == names[1]
    weights = [gp.load(run / "model.safetensors") for run in (one, other)]
    for name, array in weights[0].items():
        assert np.isclose(array, weights[1][name], atol=5e-3).all(), name


def test_two_ranks_classify_as_one(texts, tmp_path):
    common = ("train", "classify", "--train", texts, "--test", texts, *CLASSIFY, "--epochs", 3)
    runs = [tmp_path / "one", tmp_path / "two"]
    told = [
        gpuprop(ranks, *common, "--out", run, "--batch-size", size)
        for ranks, run, size in ((1, runs[0], 16), (2, runs[1], 8))
    ]
    assert [code for code, _, _ in told] == [0, 0], told
    check_alike(*runs)
    assert told[1][1].count("\n") == 1  # the scores on --test, once
    assert told[0][1].split(", loss")[0] == told[1][1].split(", loss")[0]
    assert "on 2 ranks, cpu" in told[1][2]
    assert told[1][2].count("epoch ") == told[0][2].count("epoch ")


def ranks_of(process):
    """The processes of an mpirun that this test started."""
    inside = psutil.Process(process.pid).children(recursive=True)
    return [p for p in inside if "gpuprop" in p.cmdline() and p.name().startswith("python")]


def wait_for(condition, seconds=60):
    until = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < until
        time.sleep(0.05)


def test_a_signal_to_one_rank_stops_all_and_other_ranks_go_on(pairs, tmp_path):
    common = ("train", "seq2seq", "--train", pairs, *SEQ2SEQ, "--dropout", "0.1", "--epochs", 6)
    whole, stopped = tmp_path / "whole", tmp_path / "stopped"
    assert gpuprop(1, *common, "--out", whole, "--batch-size", 16)[0] == 0
    often = ("--checkpoint-every", 1)
    process = launch(4, *GPUPROP, *common, "--out", stopped, "--batch-size", 4, *often)
    wait_for(lambda: len(list(stopped.glob("checkpoints/step-*"))) > 0 or process.poll() is not None)
    ranks_of(process)[2].send_signal(signal.SIGTERM)
    code, _, told = finish(process)
    assert code == 128 + signal.SIGTERM
    assert told.count("stopped") == 1 + told.count(str(stopped))
    assert f"go on with: gpuprop resume {stopped}" in told
    assert not (stopped / "metrics.jsonl").exists() or len(metrics(stopped)) < 6
    code, _, told = gpuprop(2, "resume", stopped)
    assert code == 0, told
    check_alike(whole, stopped)


@pytest.mark.full
def test_a_finished_run_is_left_alone_and_a_rank_can_resume_it(texts, tmp_path):
    common = ("train", "classify", "--train", texts, *CLASSIFY, "--epochs", 2, "--batch-size", 8)
    run = tmp_path / "run"
    assert gpuprop(2, *common, "--out", run)[0] == 0
    code, _, told = gpuprop(2, "resume", run)
    assert (code, told.count("is finished")) == (0, 1)
    code, _, told = gpuprop(1, "resume", run, "--epochs", 3)
    assert code == 0, told
    assert [r["epoch"] for r in metrics(run)] == [1, 2, 3]
    assert metrics(run)[2]["step"] == 3 * metrics(run)[0]["step"]


def test_a_rank_with_other_data_or_options_is_refused_by_name(texts, tmp_path):
    other = tmp_path / "other.tsv"
    other.write_text(texts.read_text().replace("great", "grand"))

    def told(first, second):
        arguments = [sys.executable, *GPUPROP, "train", "classify", *CLASSIFY, "--out", tmp_path / "no"]
        both = [*command(1)[:-1], *arguments, *first, ":", "-n", 1, *arguments, *second]
        process = subprocess.Popen(
            list(map(str, both)), env=environment(), stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        code, _, err = finish(process)
        assert code == 2
        assert err.count("the ranks differ") == 1
        assert not (tmp_path / "no").exists()
        return err

    assert "rank 1 has --train with SHA-256 " in told(("--train", texts), ("--train", other))
    assert "rank 1 has model.config.hidden [9], rank 0 has [6]" in told(
        ("--train", texts), ("--train", texts, "--hidden", "9")
    )


def test_what_all_ranks_refuse_is_told_once(texts, tmp_path):
    code, out, told = gpuprop(2, "train", "classify", "--train", texts, "--out", tmp_path)
    assert (code, out) == (2, "")
    assert told.count("gpuprop:") == 1
    assert f"{tmp_path}: exists already" in told
