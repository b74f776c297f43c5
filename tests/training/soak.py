"""Trains in a loop and says how much memory it holds and how many files are open.

    python soak.py MINUTES FOLDER

Each round is a training that is saved every few steps, and ended; another trainer goes on and finishes it.
"""

from __future__ import annotations

import gc
import json
import os
import sys
import time
from pathlib import Path
from typing import Any

FLAT = 0.01  # of the memory after the warm-up
WARM_UP = 0.25  # of all rounds
LEAST_ROUNDS = 20
FIRST_ROUNDS = 5  # in which everything that is ever needed is imported


def make(folder: Path) -> tuple[Any, Any]:
    """A trainer and its batches, as each process makes them anew: dropout, a schedule, checkpoints, and work
    enough for two threads."""
    import numpy as np

    import gpuprop as gp
    from gpuprop import nn, text
    from gpuprop.training import CheckpointFolder

    gp.manual_seed(0)
    rng = np.random.default_rng(2)
    rows = [rng.integers(4, 2000, int(n)).tolist() for n in rng.integers(3, 40, 200)]
    labels = rng.integers(0, 2, 200)
    model = gp.models.TextCNN(2000, 2, embedding_dim=64, filters=32)
    criterion, optimizer = nn.CrossEntropyLoss(), gp.optim.AdamW(model.parameters())
    trainer = gp.Trainer(
        model,
        lambda batch: criterion(model(batch.ids, batch.mask), batch.labels),
        optimizer,
        schedule=gp.optim.ReduceLROnPlateau(optimizer),
        clip_norm=1.0,
        checkpoints=CheckpointFolder(folder, every_steps=3),
        progress="off",
    )
    return trainer, text.text_batches(rows, labels, batch_size=32, seed=0)


def a_round(folder: Path) -> None:
    """Four epochs in two parts."""
    for epochs in (2, 4):
        trainer, batches = make(folder)
        trainer.resume()
        trainer.fit(batches, epochs)
        assert trainer.state.epoch == epochs
    trainer.checkpoints.forget()


def measure() -> tuple[int, int]:
    """Bytes in memory and open files, where nothing waits to be collected."""
    gc.collect()
    pages = int(Path("/proc/self/statm").read_text(encoding="utf-8").split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE"), len(os.listdir("/proc/self/fd"))


def faults(rounds: list[tuple[int, int]]) -> list[str]:
    """What is wrong with (bytes, open files) after each round; [] where nothing is."""
    if len(rounds) < LEAST_ROUNDS:
        return [f"only {len(rounds)} rounds in this time"]
    memory, files = zip(*rounds[int(len(rounds) * WARM_UP) :], strict=True)
    found = []
    if max(memory) > (1 + FLAT) * memory[0]:
        found.append(f"memory was {memory[0]} bytes after the warm-up, then up to {max(memory)}")
    if len(set(files)) > 1:
        found.append(f"{files[0]} files were open after the warm-up, then up to {max(files)}")
    return found


def settle_interned_names() -> None:
    """Bring the interpreter's own table of interned strings to its size. Names of files go through it, and
    each that is gone leaves a place that is only reclaimed when the table, of a megabyte, is full and made
    anew: after some hundred rounds, which is no memory of ours."""
    for i in range(300_000):
        sys.intern(f"a name that nobody keeps {i}")


def main(minutes: float, folder: Path) -> None:
    """Write one JSON line: [bytes, open files] of each round."""
    rounds, end = [], time.monotonic() + 60 * minutes
    while time.monotonic() < end:
        if len(rounds) == FIRST_ROUNDS:
            settle_interned_names()
        a_round(folder)
        rounds.append(measure())
    print(json.dumps(rounds))


if __name__ == "__main__":
    main(float(sys.argv[1]), Path(sys.argv[2]))
