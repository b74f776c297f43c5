"""Scores of written texts: worked by hand, against the packages' own calls, and with several references."""

import sys

import pytest

import gpuprop as gp
from gpuprop.training.pair_rows import PairRows
from gpuprop.training.text_metrics import (
    bleu,
    chrf,
    metric_names,
    perplexity,
    rouge,
    written_scores,
)
from gpuprop.training.trainer import Trainer

TEXTS = ["The cat sat on the mat.", "There is a dog", "nothing here"]
REFERENCES = [["The cat sat on the mat.", "A cat sat there."], ["There was a dog."], ["Something else"]]


def test_bleu_and_chrf_are_those_of_sacrebleu():
    sacrebleu = pytest.importorskip("sacrebleu")
    streams = [[several[0] for several in REFERENCES], ["A cat sat there.", None, None]]
    scores = bleu(TEXTS, REFERENCES)
    assert scores["bleu"] == pytest.approx(sacrebleu.corpus_bleu(TEXTS, streams).score)
    assert "nrefs:var|case:mixed" in scores["bleu_signature"]
    assert chrf(TEXTS, REFERENCES)["chrf"] == pytest.approx(sacrebleu.corpus_chrf(TEXTS, streams).score)
    assert bleu(["a b c d e"], [["a b c d e"]])["bleu"] == pytest.approx(100.0)
    assert chrf(["x"], [["y"]])["chrf"] == 0.0


def test_lowercase_makes_bleu_and_chrf_blind_to_case_and_says_so():
    pytest.importorskip("sacrebleu")
    shouted = [text.upper() for text in TEXTS]
    for name, score in (("bleu", bleu), ("chrf", chrf)):
        assert score(shouted, REFERENCES)[name] < score(TEXTS, REFERENCES)[name]
        blind = score(shouted, REFERENCES, lowercase=True)
        assert blind[name] == pytest.approx(score(TEXTS, REFERENCES, lowercase=True)[name])
        assert "case:lc" in blind[f"{name}_signature"]


def test_rouge_worked_by_hand():
    pytest.importorskip("rouge_score")
    scores = rouge(["a b c d"], [["a c b"]])
    # unigrams: 3 of 4 and 3 of 3; bigrams: none; the longest common subsequence is "a b" or "a c"
    assert scores["rouge1"] == pytest.approx(100 * 2 * (3 / 4) * 1 / (3 / 4 + 1))
    assert scores["rouge2"] == 0.0
    assert scores["rougeL"] == pytest.approx(100 * 2 * (2 / 4) * (2 / 3) / (2 / 4 + 2 / 3))
    assert rouge(["runs"], [["run"]])["rouge1"] == 0.0  # no stemming
    assert rouge(["x y", "q"], [["z", "x y"], ["r"]])["rougeL"] == pytest.approx(50.0)


def test_word_and_phoneme_error_count_the_closest_pronunciation():
    guesses = [["B", "AE"], ["K", "AE", "T"], []]
    wanted = [[["B", "EY"], ["B", "AE"]], [["D", "AO", "G", "Z"], ["K", "AH"]], [["N", "OW"]]]
    scores = written_scores(("wer", "per"), [""] * 3, [[""]] * 3, guesses, wanted)
    assert scores == {"wer": pytest.approx(2 / 3), "per": pytest.approx((0 + 2 + 2) / (2 + 2 + 2))}


def test_perplexity_never_leaves_the_numbers():
    assert perplexity(0.0) == 1.0
    assert perplexity(2.0) == pytest.approx(7.38905609893)
    assert perplexity(1e9) == sys.float_info.max


def test_names_are_checked_before_anything_is_read():
    assert metric_names("wer, per") == ("wer", "per")
    assert metric_names("loss,exact_match,perplexity") == ()
    with pytest.raises(gp.DataError, match=r"unknown metric 'meteor'; known are bleu, .*, separated by"):
        metric_names("wer,meteor")


@pytest.mark.parametrize(
    ("name", "module", "package"), [("bleu", "sacrebleu", "sacrebleu"), ("rougeL", "rouge_score", "rouge-sc")]
)
def test_a_missing_package_is_named_with_the_remedy(monkeypatch, name, module, package):
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(gp.DataError, match=rf'needs the {package}.*pip install "gpuprop\[text\]"'):
        metric_names([name])


@pytest.mark.parametrize(
    ("name", "sign"),
    [("wer", -1), ("per", -1), ("perplexity", -1), ("token_error_rate", -1)]
    + [("bleu", 1), ("chrf", 1), ("rougeL", 1), ("exact_match", 1)],
)
def test_the_trainer_knows_which_way_is_better(name, sign):
    model = gp.nn.Linear(1, 1)
    trainer = Trainer(model, lambda b: b, gp.optim.SGD(model.parameters(), lr=1.0), watch=f"valid_{name}")
    assert trainer.watch == [(f"valid_{name}", sign)]


def test_rows_of_one_source_are_one_question():
    rows = PairRows([[4], [5], [4]], [[6], [7], [8]], [["x"], ["y"], ["z"]], ["a", "b", "a"], ["X", "Y", "Z"])
    assert rows.repeated()
    assert not rows.take([0, 1]).repeated()
    grouped = rows.questions(group=True)
    assert grouped.sources == [[4], [5]]
    assert grouped.references == [[["x"], ["z"]], [["y"]]]
    assert grouped.texts == [["X", "Z"], ["Y"]]
    assert len(rows.questions(group=False)) == 3
    assert grouped.first(1).texts == [["X", "Z"]]


def test_sources_the_model_cannot_tell_apart_stay_two_questions():
    rows = PairRows([[1], [1]], [[6], [7]], [["x"], ["y"]], ["ä", "ö"], ["X", "Y"])
    assert len(rows.questions(group=True)) == 2
