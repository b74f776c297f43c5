"""`gpuprop predict` for encoder-decoders: n best texts, samples, JSON, pictures of attention."""

import json
import struct

import pytest

from gpuprop.training import load_run
from gpuprop.training.decoding import Decoding

from .conftest import SEQ2SEQ

LINES = b"a b\nc\n"


def test_n_best_are_exactly_n_lines_a_line(cli, translator):
    best = cli("predict", translator, "--beam", "3", stdin=LINES).out.splitlines()
    done = cli("predict", translator, "--beam", "3", "--n-best", "3", stdin=b"a b\n \nc\n")
    assert done.code == 1
    lines = done.out.split("\n")
    assert lines.pop() == ""
    assert len(lines) == 9
    assert lines[3:6] == ["", "", ""]
    assert [lines[0].split("\t")[0], lines[6].split("\t")[0]] == best
    for several in (lines[:3], lines[6:]):
        texts, scores = zip(*(line.split("\t") for line in several), strict=True)
        assert len(set(texts)) == 3
        assert [float(score) for score in scores] == sorted(map(float, scores), reverse=True)


def test_where_fewer_are_found_the_rest_is_empty_lines(cli, translator):
    """Of at most one token there are seven texts: A to D, `<unk>`, and nothing at all."""
    done = cli("predict", translator, "--beam", "9", "--n-best", "9", "--max-length", "1", stdin=b"a\n")
    lines = done.out.splitlines()
    assert len(lines) == 9
    assert [line.count("\t") for line in lines] == [1] * 6 + [0] * 3


def test_no_text_is_longer_than_asked(cli, translator):
    for options in (("--beam", "4"), (), ("--sample", "--temperature", "9")):
        done = cli("predict", translator, "--max-length", "2", *options, stdin=b"a b c d\n")
        assert len(done.out.split()) <= 2


def test_the_length_penalty_decides_among_short_and_long(translator):
    task = load_run(translator)
    rows = task.source.encode(["a b c d", "d c"])
    short, long = (
        task.hypotheses(rows, Decoding(beam=5, length_penalty=alpha, max_length=12)) for alpha in (0.0, 9.0)
    )
    for few, many in zip(short, long, strict=True):
        assert len(few[0].tokens) <= len(many[0].tokens)
        assert few[0].score == few[0].log_probability
        assert many[0].score > many[0].log_probability


def test_samples_come_again_with_the_seed_and_line(cli, translator):
    options = ("--sample", "--temperature", "5", "--n-best", "2")
    draw = lambda seed, stdin: cli("predict", translator, *options, "--seed", seed, stdin=stdin)  # noqa: E731
    first = draw("1", b"a b c d\nb\n")
    assert first.code == 0
    assert first.out.count("\n") == 4
    assert draw("1", b"a b c d\nb\n").out == first.out
    assert draw("2", b"a b c d\nb\n").out != first.out
    # a line keeps its numbers whatever stands on the others, also where they cannot be read
    assert draw("1", b"a b c d\n\n").out.splitlines()[:2] == first.out.splitlines()[:2]
    assert draw("1", b"\nb\n").out.splitlines()[2:] == first.out.splitlines()[2:]


def test_samples_do_not_depend_on_how_lines_come_in(cli, translator, monkeypatch):
    lines = b"a b c d\nb a\nc\nd d d\n"
    together = cli("predict", translator, "--sample", "--temperature", "5", stdin=lines).out
    monkeypatch.setattr("gpuprop.cli.predict.MOST_LINES", 1)
    assert cli("predict", translator, "--sample", "--temperature", "5", stdin=lines).out == together


def test_json_of_a_translator(cli, translator):
    done = cli("predict", translator, "--json", "--beam", "2", "--n-best", "2", stdin=b"a b\n\nc\n")
    assert done.code == 1
    first, bad, last = map(json.loads, done.out.splitlines())
    assert bad == {"input": None, "error": "is empty: nothing to predict"}
    assert (first["input"], last["input"]) == ("a b", "c")
    assert [set(output) for output in first["outputs"]] == [
        {"text", "score", "log_probability", "finished"}
    ] * 2
    plain = cli("predict", translator, "--beam", "2", stdin=b"a b\n").out
    assert first["outputs"][0]["text"] == plain.strip()


def test_json_of_a_classifier(cli, classifier):
    done = cli("predict", classifier, "--json", stdin=b"a lovely film\n")
    answer = json.loads(done.out)
    assert set(answer) == {"input", "label", "probability"}
    assert (answer["label"], answer["probability"] > 0.5) == ("kind", True)


def test_a_picture_of_attention_a_line(cli, translator, tmp_path):
    pytest.importorskip("matplotlib")
    done = cli("predict", translator, "--attention", tmp_path / "one.png", stdin=b"a b c\n")
    assert (done.code, done.err) == (0, "")
    width, height = struct.unpack(">II", (tmp_path / "one.png").read_bytes()[16:24])
    assert width > 100
    assert height > 50
    done = cli("predict", translator, "--attention", tmp_path / "many.png", stdin=b"a\n\nb c\n")
    assert done.code == 1
    assert sorted(path.name for path in tmp_path.iterdir()) == ["many-1.png", "many-3.png", "one.png"]


def test_a_line_too_long_to_draw_is_answered_all_the_same(cli, translator, tmp_path):
    pytest.importorskip("matplotlib")
    done = cli("predict", translator, "--attention", tmp_path / "a.png", stdin=b"a " * 200 + b"\nb\n")
    assert done.code == 1
    assert len(done.out.splitlines()) == 2
    assert "line 1: no picture of attention: 200 tokens are too many to draw" in done.err
    assert [path.name for path in tmp_path.iterdir()] == ["a-2.png"]


def test_unknown_symbols_are_named_by_their_line_and_answered(cli, translator):
    done = cli("predict", translator, stdin="a b\nc €\n€ ¥\n".encode())
    assert (done.code, done.out.count("\n")) == (1, 3)
    assert done.err.count("\n") == 2
    assert "line 2: '€' did not occur in training" in done.err
    assert "line 3: '€', '¥' did not occur in training" in done.err
    listed = cli("predict", translator, "--json", stdin="a b\n€ ¥ €\n".encode())
    assert [json.loads(line)["unknown"] for line in listed.out.splitlines()] == [[], ["€", "¥"]]


def test_unknown_words_are_told_once(cli, data, tmp_path):
    run = tmp_path / "run"
    arguments = ("--train", data / "pairs.tsv", "--out", run, *SEQ2SEQ, "--tokenizer", "word", "--quiet")
    assert cli("train", "seq2seq", *arguments).code == 0
    done = cli("predict", run, stdin=b"a b\nc new\nnew words\n")
    assert (done.code, done.out.count("\n")) == (0, 3)
    assert done.err.count("\n") == 1
    assert "2 of 3 lines hold tokens that the model does not know" in done.err
    assert "'new' in line 2" in done.err


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--beam", "0"), "--beam"),
        (("--n-best", "3"), "--n-best 3 needs a beam as wide: add --beam 3"),
        (("--n-best", "0"), "--n-best"),
        (("--max-length", "0"), "--max-length"),
        (("--length-penalty", "-1"), "--length-penalty must be a finite number of at least 0"),
        (("--length-penalty", "nan"), "--length-penalty"),
        (("--top-k", "3"), "--top-k is about drawing by chance: add --sample"),
        (("--seed", "3"), "--seed is about drawing by chance"),
        (("--sample", "--beam", "2"), "leave one out"),
        (("--sample", "--temperature", "0"), "--temperature must be a finite number above 0"),
        (("--sample", "--top-k", "0"), "--top-k"),
        (("--sample", "--seed", str(1 << 64)), "--seed must be below 2^64"),
        (("--attention", "a.jpg"), "name a file that ends in .png, not a.jpg"),
        (("--attention", "nowhere/a.png"), "nowhere: there is no such folder"),
    ],
)
def test_options_that_do_not_fit_are_refused_before_anything_is_read(cli, translator, options, message):
    done = cli("predict", translator, *options, stdin=LINES)
    assert (done.code, done.out) == (2, "")
    assert message in done.err


@pytest.mark.parametrize(
    "options",
    [("--n-best", "2", "--beam", "2"), ("--sample",), ("--max-length", "3"), ("--length-penalty", "0")],
)
def test_classifiers_do_not_write(cli, classifier, options):
    done = cli("predict", classifier, *options, stdin=b"a film\n")
    assert (done.code, done.out) == (2, "")
    assert "is for encoder-decoders" in done.err
