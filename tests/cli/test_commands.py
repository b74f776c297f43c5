"""The application as a whole: help pages, version, data, demo."""

import json
import subprocess
import sys

import pytest

import gpuprop
from gpuprop.text import datasets

PAGES = [
    (),
    ("train",),
    ("train", "classify"),
    ("train", "seq2seq"),
    ("evaluate",),
    ("predict",),
    ("resume",),
    ("report",),
    ("average",),
    ("data",),
    ("data", "list"),
    ("data", "get"),
    ("devices",),
    ("doctor",),
    ("demo",),
    ("bench",),
    ("kernels",),
    ("kernels", "list"),
    ("kernels", "compile"),
    ("kernels", "check"),
    ("parallel",),
    ("parallel", "plan"),
]


@pytest.mark.parametrize("words", PAGES, ids=" ".join)
def test_help_fits_80_columns_and_explains_every_option(cli, monkeypatch, words):
    monkeypatch.setenv("COLUMNS", "80")
    done = cli(*words, "--help")
    assert (done.code, done.err) == (0, "")
    assert done.out.startswith("Usage: " + " ".join(["gpuprop", *words]))
    lines = done.out.splitlines()
    assert max(map(len, lines)) <= 80
    for i, line in enumerate(lines):
        if line.startswith("  -") and len(line) <= 26:  # the explanation stands below
            assert lines[i + 1].startswith(" " * 26), line


@pytest.mark.parametrize(
    "words", [("train", "classify"), ("train", "seq2seq"), ("evaluate",), ("predict",)], ids=" ".join
)
def test_help_reads_like_a_manual(cli, words):
    page = cli(*words, "--help").out
    for part in ("Exit codes:", "Examples:", "UTF-8"):
        assert part in page


def test_version(cli):
    assert cli("--version").out == f"gpuprop {gpuprop.__version__}\n"


def test_no_command_shows_the_help(cli):
    done = cli()
    assert done.code == 2
    assert "Usage: gpuprop" in done.out + done.err


def test_importing_gpuprop_imports_none_of_the_command_lines_packages():
    code = (
        "import sys, gpuprop as gp; gp.Trainer, gp.save, gp.text, gp.models\n"
        "heavy = ('rich', 'typer', 'matplotlib', 'safetensors', 'tokenizers', 'cupy')\n"
        "print([m for m in heavy if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_tables_in_a_pipe_keep_a_row_on_a_line(cli):
    lines = cli("data", "list").out.splitlines()
    assert len(lines) == 1 + len(datasets.list_datasets())


def test_data_list(cli):
    names = [info.name for info in datasets.list_datasets()]
    table = cli("data", "list")
    assert table.code == 0
    assert all(name in table.out for name in names)
    rows = json.loads(cli("data", "list", "--json").out)
    assert [row["name"] for row in rows] == names
    assert {"licence", "source", "citation", "rows", "task"} <= set(rows[0])


def test_data_get_refuses_unknown_names_and_options(cli, tmp_path):
    done = cli("data", "get", "vader_movies", "--out", tmp_path / "d")
    assert done.code == 2
    assert "vader_movie" in done.err
    assert cli("data", "get", "mr", "--out", tmp_path / "d", "--option", "x").code == 2
    assert not (tmp_path / "d").exists()


def test_data_get_writes_files_that_train_reads(cli, tmp_path, monkeypatch):
    fake = datasets.LabelledData(["good film", "bad film"] * 20, ["p", "n"] * 20)

    def export(name, out, overwrite, **options):
        out.mkdir()
        path = out / "train.tsv"
        path.write_text("".join(f"{y}\t{x}\n" for x, y in zip(fake.texts, fake.labels, strict=True)))
        return [path]

    monkeypatch.setattr(datasets, "export", export)
    done = cli("data", "get", "vader_movie", "--out", tmp_path / "d")
    assert (done.code, done.out) == (0, f"{tmp_path / 'd' / 'train.tsv'}\n")
    assert "licence: MIT" in done.err
    train = ("--train", tmp_path / "d" / "train.tsv", "--out", tmp_path / "run", "--epochs", "1")
    assert cli("train", "classify", "--model", "feedforward", *train).code == 0


@pytest.fixture
def demo_data(monkeypatch):
    """Made-up data in place of the demo's, which has to be downloaded."""
    rows = datasets.LabelledData(["a warm film", "a cold film"] * 60, ["positive", "negative"] * 60)
    words = [a + b + c for a in "abcde" for b in "aeiou" for c in "bdfgk"]
    pairs = datasets.PairData(words, [" ".join(w.upper()) for w in words])
    monkeypatch.setattr(datasets, "load", lambda name, split: rows if name == "vader_movie" else pairs)


def test_demo(cli, demo_data, tmp_path):
    out = tmp_path / "demo"
    for _ in range(2):  # a second demo replaces the first
        done = cli("demo", "--quick", "--out", out, "--device", "cpu")
        assert done.code == 0, done.err
    for name in ("feedforward", "cnn", "g2p"):
        assert name in done.out
        assert (out / name / "model.safetensors").exists()
    for word in ("baseline", "seconds", "word error", "accuracy", "cpu", "backpropagation"):
        assert word in done.out
    assert (out / "curves.png").read_bytes().startswith(b"\x89PNG")
    assert cli("predict", out / "cnn", stdin=b"a warm film\n").code == 0


def test_demo_does_not_touch_folders_that_are_not_its_own(cli, demo_data, tmp_path):
    (tmp_path / "cnn").mkdir()
    (tmp_path / "cnn" / "thesis.txt").write_text("mine")
    done = cli("demo", "--quick", "--out", tmp_path, "--device", "cpu")
    assert done.code == 2
    assert (tmp_path / "cnn" / "thesis.txt").read_text() == "mine"


def test_the_letter_baseline_by_hand():
    from gpuprop.cli.demo_tasks import letter_baseline

    train = (["ab", "ba", "ab", "abc"], ["A B", "B A", "X B", "A B"])
    # a -> A (2 of 3), b -> B; "abc" has two phonemes for three letters and teaches nothing
    test = (["aab", "aab", "bb", "c"], ["A A A", "A A B", "B X", "K"])
    assert letter_baseline(train, test) == pytest.approx(2 / 3)
