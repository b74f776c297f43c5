"""`gpuprop train --device cuda` on a fake GPU: data, batches, observers, validation and all, by graphs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

from gpuprop.cli import app


def write(path: Path, rows: int, seed: int, pairs: bool) -> None:
    rng, words = np.random.default_rng(seed), [f"w{i}" for i in range(20)]

    def text() -> str:
        return " ".join(rng.choice(words, rng.integers(1, 9)))

    lines = [f"{text() if pairs else 'ab'[rng.integers(2)]}\t{text()}\n" for _ in range(rows)]
    path.write_text("".join(lines), encoding="utf-8")


@pytest.mark.parametrize(
    "options",
    [
        ["classify", "--model", "cnn", "--embedding-dim", "8", "--filters", "4"],
        ["seq2seq", "--model", "conv", "--embedding-dim", "8", "--hidden", "8",
         "--layers", "1"],
    ],
    ids=lambda options: options[2],
)  # fmt: skip
def test_trains_by_graphs(fake_gpu: Any, tmp_path: Path, options: list[str]) -> None:
    for name, rows in (("train", 40), ("valid", 8)):
        write(tmp_path / name, rows, rows, options[0] == "seq2seq")
    files = [
        "--train",
        str(tmp_path / "train"),
        "--valid",
        str(tmp_path / "valid"),
        "--out",
        str(tmp_path / "run"),
    ]
    result = CliRunner().invoke(
        app, ["train", *options, *files, "--device", "cuda", "--epochs", "2", "--batch-size", "8"]
    )
    assert result.exit_code == 0, result.output
    assert "on cuda:0" in result.output
    assert "operation by operation" not in result.output
    assert fake_gpu.launches.count("graph") >= 3  # of 10 steps: the report looks at the first ones
