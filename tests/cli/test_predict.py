"""`gpuprop predict`: a line out for a line in."""

import io
import os
import subprocess
import sys
from typing import ClassVar

import pytest

from gpuprop.cli import main
from gpuprop.cli.predict import arriving
from gpuprop.training import load_run


class Terminal(io.TextIOWrapper):
    def isatty(self):
        return True


def test_a_terminal_is_asked_for_texts(cli, classifier, capfd, monkeypatch):
    monkeypatch.setattr(sys, "stdin", Terminal(io.BytesIO(b"a lovely film\n")))
    assert main(["predict", str(classifier)]) == 0
    out, err = capfd.readouterr()
    assert out.count("\n") == 1
    assert err == "a text a line, please; Ctrl-D ends\n"


def test_a_label_and_its_probability_for_each_line(cli, classifier):
    done = cli("predict", classifier, stdin=b"a lovely film\na dull film\r\na warm and funny one")
    assert (done.code, done.err) == (0, "")
    rows = [line.split("\t") for line in done.out.split("\n")]
    assert [row[0] for row in rows] == ["kind", "unkind", "kind", ""]
    assert all(0.5 <= float(row[1]) <= 1.0 for row in rows[:3])


def test_lines_that_cannot_be_answered_keep_their_place(cli, classifier):
    done = cli(
        "predict",
        classifier,
        stdin=b"\xef\xbb\xbfa lovely film\n\n\xff\xfe\na dull film\n   \n" + b"w " * 30_000,
    )
    assert done.code == 1
    assert [line.split("\t")[0] for line in done.out.split("\n")] == ["kind", "", "", "unkind", "", "", ""]
    messages = done.err.splitlines()
    assert messages[0] == "standard input, line 2: is empty: nothing to predict"
    assert messages[1].startswith("standard input, line 3: is not UTF-8 (byte 0xff)")
    assert messages[2].startswith("standard input, line 5: is empty")
    assert messages[3].startswith("standard input, line 6: 30000 tokens")
    assert len(messages) == 4


def test_no_lines_no_answers(cli, classifier):
    done = cli("predict", classifier, stdin=b"")
    assert (done.code, done.out, done.err) == (0, "", "")


def test_order_is_kept_over_many_lines(cli, classifier):
    lines = [("a lovely film" if i % 3 else "an awful film") + " and" * (i % 7) for i in range(1500)]
    done = cli("predict", classifier, stdin="\n".join(lines).encode())
    expected = ["kind" if i % 3 else "unkind" for i in range(1500)]
    assert [line.split("\t")[0] for line in done.out.splitlines()] == expected


def test_a_translator_answers_with_text(cli, translator):
    greedy = cli("predict", translator, stdin=b"a b\nc\n")
    assert (greedy.code, greedy.out.count("\n")) == (0, 2)
    beam = cli("predict", translator, "--beam", "3", stdin=b"a b\nc\n")
    assert (beam.code, beam.out.count("\n")) == (0, 2)
    assert set("".join(greedy.out.split())) <= set("ABCD")


def test_a_prediction_does_not_depend_on_its_neighbours(classifier):
    task = load_run(classifier)
    texts = ["a lovely film", "a dull and cold and boring and awful film", "film"]
    together = task.predict(texts)
    for text, (label, probability) in zip(texts, together, strict=True):
        alone = task.predict([text])[0]
        assert alone[0] == label
        assert alone[1] == pytest.approx(probability, rel=1e-4)


def test_lines_are_taken_as_they_come():
    class Slow(io.BytesIO):
        parts: ClassVar = [b"one\ntw", b"o\nthree\nfo", b"ur", b""]

        def read1(self, size=-1):
            return self.parts.pop(0)

    assert list(arriving(Slow())) == [[b"one"], [b"two", b"three"], [b"four"]]


def test_answers_come_before_the_input_ends(classifier):
    process = subprocess.Popen(
        [sys.executable, "-m", "gpuprop", "predict", str(classifier), "--device", "cpu"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    process.stdin.write(b"a lovely film\n")
    process.stdin.flush()
    assert process.stdout.readline().startswith(b"kind\t")
    out, err = process.communicate(b"a dull film\n", timeout=60)
    assert out.startswith(b"unkind\t")
    assert (process.returncode, err) == (0, b"")


def test_a_reader_that_leaves_ends_it_quietly(classifier):
    """As in `yes ... | gpuprop predict RUN | head -1`."""
    shell = (
        f"yes 'a lovely film' | {sys.executable} -m gpuprop predict {classifier} --device cpu | head -1;"
        'echo "${PIPESTATUS[1]}"'
    )
    done = subprocess.run(["bash", "-c", shell], capture_output=True, text=True, check=False)
    assert done.stdout.split("\t")[0] == "kind"
    assert done.stdout.splitlines()[1] == "141"
    assert "gpuprop" not in done.stderr
    assert "Traceback" not in done.stderr


def test_output_is_utf8_whatever_the_locale(classifier):
    done = subprocess.run(
        [sys.executable, "-m", "gpuprop", "predict", str(classifier), "--device", "cpu"],
        input="ein schöner Film\n".encode(),
        capture_output=True,
        check=False,
        env={**os.environ, "LC_ALL": "C", "PYTHONUTF8": "0"},
    )
    assert done.returncode == 0
    assert done.stdout.count(b"\n") == 1
