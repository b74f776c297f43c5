"""Bad input to encoder-decoders: the line, what is wrong and the remedy; other lines are answered."""

import json
import shutil

import pytest

from .conftest import SEQ2SEQ

PAIRS = "".join(f"{'a b c d'[: 1 + 2 * (i % 4)]} {i % 7}\tA B\n" for i in range(30))


@pytest.fixture(scope="module")
def short_sighted(tmp_path_factory):
    """A Transformer with six learned positions."""
    from gpuprop.cli import main

    folder = tmp_path_factory.mktemp("learned")
    (folder / "pairs.tsv").write_text(PAIRS)
    options = ("--model", "transformer", "--positions", "learned", "--max-positions", "6", "--heads", "2")
    files = ("--train", str(folder / "pairs.tsv"), "--out", str(folder / "run"), "--quiet")
    assert main(["train", "seq2seq", *files, *SEQ2SEQ, *options, "--tokenizer", "symbol"]) == 0
    return folder / "run"


FILES = {
    "no target": (b"a b\n", "no tab; each line is source<TAB>target", 22),
    "empty line": (b"\n", "an empty line; remove it; each line is source<TAB>target", 22),
    "empty source": (b" \tA\n", "the source is empty; fill it in or remove the line", 22),
    "empty target": (b"a\t\n", "the target is empty; fill it in or remove the line", 22),
    "three columns": (b"a\tA\tB\n", "3 columns, expected 2", 22),
    "not UTF-8": (b"\xff\tA\n", "is not UTF-8: byte 0xff", 22),
}


@pytest.mark.parametrize("case", FILES)
@pytest.mark.parametrize("command", ["train", "evaluate"])
def test_pair_files(cli, translator, tmp_path, command, case):
    content, message, line = FILES[case]
    path = tmp_path / "pairs.tsv"
    path.write_bytes(b"a b\tA B\n" * 21 + content)
    train = ("train", "seq2seq", "--train", path, "--out", tmp_path / "run", *SEQ2SEQ)
    done = cli(*(train if command == "train" else ("evaluate", translator, path, "--json")))
    assert (done.code, done.out) == (2, "")
    assert f"{path}, line {line}: {message}" in done.err
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("pair", "what"), [("a a a a a a a\tA\n", "7 tokens"), ("a\tA A A A A A\n", "6 tokens")]
)
def test_texts_longer_than_learned_positions(cli, short_sighted, tmp_path, pair, what):
    """A target has one position less: `<s>` takes the first."""
    path = tmp_path / "pairs.tsv"
    path.write_text("a\tA\n" * 3 + pair)
    done = cli("evaluate", short_sighted, path, "--json")
    assert (done.code, done.out) == (2, "")
    assert f"{path}, line 4: {what}, the model has " in done.err
    assert "--positions sinusoidal" in done.err
    path.write_text(PAIRS + pair)
    options = ("--model", "transformer", "--positions", "learned", "--max-positions", "6", "--heads", "2")
    run = ("--train", path, "--out", tmp_path / "run", *SEQ2SEQ, *options)
    done = cli("train", "seq2seq", *run, "--tokenizer", "symbol")
    assert done.code == 2
    assert f"{path}, line 31: {what}" in done.err
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("options", [(), ("--beam", "2", "--n-best", "2"), ("--json",), ("--sample",)])
def test_prediction_goes_on_after_a_line_that_is_too_long(cli, short_sighted, options):
    done = cli("predict", short_sighted, *options, stdin=b"a b\na b c d a b c\n\n\xff\na b c d a b\n")
    assert done.code == 1
    lines = done.out.split("\n")[:-1]
    n = 2 if "--n-best" in options else 1
    assert len(lines) == 5 * n
    messages = done.err.splitlines()
    assert messages[0].startswith(
        "standard input, line 2: 7 tokens, the model has 6 positions; split the text"
    )
    assert messages[1].startswith("standard input, line 3: is empty")
    assert messages[2].startswith("standard input, line 4: is not UTF-8")
    assert len(messages) == 3
    if options == ("--json",):
        answers = [json.loads(line) for line in lines]
        assert [answer["input"] for answer in answers] == ["a b", None, None, None, "a b c d a b"]
        assert "7 tokens" in answers[1]["error"]


def test_no_output_is_longer_than_the_positions(cli, short_sighted):
    for options in (("--max-length", "50"), ("--max-length", "50", "--beam", "3"), ("--sample",)):
        done = cli("predict", short_sighted, *options, stdin=b"a b\nd\n")
        assert done.code == 0
        assert max(len(line.split()) for line in done.out.splitlines()) <= 6


@pytest.mark.parametrize("side", ["source", "target"])
@pytest.mark.parametrize("command", ["evaluate", "predict"])
def test_a_vocabulary_of_another_run(cli, data, translator, short_sighted, tmp_path, side, command):
    run = tmp_path / "run"
    shutil.copytree(translator, run)
    file = f"{side}_vocabulary.json"
    shutil.copy(short_sighted / file, run / file)
    arguments = ("evaluate", run, data / "pairs_test.tsv") if command == "evaluate" else ("predict", run)
    done = cli(*arguments, stdin=b"a\n")
    assert (done.code, done.out) == (2, "")
    assert f"{run / file}: is not the vocabulary of this run; copy it again" in done.err


@pytest.mark.parametrize("beam", ["0", "-1", "two"])
def test_beams_that_are_none(cli, data, translator, beam):
    for arguments in (("evaluate", translator, data / "pairs_test.tsv"), ("predict", translator)):
        done = cli(*arguments, "--beam", beam, stdin=b"a\n")
        assert (done.code, done.out) == (2, "")
        assert "--beam" in done.err


def test_what_was_answered_stays_when_a_later_line_fails(cli, translator, monkeypatch):
    """Here for want of memory, in the second bunch of lines."""
    from gpuprop.cli import predict as cli_predict
    from gpuprop.training.seq2seq import SequenceToSequence

    monkeypatch.setattr(cli_predict, "MOST_LINES", 2)
    search, seen = SequenceToSequence.hypotheses, []

    def fail_later(self, sources, how, rows=None):
        seen.append(len(sources))
        if len(seen) > 1:
            raise MemoryError("Unable to allocate 3 GiB")
        return search(self, sources, how, rows)

    monkeypatch.setattr(SequenceToSequence, "hypotheses", fail_later)
    done = cli("predict", translator, stdin=b"a\nb\nc\nd\n")
    assert done.code == 1
    assert len(done.out.splitlines()) == 2
    assert "not enough memory" in done.err
