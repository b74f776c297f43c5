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
    assert list(scores) == ["loss", "perplexity", "exact_match", "token_error_rate", "n"]
    assert scores["n"] == 20
    assert scores["perplexity"] == pytest.approx(np.exp(scores["loss"]))
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


def test_metrics_of_what_a_translator_writes(cli, data, translator):
    sacrebleu = pytest.importorskip("sacrebleu")
    pytest.importorskip("rouge_score")
    asked = ("--metric", "bleu,chrf,rouge,wer,per", "--beam", "2", "--json")
    done = cli("evaluate", translator, data / "pairs_test.tsv", *asked)
    assert (done.code, done.err) == (0, "")
    scores = strict(done.out)
    rows = [line.split("\t") for line in (data / "pairs_test.tsv").read_text().splitlines()]
    answers = dict(rows)  # a source has one target here
    said = cli("predict", translator, "--beam", "2", stdin="\n".join(answers).encode()).out.splitlines()
    assert scores["n"] == len(answers)
    assert scores["bleu"] == pytest.approx(sacrebleu.corpus_bleu(said, [list(answers.values())]).score)
    wrong = sum(guess != target for guess, target in zip(said, answers.values(), strict=True))
    assert scores["wer"] == pytest.approx(wrong / len(answers))
    assert scores["per"] == scores["token_error_rate"]
    assert scores["chrf_signature"].startswith("nrefs:")
    assert {"chrf", "rouge1", "rouge2", "rougeL"} < set(scores)


def test_word_error_takes_the_lines_of_a_source_together(cli, translator, tmp_path):
    said = cli("predict", translator, stdin=b"a\n").out.strip()
    (tmp_path / "t.tsv").write_text(f"a\tQ Q Q\na\t{said}\n")
    done = cli("evaluate", translator, tmp_path / "t.tsv", "--metric", "wer,per", "--json")
    scores = strict(done.out)
    assert (done.err, scores["n"], scores["wer"], scores["per"], scores["exact_match"]) == ("", 1, 0, 0, 1)


def test_bleu_is_of_the_lines_as_they_stand(cli, translator, tmp_path):
    """Not of tokens: the symbols are joined again, and the target keeps what the model cannot write."""
    pytest.importorskip("sacrebleu")
    said = cli("predict", translator, stdin=b"a b c d\n").out.strip()
    for target, blind in ((said, False), (said.lower(), True)):
        (tmp_path / "t.tsv").write_text(f"a b c d\t{target}\n")
        options = ("--metric", "chrf", *(["--lowercase"] if blind else []))
        scores = strict(cli("evaluate", translator, tmp_path / "t.tsv", "--json", *options).out)
        assert scores["chrf"] == pytest.approx(100.0)
        assert ("case:lc" if blind else "case:mixed") in scores["chrf_signature"]
    table = cli("evaluate", translator, tmp_path / "t.tsv", "--metric", "chrf").out
    assert "chrf signature" in table
    assert "perplexity" in table


def test_unknown_metrics_and_metrics_of_classifiers(cli, data, translator, classifier):
    done = cli("evaluate", translator, data / "pairs_test.tsv", "--metric", "meteor")
    assert (done.code, done.out) == (2, "")
    assert "unknown metric 'meteor'; known are bleu, chrf, rouge, wer, per" in done.err
    done = cli("evaluate", translator, data / "pairs_test.tsv", "--beam", "2", "--length-penalty", "21")
    assert (done.code, done.out) == (2, "")
    assert "--length-penalty must be a finite number of at least 0 and below 20" in done.err
    done = cli("evaluate", classifier, data / "kinds_test.tsv", "--metric", "wer")
    assert (done.code, done.out) == (2, "")
    assert "--metric is for encoder-decoders" in done.err


def test_the_length_penalty_reaches_the_search(cli, data, translator):
    asked = ("--beam", "4", "--json", "--metric", "per")
    short, long = (
        strict(cli("evaluate", translator, data / "pairs_test.tsv", *asked, "--length-penalty", x).out)
        for x in ("0", "15")
    )
    assert short["loss"] == long["loss"]
    assert short["per"] != long["per"]
