"""`gpuprop train`: what a run folder holds, and what the options do."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

import gpuprop as gp
from gpuprop.models import build
from gpuprop.training import load_failure, load_run
from gpuprop.training.classify import Classification
from gpuprop.training.run import read_field

from .conftest import CLASSIFY, SEQ2SEQ


def test_a_classifier_run_folder_is_complete(classifier):
    names = {
        "config.json",
        "vocabulary.json",
        "model.safetensors",
        "metrics.jsonl",
        "gradients.jsonl",
        "checkpoints",
    }
    assert set(os.listdir(classifier)) == names | {"curves.png"}
    config = json.loads((classifier / "config.json").read_text("utf-8"))
    assert config["task"] == "classify"
    assert config["labels"] == ["kind", "unkind"]
    assert config["model"]["name"] == "feedforward"
    assert config["training"]["lr"] == 0.1
    assert config["data"]["train"]["rows"] == 72
    assert len(config["data"]["train"]["sha256"]) == 64
    records = [json.loads(line) for line in (classifier / "metrics.jsonl").read_text().splitlines()]
    assert [r["epoch"] for r in records] == [1, 2, 3]
    assert {
        "train_loss",
        "valid_loss",
        "valid_accuracy",
        "lr",
        "seconds",
        "device",
        "tokens_per_second",
    } <= set(records[0])
    assert (classifier / "curves.png").read_bytes().startswith(b"\x89PNG")


def test_a_translator_run_folder_is_complete(translator):
    assert set(os.listdir(translator)) == {
        "config.json",
        "source_vocabulary.json",
        "target_vocabulary.json",
        "model.safetensors",
        "metrics.jsonl",
        "gradients.jsonl",
        "curves.png",
        "checkpoints",
    }


def test_training_reports_scores_and_a_test_file(cli, data, tmp_path):
    done = cli(
        "train",
        "classify",
        "--model",
        "cnn",
        "--filters",
        "4",
        "--widths",
        "1,2",
        "--train",
        data / "kinds.tsv",
        "--valid",
        data / "kinds_test.tsv",
        "--test",
        data / "kinds_test.tsv",
        "--out",
        tmp_path / "run",
        *CLASSIFY,
    )
    assert done.code == 0
    assert "80 rows to train on, 20 of" in done.err
    assert "always 'kind': 0.5000" in done.err
    assert "best epoch" in done.err
    assert done.out.startswith(f"{data / 'kinds_test.tsv'}: accuracy ")
    assert done.out.endswith("n 20\n")


def test_quiet_prints_nothing(cli, data, tmp_path):
    done = cli(
        "train", "classify", "--train", data / "kinds.tsv", "--out", tmp_path / "r", "--quiet", *CLASSIFY
    )
    assert (done.code, done.out, done.err) == (0, "", "")


def test_quiet_tells_of_an_explosion_in_one_line(cli, data, tmp_path):
    options = ("--quiet", "--lr", "100", "--hidden", "8", "--out", tmp_path / "run")
    done = cli(
        "train", "classify", "--train", data / "kinds.tsv", "--model", "feedforward", *CLASSIFY, *options
    )
    assert done.code == 0
    assert done.err.startswith("warning: training explodes: from step 1 to ")
    assert done.err.count("\n") == 1


def test_the_same_seed_writes_the_same_weights(cli, data, tmp_path):
    for name, seed in (("a", 5), ("b", 5), ("c", 6)):
        arguments = ("--train", data / "kinds.tsv", "--out", tmp_path / name, "--seed", seed, *CLASSIFY)
        assert cli("train", "classify", *arguments).code == 0
    weights = [(tmp_path / name / "model.safetensors").read_bytes() for name in "abc"]
    assert weights[0] == weights[1]
    assert weights[0] != weights[2]


def test_overwrite_replaces_a_run_and_leaves_other_files(cli, data, classifier, tmp_path):
    out = tmp_path / "run"
    shutil.copytree(classifier, out)
    (out / "notes.txt").write_text("mine")
    arguments = ("train", "seq2seq", "--train", data / "pairs.tsv", "--out", out, *SEQ2SEQ)
    refused = cli(*arguments)
    assert refused.code == 2
    assert f"{out}: exists already" in refused.err
    assert "--overwrite" in refused.err
    assert cli(*arguments, "--overwrite").code == 0
    assert set(os.listdir(out)) == {
        "config.json",
        "source_vocabulary.json",
        "target_vocabulary.json",
        "model.safetensors",
        "metrics.jsonl",
        "gradients.jsonl",
        "curves.png",
        "checkpoints",
        "notes.txt",
    }
    assert load_run(out).task == "seq2seq"


def test_overwrite_does_not_touch_a_folder_that_is_no_run(cli, data, tmp_path):
    out = tmp_path / "documents"
    out.mkdir()
    (out / "config.json").write_text("{}")
    arguments = ("train", "classify", "--train", data / "kinds.tsv", "--out", out, "--overwrite", *CLASSIFY)
    done = cli(*arguments)
    assert done.code == 2
    assert "holds files but no run" in done.err
    assert os.listdir(out) == ["config.json"]


def test_static_embeddings_stay_and_tuned_ones_move(cli, data, tmp_path):
    vectors = tmp_path / "vectors.txt"
    vectors.write_text(
        "".join(f"{w} 0.{i} 0.5 -0.5\n" for i, w in enumerate(("film", "lovely", "dull"), start=1))
    )
    found = {}
    for mode in ("static", "tuned"):
        done = cli(
            "train",
            "classify",
            "--train",
            data / "kinds.tsv",
            "--out",
            tmp_path / mode,
            "--embeddings",
            vectors,
            "--embeddings-mode",
            mode,
            "--epochs",
            "2",
            "--device",
            "cpu",
            "--model",
            "feedforward",
            "--ngrams",
            "1",
        )
        assert done.code == 0, done.err
        assert "has vectors for" in done.err
        task = load_run(tmp_path / mode)
        row = task.field.vocabulary.id("film")
        found[mode] = gp.load(tmp_path / mode / "model.safetensors")["embedding.weight"][row]
    np.testing.assert_array_equal(found["static"], np.array([0.1, 0.5, -0.5], np.float32))
    assert np.abs(found["tuned"] - found["static"]).max() > 1e-3


def test_static_embeddings_of_a_translator_stay(cli, data, tmp_path):
    vectors = tmp_path / "vectors.txt"
    vectors.write_text("a 0.25 0.5\nb 0.75 -0.5\n")
    done = cli(
        "train",
        "seq2seq",
        "--train",
        data / "pairs.tsv",
        "--out",
        tmp_path / "run",
        "--embeddings",
        vectors,
        "--embeddings-mode",
        "static",
        *SEQ2SEQ,
    )
    assert done.code == 0, done.err
    task = load_run(tmp_path / "run")
    weight = gp.load(tmp_path / "run" / "model.safetensors")["encoder.embedding.weight"]
    np.testing.assert_array_equal(weight[task.source.vocabulary.id("a")], np.array([0.25, 0.5], np.float32))


def test_class_weights_move_the_decision(cli, tmp_path, data):
    """Rows that say nothing: the model answers what the weights prefer."""
    train = tmp_path / "train.tsv"
    train.write_text("".join(f"{'rare' if i % 4 == 0 else 'common'}\tword\n" for i in range(80)))
    answers = {}
    for name, options in {
        "plain": (),
        "heavy": ("--class-weights", "rare=20"),
        "even": ("--class-weights", "balanced"),
    }.items():
        arguments = ("--model", "feedforward", "--lr", "0.1", *CLASSIFY, *options)
        assert (
            cli(
                "train", "classify", "--train", train, "--valid", train, "--out", tmp_path / name, *arguments
            ).code
            == 0
        )
        answers[name] = cli("predict", tmp_path / name, stdin=b"word\n").out.split("\t")
    assert answers["plain"][0] == "common"
    assert answers["heavy"][0] == "rare"
    assert abs(float(answers["even"][1]) - 0.5) < abs(float(answers["plain"][1]) - 0.5)


@pytest.mark.parametrize("weights", ["heavy", "kind=", "kind=nan", "kind=-1", "warm=2"])
def test_class_weights_that_make_no_sense_are_refused(cli, data, tmp_path, weights):
    out = tmp_path / "run"
    done = cli(
        "train",
        "classify",
        "--train",
        data / "kinds.tsv",
        "--out",
        out,
        "--class-weights",
        weights,
        *CLASSIFY,
    )
    assert done.code == 2
    assert "--class-weights" in done.err
    assert not out.exists()


def test_max_length_cuts_and_min_frequency_drops(cli, data, tmp_path):
    arguments = ("--max-length", "2", "--min-frequency", "60", *CLASSIFY)
    assert (
        cli("train", "classify", "--train", data / "kinds.tsv", "--out", tmp_path / "r", *arguments).code == 0
    )
    task = load_run(tmp_path / "r")
    assert list(task.field.vocabulary)[4:] == ["a"]
    assert len(task.field.ids("a b c d e")) == 2


def test_a_vocabulary_without_any_token_is_refused(cli, data, tmp_path):
    train = data / "kinds.tsv"
    arguments = ("--train", train, "--out", tmp_path / "r", "--min-frequency", "1000", *CLASSIFY)
    done = cli("train", "classify", *arguments)
    assert done.code == 2
    assert f"{train}: no token of its texts is left: lower --min-frequency (now 1000)" in done.err
    assert not (tmp_path / "r").exists()


@pytest.mark.parametrize(
    ("source", "target", "names"),
    [
        ("word{}", "W ER D", ("char", "symbol")),
        ("a sentence of word{}", "other word{}", ("word", "word")),
        ("A B", "ab", ("symbol", "char")),
    ],
)
def test_auto_chooses_tokenizers_by_the_texts(cli, tmp_path, source, target, names):
    path = tmp_path / "pairs.tsv"
    path.write_text("".join(f"{source}\t{target}\n".replace("{}", str(i)) for i in range(120)))
    shared = ("--train", path, "--valid", path, "--out", tmp_path / "r")
    done = cli("train", "seq2seq", *shared, "--hidden", "8", *CLASSIFY, "--epochs", "1")
    assert done.code == 0
    assert f"(tokenizers {names[0]} and {names[1]})" in done.err
    task = load_run(tmp_path / "r")
    assert (task.source.tokenizer.name, task.target.tokenizer.name) == names


def test_all_tokenizers_train(cli, data, tmp_path):
    for name in ("word", "whitespace", "char", "symbol"):
        arguments = ("--tokenizer", name, *CLASSIFY)
        assert (
            cli("train", "classify", "--train", data / "kinds.tsv", "--out", tmp_path / name, *arguments).code
            == 0
        )
        assert load_run(tmp_path / name).field.tokenizer.name == name


def test_bpe_trains(cli, data, tmp_path):
    pytest.importorskip("tokenizers")
    arguments = ("--tokenizer", "bpe", "--bpe-size", "270", *CLASSIFY)
    assert (
        cli("train", "seq2seq", "--train", data / "pairs.tsv", "--out", tmp_path / "r", *arguments).code == 0
    )
    assert cli("predict", tmp_path / "r", stdin=b"a b\n").code == 0


@pytest.mark.parametrize(
    ("task", "file", "best_by"),
    [
        ("classify", "kinds", "macro_f1"),
        ("classify", "kinds", "loss"),
        ("seq2seq", "pairs", "token_error_rate"),
    ],
)
def test_best_by_chooses_the_epoch(cli, data, tmp_path, task, file, best_by):
    options = (*(CLASSIFY if task == "classify" else SEQ2SEQ), "--best-by", best_by, "--lr", "0.3")
    assert cli("train", task, "--train", data / f"{file}.tsv", "--out", tmp_path / "r", *options).code == 0
    records = [json.loads(line) for line in (tmp_path / "r" / "metrics.jsonl").read_text().splitlines()]
    best = [r for r in records if r["best"]][-1]
    choose = max if best_by == "macro_f1" else min
    assert best[f"valid_{best_by}"] == choose(r[f"valid_{best_by}"] for r in records)


def test_without_matplotlib_training_works_and_says_how_to_get_curves(cli, data, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    done = cli("train", "classify", "--train", data / "kinds.tsv", "--out", tmp_path / "r", *CLASSIFY)
    assert done.code == 0
    assert 'pip install "gpuprop[plots]"' in done.err
    assert not (tmp_path / "r" / "curves.png").exists()


def test_equal_sources_are_held_out_together(cli, tmp_path):
    rows = "".join(f"w{i}\tX{i}\nw{i}\tY{i}\n" for i in range(30))
    (tmp_path / "p.tsv").write_text(rows)
    assert cli("train", "seq2seq", "--train", tmp_path / "p.tsv", "--out", tmp_path / "r", *SEQ2SEQ).code == 0
    assert json.loads((tmp_path / "r" / "config.json").read_text())["data"]["valid"]["rows"] == 6


def start_training(data, out, *options):
    arguments = [
        "--train",
        data / "kinds.tsv",
        "--out",
        out,
        "--epochs",
        "100000",
        "--device",
        "cpu",
        *options,
    ]
    return subprocess.Popen(
        [sys.executable, "-m", "gpuprop", "train", "classify", *map(str, arguments)],
        stderr=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_ends_training_with_the_best_model_saved(data, tmp_path, number, code):
    out = tmp_path / "run"
    process = start_training(data, out, "--model", "feedforward")
    for _ in range(600):
        if (out / "metrics.jsonl").exists():
            break
        time.sleep(0.1)
    process.send_signal(number)
    _, err = process.communicate(timeout=60)
    assert process.returncode == code, err
    assert f"the best model so far is in {out}\n" in err
    assert f"go on with: gpuprop resume {out}\nstopped\n" in err
    assert "Traceback" not in err
    assert (out / "curves.png").exists()
    assert load_run(out).predict(["a lovely film"])[0][0] in ("kind", "unkind")


FULL_DISK = """
import resource, sys
from gpuprop.cli import main
resource.setrlimit(resource.RLIMIT_FSIZE, (3000, 3000))   # writing fails after 3 KB, as on a full disk
sys.exit(main(sys.argv[1:]))
"""


def contents(folder):
    return {str(f.relative_to(folder)): f.read_bytes() for f in folder.rglob("*") if f.is_file()}


@pytest.mark.parametrize("old_run", [False, True])
def test_a_full_disk_ends_training_with_a_message_and_the_old_run_intact(data, classifier, tmp_path, old_run):
    out = tmp_path / "run"
    if old_run:
        shutil.copytree(classifier, out)
    before = contents(out)
    arguments = [
        "train",
        "classify",
        "--train",
        data / "kinds.tsv",
        "--out",
        out,
        "--overwrite",
        "--device",
        "cpu",
    ]
    done = subprocess.run(
        [sys.executable, "-c", FULL_DISK, *map(str, arguments)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 1, done.stderr
    assert "could not be saved" in done.stderr
    assert "Traceback" not in done.stderr
    assert contents(out) == before
    assert out.exists() == old_run


@pytest.mark.parametrize(
    ("task", "file", "options"), [("classify", "kinds", ()), ("seq2seq", "pairs", SEQ2SEQ[6:])]
)
def test_batches_by_tokens_and_steps_of_several_batches(cli, data, tmp_path, task, file, options):
    """72 rows and 5 tokens a text: batches of 10 texts are 50 tokens; 8 batches make 3 steps of 3."""
    common = ("train", task, "--train", data / f"{file}.tsv", "--epochs", 1, "--embedding-dim", 8, *options)
    out = tmp_path / "run"
    done = cli(*common, "--out", out, "--batch-tokens", 50, "--accumulate", 3, "--schedule", "cosine")
    assert done.code == 0
    training = json.loads((out / "config.json").read_text("utf-8"))["training"]
    assert (training["batch_size"], training["batch_tokens"], training["accumulate"]) == (None, 50, 3)
    record = json.loads((out / "metrics.jsonl").read_text())
    if task == "classify":
        assert record["step"] == 3
    assert record["lr"] == pytest.approx(0.0, abs=1e-12)
    refused = cli(*common, "--out", tmp_path / "no", "--batch-tokens", 50, "--batch-size", 8)
    assert refused.code == 2
    assert "--batch-size and --batch-tokens" in refused.err


def test_precision_is_recorded_and_explained(cli, data, tmp_path):
    pytest.importorskip("ml_dtypes")
    for name, said in (("fp16", "imitated on a CPU"), ("bf16", "imitated"), ("tf32", "nothing on a CPU")):
        out = tmp_path / name
        arguments = ("--train", data / "kinds.tsv", "--out", out, "--precision", name, *CLASSIFY)
        done = cli("train", "classify", *arguments)
        assert done.code == 0
        assert said in done.err
        records = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
        assert [("loss_scale" in r, "skipped_steps" in r) for r in records] == [(name == "fp16",) * 2] * 3
        assert gp.load(out / "model.safetensors")["output.weight"].dtype == np.float32
        assert ("steps were skipped" in done.err) == (sum(r.get("skipped_steps", 0) for r in records) > 0)


def test_a_training_that_diverges_leaves_the_failed_step_and_its_folder_can_be_used_again(
    cli, data, tmp_path
):
    out = tmp_path / "run"
    arguments = (
        "train",
        "classify",
        "--train",
        data / "kinds.tsv",
        "--out",
        out,
        *CLASSIFY,
        "--model",
        "feedforward",
    )
    done = cli(*arguments, "--optimizer", "sgd", "--lr", "1e30")
    assert done.code == 1
    assert "training has diverged" in done.err
    assert "Not finite first: " in done.err
    assert sorted(os.listdir(out)) == ["config.json", "failure", "gradients.jsonl", "vocabulary.json"]
    records = len((out / "gradients.jsonl").read_text().splitlines())
    failure = load_failure(out)
    assert failure.record["step"] >= 1
    assert failure.batches[0].size == 16
    refused = cli(*arguments)
    assert (refused.code, "--overwrite" in refused.err) == (2, True)
    failed = json.loads((out / "config.json").read_text())
    assert failed["options"]["lr"] == 1e30
    model = build(failed["model"]["name"], failed["model"]["config"])
    task = Classification(model, read_field(out, failed, "text"), failed["labels"])
    task.model.load_state_dict(failure.weights)
    with np.errstate(all="ignore"):
        found = failure.replay(task.model, task.loss, task.count)
    assert found.operation == failure.record["operation"]
    again = (*arguments, "--optimizer", "sgd", "--lr", "1e29", "--keep-checkpoints", "0", "--overwrite")
    assert cli(*again).code == 1
    assert json.loads((out / "config.json").read_text())["options"]["lr"] == 1e29
    assert len((out / "gradients.jsonl").read_text().splitlines()) == records  # those of the first are gone
    assert cli(*arguments, "--overwrite").code == 0
    assert not (out / "failure").exists()
    good = (out / "config.json").read_bytes()
    assert cli(*again).code == 1
    assert (out / "config.json").read_bytes() == good  # the model in the folder is still this one's
    failed = json.loads((out / "failure" / "config.json").read_text())
    assert failed["options"]["lr"] == 1e29
    assert read_field(out / "failure", failed, "text")
    assert cli(*arguments, "--overwrite").code == 0
    assert not (out / "failure").exists()
