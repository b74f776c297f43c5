"""The command line run in this process, and tiny runs that several tests share."""

from __future__ import annotations

import io
import random
import sys
from dataclasses import dataclass

import pytest

from gpuprop.cli import main

KIND, UNKIND = ("lovely", "warm", "funny", "great"), ("dull", "cold", "boring", "awful")
CLASSIFY = ("--epochs", "3", "--embedding-dim", "8", "--batch-size", "16", "--device", "cpu")
SEQ2SEQ = (*CLASSIFY, "--hidden", "8", "--tokenizer", "symbol")


@dataclass
class Outcome:
    code: int
    out: str
    err: str


class Cli:
    """cli("train", ...) -> Outcome; `stdin` is bytes."""

    def __init__(self, capfd, monkeypatch):
        self.capfd, self.monkeypatch = capfd, monkeypatch

    def __call__(self, *arguments, stdin: bytes = b"") -> Outcome:
        self.capfd.readouterr()
        self.monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(stdin)))
        code = main([str(a) for a in arguments])
        out, err = self.capfd.readouterr()
        assert "Traceback" not in err
        return Outcome(code, out, err)


@pytest.fixture
def cli(capfd, monkeypatch):
    monkeypatch.delenv("GPUPROP_DEBUG", raising=False)
    monkeypatch.setenv("GPUPROP_DEVICE", "cpu")
    return Cli(capfd, monkeypatch)


def labelled(rows: int, seed: int = 0) -> str:
    rng = random.Random(seed)
    lines = []
    for i in range(rows):
        label, words = (("kind", KIND), ("unkind", UNKIND))[i % 2]
        lines.append(f"{label}\ta {rng.choice(words)} and {rng.choice(words)} film\n")
    return "".join(lines)


def pairs(rows: int, seed: int = 0) -> str:
    rng = random.Random(seed)
    lines = []
    for _ in range(rows):
        symbols = [rng.choice("abcd") for _ in range(rng.randint(1, 4))]
        lines.append(f"{' '.join(symbols)}\t{' '.join(s.upper() for s in symbols)}\n")
    return "".join(lines)


@pytest.fixture(scope="session")
def data(tmp_path_factory):
    """A folder with kinds.tsv, kinds_test.tsv, pairs.tsv, pairs_test.tsv."""
    folder = tmp_path_factory.mktemp("data")
    for name, text in {
        "kinds": labelled(80),
        "kinds_test": labelled(20, 1),
        "pairs": pairs(80),
        "pairs_test": pairs(20, 1),
    }.items():
        (folder / f"{name}.tsv").write_text(text, encoding="utf-8")
    return folder


def _trained(data, out, *arguments):
    assert main(["train", *arguments, "--out", str(out), "--quiet"]) == 0
    return out


@pytest.fixture(scope="session")
def classifier(data, tmp_path_factory):
    """The run folder of a classifier of kinds.tsv. Tests that change it copy it first."""
    out = tmp_path_factory.mktemp("runs") / "kinds"
    return _trained(
        data,
        out,
        "classify",
        "--model",
        "feedforward",
        "--train",
        str(data / "kinds.tsv"),
        *CLASSIFY,
        "--lr",
        "0.1",
    )


@pytest.fixture(scope="session")
def translator(data, tmp_path_factory):
    """The run folder of a translator of pairs.tsv."""
    out = tmp_path_factory.mktemp("runs") / "pairs"
    return _trained(data, out, "seq2seq", "--train", str(data / "pairs.tsv"), *SEQ2SEQ, "--lr", "0.02")
