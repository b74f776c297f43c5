"""Bad input gets one clear message with file, line and remedy, exit code 2 or 1; nothing is lost."""

import json
import shutil

import pytest
import typer

import gpuprop as gp
from gpuprop.cli.commands import app
from gpuprop.cli.mistakes import OTHER_NAMES, with_flag

from .conftest import CLASSIFY, SEQ2SEQ

GOOD = "kind\ta warm film\nunkind\ta cold film\n" * 10

TRAIN_FILES = {
    "empty": (b"", "the file is empty; name another file", None),
    "no tab": (GOOD.encode() + b"no tab here\n", "no tab; each line is label<TAB>text", 21),
    "three columns": (GOOD.encode() + b"kind\ta\tb\n", "3 columns, expected 2", 21),
    "not UTF-8": (GOOD.encode() + b"kind\tcaf\xe9\n", "is not UTF-8: byte 0xe9", 21),
    "empty text": (GOOD.encode() + b"kind\t \n", "the text is empty", 21),
    "empty label": (GOOD.encode() + b"\twords\n", "the label is empty", 21),
    "endless line": (GOOD.encode() + b"kind\t" + b"word " * 100_000 + b"\n", "--max-length", 21),
    "one class": (b"kind\ta film\n" * 20, "only the label 'kind' occurs", None),
}


@pytest.mark.parametrize("case", TRAIN_FILES)
def test_training_files(cli, tmp_path, case):
    content, message, line = TRAIN_FILES[case]
    path, out = tmp_path / "train.tsv", tmp_path / "run"
    path.write_bytes(content)
    done = cli("train", "classify", "--train", path, "--out", out, *CLASSIFY)
    assert done.code == 2
    assert done.err.count("\n") == 1
    assert f"{path}, line {line}: " in done.err if line else f"{path}: " in done.err
    assert message in done.err
    assert not out.exists()


@pytest.mark.parametrize(
    ("content", "doubt"),
    [
        ("label\ttext\n" + GOOD, ", line 1: no other line has the label 'label'; if it is a header"),
        (
            "".join(f"film {i}\tkind\n" for i in range(20)),
            ": 20 different labels in 20 rows: is each line label<TAB>text, in this order?",
        ),
        (GOOD, ""),
        ("rare\ta film\nother\ta film\n" + GOOD, ""),
        ("a\tkind\nb\tunkind\n", ""),
    ],
    ids=["header", "columns swapped", "good", "rare labels", "two rows"],
)
def test_labels_that_are_not_what_was_meant(cli, tmp_path, content, doubt):
    path = tmp_path / "train.tsv"
    path.write_text(content)
    run = ("--train", path, "--valid", path, "--out", tmp_path / "run")
    done = cli("train", "classify", *run, *CLASSIFY, "--epochs", "1")
    assert done.code == 0
    assert done.err.count("warning: ") == bool(doubt)
    assert f"warning: {path}{doubt}" in done.err or not doubt


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("train", "classify", "--learning-rate", "1"), "No such option: --learning-rate; it is --lr\n"),
        (("train", "seq2seq", "--batch_size", "8"), "No such option: --batch_size; it is --batch-size\n"),
        (("train", "classify", "--layers", "2"), "No such option: --layers"),
        (
            ("train", "--out", "run"),
            "it belongs to a command: gpuprop train classify --out ... or gpuprop train seq2seq --out ...\n",
        ),
        (("predict", "run", "lines.txt"), "standard input: gpuprop predict RUN < lines.txt\n"),
    ],
)
def test_names_of_other_programs_are_translated(cli, words, message):
    done = cli(*words)
    assert (done.code, done.out) == (2, "")
    assert message in done.err
    assert done.err.count("; ") == message.endswith("\n")


def test_every_translation_leads_to_an_option():
    root = typer.main.get_command(app)
    for name in OTHER_NAMES.values():
        assert list(with_flag(root, "gpuprop", name)), name


@pytest.mark.parametrize("role", ["--valid", "--test"])
@pytest.mark.parametrize(
    ("content", "message"),
    [
        (
            b"kind\ta film\nsad\ta film\n",
            "line 2: unknown label 'sad'; the model knows: kind, unkind; correct the label",
        ),
        (b"kind\ta\tb\n", "line 1: 3 columns, expected 2"),
        (b"", "the file is empty; name another file"),
    ],
)
def test_other_files_are_checked_before_training(cli, data, tmp_path, role, content, message):
    path, out = tmp_path / "other.tsv", tmp_path / "run"
    path.write_bytes(content)
    done = cli("train", "classify", "--train", data / "kinds.tsv", role, path, "--out", out, *CLASSIFY)
    assert done.code == 2
    assert str(path) in done.err
    assert message in done.err
    assert not out.exists()


def test_an_endless_line_trains_with_max_length(cli, tmp_path):
    path = tmp_path / "train.tsv"
    path.write_text(GOOD + "kind\t" + "word " * 100_000 + "\n")
    done = cli(
        "train", "classify", "--train", path, "--out", tmp_path / "run", "--max-length", "50", *CLASSIFY
    )
    assert done.code == 0


def test_an_endless_line_of_pairs_is_refused(cli, tmp_path):
    path = tmp_path / "pairs.tsv"
    path.write_text("".join(f"s{i}\tb\n" for i in range(20)) + "a\t" + "b " * 100_000 + "\n")
    done = cli("train", "seq2seq", "--train", path, "--out", tmp_path / "run", *SEQ2SEQ)
    assert done.code == 2
    assert f"{path}, line 21: 100000 tokens" in done.err


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--lr", "nan"), "--lr must be a finite number above 0, not nan"),
        (("--lr", "inf"), "--lr must be a finite number above 0, not inf"),
        (("--lr", "0"), "--lr must be a finite number above 0"),
        (("--dropout", "1"), "--dropout must be a finite number of at least 0 and below 1"),
        (("--weight-decay", "-1"), "--weight-decay"),
        (("--label-smoothing", "nan"), "--label-smoothing"),
        (("--hidden", "a,b"), "--hidden must be whole numbers"),
        (("--widths", "0"), "--widths must be whole numbers"),
        (("--widths", ""), "--widths needs at least one"),
        (("--epochs", "0"), "--epochs"),
        (("--batch-size", "-3"), "--batch-size"),
        (("--seed", str(1 << 64)), "--seed must be below 2^64"),
        (("--optimizer", "lion"), "--optimizer"),
        (("--learning-rate", "1"), "--learning-rate"),
        (("--schedule", "cosine", "--warmup-steps", "1000"), "warm-up of 1000 steps"),
        (("--device", "cuda:99"), "cuda:99"),
        (("--device", "tpu"), "unknown device 'tpu'"),
        (("--embeddings", "nowhere.txt"), "nowhere.txt: no such file"),
    ],
)
def test_options(cli, data, tmp_path, options, message):
    out = tmp_path / "run"
    done = cli("train", "classify", "--train", data / "kinds.tsv", "--out", out, *CLASSIFY, *options)
    assert done.code == 2
    assert message in done.err
    assert not out.exists()


def test_missing_files_and_required_options(cli, tmp_path):
    done = cli("train", "classify", "--train", tmp_path / "none.tsv", "--out", tmp_path / "run")
    assert (done.code, done.out) == (2, "")
    assert f"{tmp_path / 'none.tsv'}: no such file" in done.err
    done = cli("train", "classify", "--out", tmp_path / "run")
    assert done.code == 2
    assert "--train" in done.err
    assert "See: gpuprop train classify --help" in done.err


def test_too_few_rows_to_hold_out(cli, tmp_path):
    (tmp_path / "pairs.tsv").write_text("a\tb\n" * 20)
    done = cli("train", "seq2seq", "--train", tmp_path / "pairs.tsv", "--out", tmp_path / "run", *SEQ2SEQ)
    assert done.code == 2
    assert "too few to hold out" in done.err
    assert "--valid" in done.err


def test_a_diverging_training_stops_with_advice(cli, data, tmp_path):
    out = tmp_path / "run"
    options = ("--model", "feedforward", "--hidden", "50,50", "--optimizer", "sgd", "--lr", "1e30", *CLASSIFY)
    done = cli("train", "classify", "--train", data / "kinds.tsv", "--out", out, *options)
    assert done.code == 1
    assert "Lower the learning rate" in done.err or "lower the learning rate" in done.err
    left = ["config.json", "failure", "gradients.jsonl", "vocabulary.json"]
    assert sorted(file.name for file in out.iterdir()) == left
    assert cli("report", out, "--no-measure").code == 0
    page = (out / "report.html").read_text("utf-8")
    assert "<h2>Training failed</h2>" in page
    assert "Gradients of activations" in page
    watched = cli("report", out, "--watch")
    assert watched.code == 0
    assert "failed: " in watched.out
    assert "training has diverged" in " ".join(watched.out.split())


def test_a_place_that_cannot_be_written_to(cli, data, tmp_path):
    (tmp_path / "file").write_text("in the way")
    done = cli(
        "train", "classify", "--train", data / "kinds.tsv", "--out", tmp_path / "file" / "run", *CLASSIFY
    )
    assert done.code == 1
    assert "could not be saved" in done.err


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"kind\ta film\nsad\ta film\n", "line 2: unknown label 'sad'"),
        (b"kind\ta film\t1\n", "line 1: 3 columns, expected 2"),
        (b"just text\n", "line 1: no tab"),
        (b"", "the file is empty; name another file"),
        (b"kind\t\xff\n", "line 1: is not UTF-8"),
        (b"kind\t" + b"word " * 100_000 + b"\n", "line 1: 100000 tokens"),
    ],
)
def test_evaluation_files(cli, classifier, tmp_path, content, message):
    path = tmp_path / "test.tsv"
    path.write_bytes(content)
    done = cli("evaluate", classifier, path, "--json")
    assert (done.code, done.out) == (2, "")
    assert str(path) in done.err
    assert message in done.err


def damage(run, kind):
    """Damage a copy of a run; returns what the message must say."""
    model, config, vocabulary = run / "model.safetensors", run / "config.json", run / "vocabulary.json"
    if kind == "no model":
        model.unlink()
        return "model.safetensors: no such file"
    if kind == "truncated model":
        model.write_bytes(model.read_bytes()[:-10])
        return "model.safetensors: damaged, cut off"
    if kind == "another model":
        state = gp.load(model)
        gp.save({"wrong.name": state["output.weight"]}, model)
        return "belongs to another model"
    if kind == "another vocabulary":
        text = json.loads(vocabulary.read_text("utf-8"))
        text["tokens"][-1] = "changed"
        vocabulary.write_text(json.dumps(text), "utf-8")
        return "vocabulary.json: is not the vocabulary of this run"
    if kind == "no vocabulary":
        vocabulary.unlink()
        return "vocabulary.json: the vocabulary cannot be read: No such file or directory; copy it again"
    if kind == "no config":
        config.unlink()
        return "is not a run folder"
    if kind == "broken config":
        config.write_bytes(config.read_bytes()[:-20])
        return "config.json: damaged"
    if kind == "binary config":
        config.write_bytes(b"\xff\xfe\x00")
        return "config.json: damaged"
    changed = json.loads(config.read_text("utf-8"))
    changes = {
        "version": {"version": 99},
        "task": {"task": "paint"},
        "labels": {"labels": ["kind"]},
        "model name": {"model": {"name": "gru", "config": {}}},
        "model size": {
            "model": {"name": "feedforward", "config": {**changed["model"]["config"], "embedding_dim": 9}}
        },
        "huge": {
            "model": {"name": "feedforward", "config": {**changed["model"]["config"], "embedding_dim": 10**9}}
        },
        "other model": {"model": {**changed["model"], "name": "cnn"}},
        "no fields": {"fields": 3},
        "list": {},
    }
    changed |= changes[kind]
    config.write_text(json.dumps([changed] if kind == "list" else changed), "utf-8")
    return "model.safetensors" if kind == "model size" else "config.json"


@pytest.mark.parametrize(
    "kind",
    [
        "no model",
        "truncated model",
        "another model",
        "another vocabulary",
        "no vocabulary",
        "no config",
        "broken config",
        "binary config",
        "version",
        "task",
        "labels",
        "model name",
        "model size",
        "huge",
        "other model",
        "no fields",
        "list",
    ],
)
@pytest.mark.parametrize("command", ["evaluate", "predict"])
def test_damaged_runs(cli, data, classifier, tmp_path, kind, command):
    run = tmp_path / "run"
    shutil.copytree(classifier, run)
    message = damage(run, kind)
    arguments = ("evaluate", run, data / "kinds_test.tsv") if command == "evaluate" else ("predict", run)
    done = cli(*arguments, stdin=b"a film\n")
    assert (done.code, done.out) == (2, "")
    assert message in done.err
    assert str(run) in done.err


def test_runs_that_are_not_there(cli, data, tmp_path):
    done = cli("evaluate", tmp_path / "none", data / "kinds_test.tsv")
    assert done.code == 2
    assert "no such run folder" in done.err
    done = cli("predict", data / "kinds.tsv", stdin=b"x\n")
    assert done.code == 2
    assert "is a file; name the run folder" in done.err


def test_beams_are_for_translators(cli, data, classifier):
    for arguments in (("evaluate", classifier, data / "kinds_test.tsv"), ("predict", classifier)):
        done = cli(*arguments, "--beam", "3")
        assert done.code == 2
        assert "is a classifier" in done.err


def test_tracebacks_on_request(data, tmp_path, monkeypatch):
    from gpuprop.cli import main

    monkeypatch.setenv("GPUPROP_DEBUG", "1")
    with pytest.raises(gp.DataError):
        main(["train", "classify", "--train", str(tmp_path / "none.tsv"), "--out", str(tmp_path / "run")])


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (
            MemoryError("Unable to allocate 3 GiB"),
            "not enough memory (Unable to allocate 3 GiB): try a smaller",
        ),
        (
            OSError(28, "No space left on device", "x.tsv"),
            "x.tsv: could not be saved: No space left on device",
        ),
    ],
)
def test_failures_of_the_machine(cli, data, tmp_path, monkeypatch, error, message):
    def fail(*arguments, **options):
        raise error

    monkeypatch.setattr("gpuprop.cli.train.prepare_classification", fail)
    done = cli("train", "classify", "--train", data / "kinds.tsv", "--out", tmp_path / "run")
    assert done.code == 1
    assert message in done.err
