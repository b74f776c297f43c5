"""`gpuprop resume`: killed at any moment, a training ends with the bits of one that was never stopped."""

import json
import os
import random
import shutil
import signal
import subprocess
import sys
from importlib.util import find_spec

import numpy as np
import pytest

import gpuprop as gp
from gpuprop.training.state_file import read_state, write_state

from .conftest import CLASSIFY, SEQ2SEQ

# Runs a command and kills itself before the n-th of: an optimizer step, a flush to the disk, a renaming, a
# removal, a half-written file.
KILLED = """
import os, signal, sys
from gpuprop.cli import main
from gpuprop.optim import Optimizer
left = int(sys.argv[1])

def counted(function):
    def call(*args, **kwargs):
        global left
        left -= 1
        if left == 0:
            os.kill(os.getpid(), signal.SIGKILL)
        return function(*args, **kwargs)
    return call

class HalfWritten:
    def __init__(self, file):
        self.file = file
    def __getattr__(self, name):
        return getattr(self.file, name)
    def __enter__(self):
        return self
    def __exit__(self, *reason):
        self.file.close()
    def write(self, content):
        self.file.write(content[: len(content) // 2])
        self.file.flush()
        rest(self.file, content[len(content) // 2 :])

rest = counted(lambda file, content: file.write(content))
fdopen = os.fdopen
os.fdopen = lambda *args, **kwargs: HalfWritten(fdopen(*args, **kwargs))
os.fsync, os.replace, os.unlink = counted(os.fsync), counted(os.replace), counted(os.unlink)
Optimizer.step = counted(Optimizer.step)
code = main(sys.argv[2:])
print("events", int(sys.argv[1]) - left)
sys.exit(code)
"""
CLOCK = {"seconds", "tokens_per_second"}
KINDS = ("classify", "--model", "cnn", "--filters", "4", "--widths", "1,2", *CLASSIFY)


def killed(at, *arguments):
    """Run a command that kills itself at event `at`; returns its exit code and how many events it saw."""
    code = [sys.executable, "-c", KILLED, str(at), *(str(a) for a in arguments)]
    done = subprocess.run(code, capture_output=True, text=True, check=False)
    assert "Traceback" not in done.stderr, done.stderr
    return done.returncode, int(done.stdout.rpartition("events ")[2] or 0)


def outcome(run, records=True, checkpoints=None):
    """All that a training leaves behind, without clocks and paths. records: those of gradients.jsonl too.
    checkpoints: their folder, where it is not the run's."""
    lines = (run / "metrics.jsonl").read_text("utf-8").splitlines()
    metrics = [{k: v for k, v in json.loads(line).items() if k not in CLOCK} for line in lines]
    names = ["model.safetensors", *(["curves.png"] if find_spec("matplotlib") else [])]
    files = {f.name: f.read_bytes() for f in [*(run / n for n in names), *sorted((run / "epochs").glob("*"))]}
    if records:
        files["gradients.jsonl"] = (run / "gradients.jsonl").read_bytes()
    last = max((checkpoints or run / "checkpoints").glob("step-*"))
    state = read_state(last)
    arrays = {name: a.tobytes() for name, a in state["optimizer"]["arrays"].items()}
    arrays |= {name: a.tobytes() for name, a in state["model"].items()}
    rest = {name: state[name] for name in ("random", "batches", "schedule") if name in state}
    return metrics, files, last.name, arrays, rest


def survive(train, run, moments):
    """Train with a kill at each of these events; returns the command that goes on."""
    command = train
    for at in moments:
        code, events = killed(at, *command)
        assert code == -signal.SIGKILL, f"it ended after {events} events"
        begun = (run / "config.json").exists()
        command = ("resume", run, "--quiet") if begun else (*train, "--overwrite")
    return command


@pytest.mark.parametrize(
    ("task", "kills"),
    [
        pytest.param("classify", 3, id="classifier"),
        pytest.param("seq2seq", 3, marks=pytest.mark.full, id="translator"),
        pytest.param("classify", 20, marks=pytest.mark.full, id="classifier, 20 kills"),
        pytest.param("seq2seq", 20, marks=pytest.mark.full, id="translator, 20 kills"),
    ],
)
@pytest.mark.timeout(1200)
def test_a_killed_training_ends_with_the_same_bits(cli, data, tmp_path, task, kills):
    options = {
        "classify": (*KINDS, "--train", data / "kinds.tsv", "--schedule", "plateau", "--optimizer", "adamw"),
        "seq2seq": (
            "seq2seq",
            *SEQ2SEQ,
            "--train",
            data / "pairs.tsv",
            "--dropout",
            "0.2",
            "--accumulate",
            "2",
        ),
    }[task]
    length = ("--early-stop", "2") if kills == 3 else ("--epochs", "25")
    options = (
        *options,
        "--keep-last",
        "2",
        "--checkpoint-every",
        "2",
        "--clip-norm",
        "0.17",
        *length,
        "--quiet",
    )
    assert cli("train", *options, "--out", tmp_path / "whole").code == 0
    rng = random.Random(task)
    run = tmp_path / "run"
    train = ("train", *options, "--out", run)
    command = survive(train, run, [rng.randint(1, 40) for _ in range(kills)])
    assert cli(*command).code == 0
    assert outcome(run) == outcome(tmp_path / "whole")
    assert not list(run.rglob(".*"))


# Of 60 events: 13-32 begin the run, 33-37 and 49-53 are checkpoints (half written at 33 and 49), what follows
# these are the model and a line of metrics.
@pytest.mark.parametrize(
    "at", [49, 54, *(pytest.param(n, marks=pytest.mark.full) for n in range(1, 61) if n not in (49, 54))]
)
def test_a_kill_within_a_save_is_survived(cli, data, tmp_path, at):
    options = (*KINDS, "--train", data / "kinds.tsv", "--epochs", "2", "--quiet")
    assert cli("train", *options, "--out", tmp_path / "whole").code == 0
    run = tmp_path / "run"
    train = ("train", *options, "--out", run)
    command = survive(train, run, [at])
    assert cli(*command).code == 0
    assert outcome(run) == outcome(tmp_path / "whole")


@pytest.fixture
def stopped(cli, data, tmp_path):
    """The folder of a training that is not finished: two of three epochs are done."""
    run, whole = tmp_path / "run", tmp_path / "whole"
    options = ("train", *KINDS, "--train", data / "kinds.tsv", "--quiet", "--out")
    assert cli(*options, whole).code == 0
    shutil.copytree(whole, run)
    _take_back(run)
    return run, whole


def _take_back(run):
    max((run / "checkpoints").iterdir()).unlink()


def test_an_encoder_decoder_goes_on(cli, data, translator, tmp_path):
    run = tmp_path / "run"
    shutil.copytree(translator, run)
    _take_back(run)
    assert cli("resume", run, "--quiet").code == 0
    assert outcome(run) == outcome(translator)


def test_word_vectors_and_class_weights_go_on(cli, data, tmp_path):
    vectors = tmp_path / "vectors.txt"
    vectors.write_text("".join(f"{w} 0.{i} 0.5 -0.5\n" for i, w in enumerate(("film", "lovely", "dull"), 1)))
    options = (
        "--embeddings",
        vectors,
        "--embeddings-mode",
        "static",
        "--class-weights",
        "balanced",
        "--quiet",
    )
    options = ("--model", "feedforward", "--train", data / "kinds.tsv", "--epochs", "3", *options)
    run, whole = tmp_path / "run", tmp_path / "whole"
    assert cli("train", "classify", *options, "--out", whole).code == 0
    shutil.copytree(whole, run)
    _take_back(run)
    assert cli("resume", run, "--quiet").code == 0
    assert outcome(run) == outcome(whole)
    _take_back(run)
    vectors.write_text("film 0.1 0.2 0.3\n")
    done = cli("resume", run)
    assert done.code == 2
    assert f"{vectors} (--embeddings) has SHA-256" in done.err


def newest(run):
    return max((run / "checkpoints").iterdir())


def test_a_training_goes_on_from_its_newest_checkpoint(cli, stopped):
    run, whole = stopped
    done = cli("resume", run)
    assert done.code == 0
    assert "step-00000010.safetensors: going on after step 10, epoch 2 done" in done.err
    assert outcome(run) == outcome(whole)


def test_a_failed_step_is_forgotten_when_training_goes_on_from_before_it(cli, stopped):
    run, _ = stopped
    (run / "failure").mkdir()
    (run / "failure" / "failure.json").write_text('{"format": "gpuprop-failure", "step": 1000000}')
    assert cli("resume", run).code == 0
    assert not (run / "failure").exists()


@pytest.mark.parametrize("damage", ["cut", "changed", "empty", "other"])
def test_a_damaged_checkpoint_is_named_and_the_one_before_is_used(cli, stopped, damage):
    run, whole = stopped
    last = max((whole / "checkpoints").iterdir())
    content = bytearray(last.read_bytes())
    content[-5] ^= 1
    damaged = {"cut": content[:-100], "changed": content, "empty": b"", "other": b"hello" * 100}[damage]
    (run / "checkpoints" / last.name).write_bytes(damaged)
    done = cli("resume", run)
    assert done.code == 0
    assert f"{last.name}: damaged" in done.err
    assert "step-00000010.safetensors: the last good checkpoint is used" in done.err
    assert outcome(run) == outcome(whole)


def test_no_whole_checkpoint_is_an_error(cli, stopped):
    run, _ = stopped
    for file in (run / "checkpoints").iterdir():
        file.write_bytes(b"x")
    done = cli("resume", run)
    assert done.code == 2
    assert "no checkpoint is whole" in done.err
    assert done.err.count("train again") == 1
    shutil.rmtree(run / "checkpoints")
    done = cli("resume", run)
    assert done.code == 2
    assert "has no checkpoints" in done.err


@pytest.mark.parametrize(("option", "deterministic"), [((), True), (("--no-deterministic",), False)])
def test_determinism_is_stored_and_obeyed(cli, data, tmp_path, option, deterministic):
    run = tmp_path / "run"
    try:
        assert cli("train", *KINDS, "--train", data / "kinds.tsv", "--quiet", "--out", run, *option).code == 0
        assert gp.are_deterministic_algorithms_enabled() is deterministic
        assert json.loads((run / "config.json").read_text())["training"]["deterministic"] is deterministic
        _take_back(run)
        gp.use_deterministic_algorithms(not deterministic)
        assert cli("resume", run, "--quiet").code == 0
        assert gp.are_deterministic_algorithms_enabled() is deterministic
    finally:
        gp.use_deterministic_algorithms(True)


def test_a_finished_run_says_so_and_can_be_made_longer(cli, data, classifier, tmp_path):
    run = tmp_path / "run"
    shutil.copytree(classifier, run)
    before = (run / "model.safetensors").read_bytes()
    done = cli("resume", run)
    assert (done.code, done.out) == (0, "")
    assert "is finished, with 3 epochs" in done.err
    assert (run / "model.safetensors").read_bytes() == before
    assert cli("resume", run, "--epochs", "5", "--quiet").code == 0
    longer = (
        "--train",
        data / "kinds.tsv",
        *CLASSIFY,
        "--lr",
        "0.1",
        "--epochs",
        "5",
        "--out",
        tmp_path / "five",
    )
    assert cli("train", "classify", "--model", "feedforward", *longer).code == 0
    assert outcome(run) == outcome(tmp_path / "five")
    assert json.loads((run / "config.json").read_text())["training"]["epochs"] == 5
    assert "is finished, with 5 epochs" in cli("resume", run).err


def contents(run):
    return {str(f.relative_to(run)): f.read_bytes() for f in run.rglob("*") if f.is_file()}


def test_a_finished_run_with_the_checkpoints_of_another_is_left_as_it_is(cli, data, stopped, tmp_path):
    _, run = stopped
    other = tmp_path / "other"
    options = ("--train", data / "kinds.tsv", "--quiet", "--lr", "0.01", "--out", other)
    assert cli("train", *KINDS, *options).code == 0
    shutil.rmtree(run / "checkpoints")
    shutil.copytree(other / "checkpoints", run / "checkpoints")
    before = contents(run)
    done = cli("resume", run)
    assert done.code == 2
    assert "is of another training: training.lr was 0.01, is 0.001" in done.err
    assert contents(run) == before


def test_a_finished_run_is_checked_like_one_that_is_not(cli, stopped):
    _, run = stopped
    edit(run / "config.json", lambda c: c["model"]["config"].update(filters=5))
    before = contents(run)
    done = cli("resume", run)
    assert done.code == 2
    assert "model.config.filters was 5, is 4" in done.err
    assert contents(run) == before


def test_a_finished_run_with_weights_that_do_not_fit_is_left_as_it_is(cli, stopped):
    _, run = stopped
    state = read_state(newest(run))
    state["model"]["output.bias"] = np.zeros(1000, "float32")
    write_state(newest(run), state)
    before = contents(run)
    done = cli("resume", run)
    assert done.code == 2
    assert "output.bias" in done.err
    assert contents(run) == before


@pytest.mark.parametrize("finished", [False, True])
def test_a_vocabulary_that_differs_is_refused_and_a_missing_one_is_written(cli, stopped, finished):
    run, whole = stopped
    if finished:
        shutil.copytree(whole, run, dirs_exist_ok=True)
    file = run / "vocabulary.json"
    right = file.read_bytes()
    edit(file, lambda v: v["tokens"].__setitem__(-1, "quux"))
    for content in (file.read_bytes(), b"{"):
        file.write_bytes(content)
        before = contents(run)
        done = cli("resume", run)
        assert done.code == 2
        assert f"{file}: " in done.err
        assert contents(run) == before
    file.unlink()
    assert cli("resume", run, "--quiet").code == 0
    assert file.read_bytes() == right
    assert outcome(run) == outcome(whole)


def test_a_schedule_over_the_epochs_cannot_be_made_longer(cli, data, tmp_path):
    out = tmp_path / "run"
    arguments = ("--train", data / "kinds.tsv", "--out", out, "--schedule", "cosine", *CLASSIFY)
    assert cli("train", "classify", *arguments).code == 0
    done = cli("resume", out, "--epochs", "9")
    assert done.code == 2
    assert "--epochs 9: the cosine schedule is laid out over 3 epochs" in done.err


def edit(file, change):
    config = json.loads(file.read_text("utf-8"))
    change(config)
    file.write_text(json.dumps(config))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda c: c["model"]["config"].update(filters=5), "model.config.filters was 5, is 4"),
        (lambda c: c["options"].update(filters=5), "model.config.filters was 4, is 5"),
        (lambda c: c["options"].update(lr=0.5), "training.lr was 0.001, is 0.5"),
        (lambda c: c["options"].update(max_vocabulary=6), "fields.text.vocabulary_sha256 was "),
        (lambda c: c["options"].update(color="red"), "its options color are unknown or missing"),
        (lambda c: c["options"].update(epochs="3"), "its option epochs is '3'"),
        (lambda c: c["options"].update(model="gpt"), "its option model is 'gpt'"),
        (lambda c: c["options"].update(dropout=2.0), "--dropout must be"),
        (lambda c: c.pop("options"), "does not say how training was started"),
        (lambda c: c.update(task=[]), "does not say how training was started"),
        (lambda c: c["data"]["train"].update(sha256=None), "cannot go on with other data"),
        (lambda c: c.pop("data"), "cannot go on with other data"),
    ],
)
def test_another_model_vocabulary_or_setting_is_named(cli, stopped, change, message):
    run, _ = stopped
    before = newest(run).read_bytes()
    edit(run / "config.json", change)
    done = cli("resume", run)
    assert done.code == 2
    assert message in done.err
    assert newest(run).read_bytes() == before


def test_a_changed_data_file_is_named_with_its_hash(cli, data, tmp_path):
    train = tmp_path / "train.tsv"
    shutil.copy(data / "kinds.tsv", train)
    run = tmp_path / "run"
    assert cli("train", *KINDS, "--train", train, "--out", run, "--quiet").code == 0
    _take_back(run)
    with open(train, "a", encoding="utf-8") as file:
        file.write("kind\tone more film\n")
    done = cli("resume", run)
    assert done.code == 2
    assert f"{train} (--train) has SHA-256" in done.err
    train.unlink()
    done = cli("resume", run)
    assert done.code == 2
    assert "give its new place with --train" in done.err
    assert cli("resume", run, "--train", data / "kinds.tsv", "--quiet").code == 0
    _take_back(run)
    assert cli("resume", run, "--quiet").code == 0  # it is known where the file is now


def test_a_forged_checkpoint_is_refused_or_harmless(cli, stopped):
    """The checksum is right, the content is not."""
    run, _ = stopped
    file = newest(run)
    state = read_state(file)
    forged = {
        "weights": {**state, "model": {**state["model"], "output.bias": np.zeros(1000)}},
        "epoch": {**state, "training": {**state["training"], "epoch": -1}},
        "note": {**state, "note": {}},
        "best": {**state, "best": "none"},
        "batches": {**state, "batches": {"seed": 0, "epoch": 0, "step": 10**9, "rows": 72}},
        "no model": {k: v for k, v in state.items() if k != "model"},
    }
    for name, content in forged.items():
        write_state(file, content)
        done = cli("resume", run)
        assert done.code == 2, name
        assert "Traceback" not in done.err


def test_a_run_without_its_configuration_goes_on_from_the_copy(cli, stopped):
    run, whole = stopped
    (run / "config.json").unlink()
    done = cli("resume", run)
    assert done.code == 0, done.err
    assert "its copy in" in done.err
    assert outcome(run) == outcome(whole)
    assert (run / "config.json").exists()


def test_a_finished_run_that_was_removed_is_made_anew(cli, data, tmp_path):
    run, second = tmp_path / "run", tmp_path / "second"
    options = ("train", *KINDS, "--train", data / "kinds.tsv", "--checkpoint-dir", second, "--quiet")
    assert cli(*options, "--out", run).code == 0
    before = (run / "model.safetensors").read_bytes()
    shutil.rmtree(run)
    assert cli("resume", run, "--checkpoint-dir", second, "--quiet").code == 0
    assert (run / "model.safetensors").read_bytes() == before
    assert len(gp.training.read_metrics(run)) == 3


def test_a_second_folder_in_use_is_refused(cli, data, classifier, tmp_path):
    options = ("train", *KINDS, "--train", data / "kinds.tsv", "--out", tmp_path / "run")
    done = cli(*options, "--checkpoint-dir", classifier / "checkpoints")
    assert done.code == 2
    assert "holds checkpoints already" in done.err


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_prints_the_command_that_goes_on(cli, data, tmp_path, number, code):
    options = ("train", *KINDS, "--train", data / "kinds.tsv", "--quiet", "--out")
    assert cli(*options, tmp_path / "whole").code == 0
    run = tmp_path / "a run"
    program = KILLED.replace("signal.SIGKILL", str(int(number)))
    command = [sys.executable, "-c", program, "10", *map(str, (*options, run))]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == code, done.stderr
    assert f"go on with: gpuprop resume '{run}'\n" in done.stderr
    assert cli("resume", run, "--quiet").code == 0
    assert outcome(run) == outcome(tmp_path / "whole")


@pytest.mark.parametrize("text", ["0", "-1", "x", "5m", ""])
def test_checkpoint_every_is_checked(cli, data, tmp_path, text):
    arguments = ("--train", data / "kinds.tsv", "--out", tmp_path / "r", f"--checkpoint-every={text}")
    done = cli("train", "classify", *arguments)
    assert done.code == 2
    assert "--checkpoint-every is a number of steps (500) or seconds (300s)" in done.err


def test_no_checkpoints_on_request(cli, data, tmp_path):
    arguments = ("--train", data / "kinds.tsv", "--out", tmp_path / "r", "--keep-checkpoints", "0", *CLASSIFY)
    assert cli("train", "classify", *arguments).code == 0
    assert not (tmp_path / "r" / "checkpoints").exists()
    done = cli("resume", tmp_path / "r")
    assert done.code == 2
    assert "has no checkpoints" in done.err


def test_a_folder_that_is_no_run_is_refused(cli, tmp_path):
    assert cli("resume", tmp_path / "nothing").code == 2
    assert cli("resume", tmp_path).code == 2


def test_only_the_last_checkpoints_and_the_best_stay(cli, data, tmp_path):
    run = tmp_path / "r"
    arguments = ("--train", data / "kinds.tsv", "--out", run, "--checkpoint-every", "1", *CLASSIFY)
    assert cli("train", "classify", *arguments).code == 0
    best = next(r for r in reversed(gp.training.read_metrics(run)) if r["best"])["step"]
    names = {f"step-{n:08d}.safetensors" for n in (14, 15, best)}
    assert set(os.listdir(run / "checkpoints")) == names


def test_rows_of_tables_go_on(cli, data, tmp_path):
    """Adam of rows: the bits of a finished run that is made longer are those of a long one."""
    whole, part = tmp_path / "whole", tmp_path / "part"
    options = ("--optimizer", "sparse-adam", "--weight-decay", "0.01", "--clip-norm", "1", *CLASSIFY)
    for run, epochs in ((whole, 4), (part, 2)):
        words = ("train", "classify", "--train", data / "kinds.tsv", "--out", run, *options)
        assert cli(*words, "--epochs", epochs).code == 0
    assert cli("resume", part, "--epochs", 4).code == 0
    assert outcome(whole) == outcome(part)
