"""`gpuprop evaluate`: the keys, the numbers, strict JSON."""

import json

import numpy as np
import pytest

from gpuprop.training import load_run


def strict(text):
    def refuse(name):
        raise AssertionError(f"{name} is not JSON")

    return json.loads(text, parse_constant=refuse)


def test_classifier_json(cli, data, classifier):
    done = cli("evaluate", classifier, data / "kinds_test.tsv", "--json")
    assert (done.code, done.err) == (0, "")
    scores = strict(done.out)
    assert list(scores) == ["accuracy", "loss", "macro_f1", "per_class", "confusion_matrix", "labels", "n"]
    assert scores["labels"] == ["kind", "unkind"]
    assert scores["n"] == 20
    assert np.array(scores["confusion_matrix"]).sum() == 20
    assert set(scores["per_class"]["kind"]) == {"precision", "recall", "f1", "support"}
    right = sum(scores["confusion_matrix"][i][i] for i in range(2))
    assert scores["accuracy"] == right / 20
    assert scores["accuracy"] > 0.9


def test_the_loss_is_the_mean_negative_log_probability(classifier, data):
    task = load_run(classifier)
    rows = task.read(data / "kinds_test.tsv")
    predicted = task.predict(
        [line.split("\t")[1] for line in (data / "kinds_test.tsv").read_text().splitlines()]
    )
    losses = [
        -np.log(p if task.labels.index(label) == wanted else 1 - p)
        for (label, p), wanted in zip(predicted, rows.numbers, strict=True)
    ]
    assert task.evaluate(rows)["loss"] == pytest.approx(np.mean(losses), rel=1e-5)


def test_a_class_that_the_file_lacks_scores_zero_not_nan(cli, classifier, tmp_path):
    (tmp_path / "t.tsv").write_text("kind\ta lovely film\n")
    scores = strict(cli("evaluate", classifier, tmp_path / "t.tsv", "--json").out)
    assert scores["per_class"]["unkind"] == {"precision": 0.0, "recall": 0.0, "f1": 0.0, "support": 0}


def test_translator_json(cli, data, translator):
    done = cli("evaluate", translator, data / "pairs_test.tsv", "--json", "--beam", "2")
    assert done.code == 0
    scores = strict(done.out)
    assert list(scores) == ["loss", "exact_match", "token_error_rate", "n"]
    assert scores["n"] == 20
    assert scores["loss"] > 0
    assert 0 <= scores["exact_match"] <= 1


def test_several_right_answers_for_one_source(cli, translator, tmp_path):
    said = cli("predict", translator, stdin=b"a\n").out.strip()
    (tmp_path / "t.tsv").write_text(f"a\t{said}\na\tQ Q Q\n")
    plain = cli("evaluate", translator, tmp_path / "t.tsv", "--json")
    assert strict(plain.out)["exact_match"] == 0.5
    assert "--multi-reference" in plain.err
    grouped = strict(cli("evaluate", translator, tmp_path / "t.tsv", "--json", "--multi-reference").out)
    assert (grouped["exact_match"], grouped["n"]) == (1.0, 1)


def test_tables_for_readers(cli, data, classifier, translator):
    done = cli("evaluate", classifier, data / "kinds_test.tsv")
    assert done.code == 0
    for word in ("accuracy", "macro f1", "precision", "confusion", "unkind"):
        assert word in done.out
    assert "token error rate" in cli("evaluate", translator, data / "pairs_test.tsv").out


def test_labels_of_any_spelling(cli, tmp_path):
    """Labels with brackets, markup and other scripts come through training, tables and predictions."""
    labels = ("[red]x[/red]", "größe 2")
    rows = "".join(f"{labels[i % 2]}\t{('up', 'down')[i % 2]}\n" for i in range(40))
    (tmp_path / "t.tsv").write_text(rows, "utf-8")
    arguments = ("--train", tmp_path / "t.tsv", "--valid", tmp_path / "t.tsv", "--out", tmp_path / "run")
    options = ("--model", "feedforward", "--epochs", "4", "--lr", "0.1")
    assert cli("train", "classify", *arguments, *options).code == 0
    assert "[red]x[/red]" in cli("evaluate", tmp_path / "run", tmp_path / "t.tsv").out
    assert cli("predict", tmp_path / "run", stdin=b"down\n").out.startswith("größe 2\t")
