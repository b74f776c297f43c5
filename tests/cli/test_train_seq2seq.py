"""`gpuprop train seq2seq`: its models, presets, and tables shared by both sides."""

import json
import sys

import pytest

from gpuprop.training import load_run
from gpuprop.training.presets import PRESETS

SMALL = ("--epochs", "2", "--embedding-dim", "8", "--hidden", "12", "--layers", "2", "--batch-size", "16")


@pytest.mark.parametrize(
    "options",
    [
        ("--tokenizer", "symbol", "--heads", "2", "--norm", "post", "--activation", "gelu"),
        ("--tokenizer", "symbol", "--positions", "learned", "--max-positions", "9", "--tied", "target"),
        ("--tokenizer", "word", "--joint", "--tied", "all", "--label-smoothing", "0.1"),
    ],
)
def test_a_transformer_trains_and_predicts(cli, data, tmp_path, options):
    run = tmp_path / "run"
    files = ("--train", data / "pairs.tsv", "--test", data / "pairs_test.tsv", "--out", run)
    done = cli("train", "seq2seq", "--model", "transformer", *files, *SMALL, *options)
    assert done.code == 0
    config = json.loads((run / "config.json").read_text("utf-8"))
    assert config["model"]["name"] == "transformer"
    assert config["model"]["config"]["num_layers"] == 2
    assert config["model"]["config"]["feedforward"] == 12
    answered = cli("predict", run, stdin=b"a b\nd\n")
    assert answered.code == 0
    assert len(answered.out.splitlines()) == 2


def test_a_convolutional_model_trains_and_predicts(cli, data, tmp_path):
    run = tmp_path / "run"
    done = cli("train", "seq2seq", "--model", "conv", "--kernel-size", "2", "--train", data / "pairs.tsv",
               "--out", run, *SMALL, "--tokenizer", "symbol", "--positions", "learned",
               "--max-positions", "9", "--tied", "target")  # fmt: skip
    assert done.code == 0
    model = json.loads((run / "config.json").read_text("utf-8"))["model"]
    assert model["name"] == "conv"
    expected = {"embedding_dim": 8, "channels": 12, "num_layers": 2, "kernel_size": 2, "tied": "target",
                "positions": "learned", "max_positions": 9}  # fmt: skip
    assert model["config"].items() >= expected.items()
    answered = cli("predict", run, stdin=b"a b\nd\n")
    assert answered.code == 0
    assert len(answered.out.splitlines()) == 2


def test_a_joint_vocabulary_is_one_for_both_sides(cli, data, tmp_path):
    run = tmp_path / "run"
    done = cli("train", "seq2seq", "--train", data / "pairs.tsv", "--out", run, *SMALL,
               "--tokenizer", "bpe", "--bpe-size", "260", "--lowercase", "--joint")  # fmt: skip
    assert done.code == 0
    task = load_run(run)
    assert task.source.vocabulary.entries == task.target.vocabulary.entries
    assert task.source.tokenizer.encode("A B") == task.target.tokenizer.encode("a b")


def test_options_beside_a_preset_win(cli, data, tmp_path):
    run = tmp_path / "run"
    done = cli("train", "seq2seq", "--preset", "multi30k", "--train", data / "pairs.tsv", "--out", run,
               "--epochs", "2", "--embedding-dim", "8", "--hidden", "12", "--bpe-size", "270")  # fmt: skip
    assert done.code == 0
    training = json.loads((run / "config.json").read_text("utf-8"))["training"]
    assert training["preset"] == "multi30k"
    assert training["tokenizer"] == "bpe"
    assert training["bpe_size"] == 270
    assert training["epochs"] == 2
    assert training["label_smoothing"] == 0.1
    assert training["model"] == "transformer"
    assert training["warmup_steps"] == 0  # a fifth of four steps: small data take a smaller warm-up


@pytest.mark.parametrize("preset", PRESETS)
def test_every_preset_trains_on_a_little_data(cli, data, tmp_path, preset):
    files = ("--train", data / "pairs.tsv", "--out", tmp_path / "run")
    small = ("--epochs", "1", "--embedding-dim", "8", "--hidden", "8", "--layers", "1", "--bpe-size", "260")
    for more in ((), ("--batch-tokens", "200"), ("--model", "gru", "--hidden", "8")):
        done = cli("train", "seq2seq", "--preset", preset, *files, *small, *more, "--overwrite")
        assert done.code == 0, done.err


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--preset", "dutch"), "g2p"),
        (("--model", "transformer", "--tied", "all"), "add --joint"),
        (("--joint", "--source-tokenizer", "char", "--target-tokenizer", "word"), "not char and word"),
        (("--keep-case", "--lowercase"), "exclude each other"),
        (("--model", "gru", "--heads", "2"), "--heads is for transformer, not for gru: leave it out"),
        (("--model", "transformer", "--kernel-size", "5"), "--kernel-size is for conv"),
        (("--model", "conv", "--attention", "additive"), "--attention is for gru and lstm"),
        (("--model", "transformer", "--heads", "3"), "not a multiple of num_heads 3"),
        (("--tied", "target", "--hidden", "9"), r"embedding_dim (8) must be hidden_size (9)"),
    ],
)
def test_options_that_do_not_fit_are_refused(cli, data, tmp_path, options, message):
    done = cli("train", "seq2seq", "--train", data / "pairs.tsv", "--out", tmp_path / "run", *SMALL, *options)
    assert done.code == 2
    assert message in done.err
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("name", ["bleu", "rougeL", "wer", "per", "perplexity"])
def test_the_best_epoch_by_what_the_model_writes(cli, data, tmp_path, name):
    pytest.importorskip({"bleu": "sacrebleu", "rougeL": "rouge_score"}.get(name, "numpy"))
    run = tmp_path / "run"
    done = cli("train", "seq2seq", "--train", data / "pairs.tsv", "--valid", data / "pairs_test.tsv", "--out",
               run, *SMALL, "--tokenizer", "symbol", "--best-by", name, "--test", data / "pairs_test.tsv",
               "--lr", "0.02")  # fmt: skip
    assert done.code == 0
    records = [json.loads(line) for line in (run / "metrics.jsonl").read_text("utf-8").splitlines()]
    sign = -1 if name in ("wer", "per", "perplexity") else 1
    first, second = ((sign * record[f"valid_{name}"], -record["valid_loss"]) for record in records)
    assert records[1]["best"] == (second > first)
    assert name.replace("_", " ") in done.out


def test_a_picture_of_attention_after_each_epoch(cli, data, tmp_path):
    pytest.importorskip("matplotlib")
    run = tmp_path / "run"
    files = ("--train", data / "pairs.tsv", "--valid", data / "pairs_test.tsv", "--out", run)
    assert cli("train", "seq2seq", *files, *SMALL, "--tokenizer", "symbol", "--draw-attention").code == 0
    names = sorted(path.name for path in (run / "attention").iterdir())
    assert names == ["epoch-1.png", "epoch-2.png"]
    assert cli("train", "seq2seq", *files, *SMALL, "--tokenizer", "symbol", "--overwrite").code == 0
    assert not (run / "attention").exists()


def test_pictures_that_cannot_be_are_refused_before_training(cli, data, tmp_path, monkeypatch):
    pytest.importorskip("matplotlib")
    (tmp_path / "long.tsv").write_text("a " * 150 + "\tA\n")
    files = ("--train", data / "pairs.tsv", "--valid", tmp_path / "long.tsv", "--out", tmp_path / "run")
    options = (*files, *SMALL, "--tokenizer", "symbol", "--draw-attention")
    done = cli("train", "seq2seq", *options)
    assert done.code == 2
    assert "no pair is short enough to draw its attention (at most 120 tokens)" in done.err
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    done = cli("train", "seq2seq", *options)
    assert done.code == 1
    assert 'pip install "gpuprop[plots]"' in done.err
    assert not (tmp_path / "run").exists()
