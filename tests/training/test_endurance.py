"""Damaged files by the hundred (by the thousand in `make test-full`), and a long training in flat memory."""

import json
import os
import subprocess
import sys
import time
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soak
from resident import NOISE, needs_peak, peak

import gpuprop as gp
from gpuprop import nn, text
from gpuprop.cli.options_classify import ClassifyOptions
from gpuprop.cli.rebuild import check_same, rebuilt_options
from gpuprop.cli.support import plain
from gpuprop.models import TextCNN
from gpuprop.training import CheckpointFolder
from gpuprop.training.state_file import read_state

EFFORT = [pytest.param(500, id="short"), pytest.param(10_000, id="long", marks=pytest.mark.full)]


def damage(data: bytes, rng: np.random.Generator, head: int = 0) -> bytes:
    """The bytes with some changed, cut, doubled or inserted; half of the time among the first `head`."""
    out = bytearray(data)
    for _ in range(int(rng.integers(1, 4))):
        within = head if head and rng.integers(0, 2) else len(out)
        at = int(rng.integers(0, max(1, min(within, len(out)))))
        kind = rng.integers(0, 4)
        if kind == 0 and out:
            out[at] = int(rng.integers(0, 256))
        elif kind == 1:
            del out[at:]
        elif kind == 2:
            out[at:at] = rng.bytes(int(rng.integers(1, 9)))
        else:
            out += out[at:]
    return bytes(out)


@needs_peak
@pytest.mark.parametrize("files", EFFORT)
def test_damaged_weights_load_or_are_refused_in_little_memory(tmp_path, files):
    rng = np.random.default_rng(0)
    good = tmp_path / "good.safetensors"
    gp.save({"a": np.arange(120_000, dtype=np.float32).reshape(2, 3, -1), "b": np.ones(4)}, good)
    data, path, refused = good.read_bytes(), tmp_path / "damaged.safetensors", 0
    head = 8 + int.from_bytes(data[:8], "little")
    start = time.perf_counter()
    for _ in range(files):
        content = damage(data, rng, head)
        path.write_bytes(content)
        loaded = {}
        with peak() as grown:
            try:
                loaded = gp.load(path)
            except gp.CheckpointError as error:
                refused += 1
                assert str(path) in str(error)
        assert all(isinstance(a, np.ndarray) for a in loaded.values())
        assert grown[0] < 2 * len(content) + NOISE
    assert files / 4 < refused < files
    assert time.perf_counter() - start < 0.05 * files


@pytest.mark.parametrize("files", EFFORT)
@pytest.mark.parametrize("read", [text.read_labelled, text.read_pairs, text.read_lines, text.Vocabulary.load])
def test_damaged_text_is_read_or_refused(tmp_path, read, files):
    rng = np.random.default_rng(1)
    vocabulary = text.Vocabulary.build([["a", "b", "ü"]])
    vocabulary.save(tmp_path / "vocabulary.json")
    good = "pos\tein schöner Film\nneg\tbad\r\npos\tx\n".encode()
    data = (tmp_path / "vocabulary.json").read_bytes() if read is text.Vocabulary.load else good
    path: Path = tmp_path / "damaged"
    for _ in range(files):
        path.write_bytes(damage(data, rng))
        try:
            read(path)
        except gp.GpupropError as error:
            assert str(path) in str(error)


def trainer_in(folder: Path, every_steps: int | None = None) -> tuple[gp.Trainer, Any]:
    """A small training as each process makes it anew, with a schedule, dropout and checkpoints."""
    gp.manual_seed(0)
    rng = np.random.default_rng(2)
    rows = [rng.integers(4, 500, int(n)).tolist() for n in rng.integers(3, 40, 200)]
    labels = rng.integers(0, 2, 200)
    model = TextCNN(500, 2, embedding_dim=32, filters=16)
    criterion, optimizer = nn.CrossEntropyLoss(), gp.optim.AdamW(model.parameters())
    trainer = gp.Trainer(
        model,
        lambda batch: criterion(model(batch.ids, batch.mask), batch.labels),
        optimizer,
        schedule=gp.optim.ReduceLROnPlateau(optimizer),
        checkpoints=CheckpointFolder(folder, every_steps=every_steps),
        progress="off",
    )
    return trainer, text.text_batches(rows, labels, batch_size=32, seed=0)


@pytest.mark.parametrize("files", EFFORT)
def test_damaged_checkpoints_are_refused_in_little_memory(tmp_path, files):
    rng = np.random.default_rng(3)
    trainer, batches = trainer_in(tmp_path / "c")
    trainer.fit(batches, 1)
    data, path, refused = trainer.checkpoints.saved.read_bytes(), tmp_path / "damaged.safetensors", 0
    head = 8 + int.from_bytes(data[:8], "little")
    start = time.perf_counter()
    tracemalloc.start()
    for _ in range(files):
        content = damage(data, rng, head)
        path.write_bytes(content)
        tracemalloc.reset_peak()
        before = tracemalloc.get_traced_memory()[0]
        try:
            trainer.load(path)
        except gp.CheckpointError as error:
            refused += 1
            assert str(path) in str(error)
        assert tracemalloc.get_traced_memory()[1] - before < 2 * len(content) + 100_000
    tracemalloc.stop()
    assert refused > 0.9 * files
    assert time.perf_counter() - start < 0.1 * files


HOSTILE = (
    None,
    True,
    -1,
    0,
    1 << 70,
    1.5,
    1e308,
    "x",
    "",
    [],
    [1, 2],
    {},
    {"a": {}},
    np.zeros(3),
    np.zeros(()),
)


def forge(value: Any, rng: np.random.Generator) -> Any:
    """A copy of nested dicts and lists in which one entry is removed, added or something else."""
    if isinstance(value, (dict, list)) and value and rng.integers(0, 5):
        names = list(value) if isinstance(value, dict) else range(len(value))
        name = names[int(rng.integers(0, len(names)))]
        copy = value.copy()
        kind = rng.integers(0, 12)
        if kind == 0:
            del copy[name]
        elif kind == 1 and isinstance(copy, dict):
            copy["extra"] = HOSTILE[int(rng.integers(0, len(HOSTILE)))]
        else:
            copy[name] = forge(value[name], rng)
        return copy
    return HOSTILE[int(rng.integers(0, len(HOSTILE)))]


@pytest.mark.parametrize("files", EFFORT)
def test_forged_states_are_refused_or_loaded_whole(tmp_path, files):
    """What has a right checksum, but not the content that a trainer wrote."""
    rng = np.random.default_rng(4)
    trainer, batches = trainer_in(tmp_path / "c")
    trainer.fit(batches, 2)
    state = read_state(trainer.checkpoints.saved)
    trainer.checkpoints, refused = None, 0
    for _ in range(files):
        try:
            trainer.load_state_dict(forge(state, rng))
            trainer.fit(batches, 0)
        except (gp.CheckpointError, gp.DataError):
            refused += 1
    assert files / 2 < refused < files


@pytest.mark.parametrize("files", EFFORT)
def test_forged_configurations_are_refused_or_understood(files):
    rng = np.random.default_rng(5)
    options = plain(ClassifyOptions(train=Path("t"), out=Path("o")))
    good = {"task": "classify", "options": options, "training": {"lr": 0.1}, "data": {"train": {"rows": 1}}}
    refused = 0
    for _ in range(files):
        config = forge(good, rng)
        if not isinstance(config, dict):
            continue
        try:
            rebuilt_options(config, "run")
            check_same(good, config, "run")
        except gp.CheckpointError:
            refused += 1
    assert refused > files / 3


ON_LINUX = pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="/proc is there on Linux only")
MINUTES = float(os.environ.get("GPUPROP_SOAK_MINUTES", "30"))


def soaked(minutes: float, folder: Path) -> list[tuple[int, int]]:
    """Bytes in memory and open files after each round of training, in a process of its own on two cores."""
    two = {"GPUPROP_THREADS": "2", "OPENBLAS_NUM_THREADS": "2", "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run(
        [sys.executable, "-W", "error", soak.__file__, str(minutes), str(folder)],
        capture_output=True, text=True, check=False, env={**os.environ, **two},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return [(memory, files) for memory, files in json.loads(done.stdout)]


@pytest.mark.full
@pytest.mark.timeout(60 * MINUTES + 600)
@ON_LINUX
def test_memory_stays_flat_and_files_are_closed_over_half_an_hour_of_training(tmp_path):
    rounds = soaked(MINUTES, tmp_path / "c")
    assert soak.faults(rounds) == [], rounds[:: max(1, len(rounds) // 50)]


@ON_LINUX
def test_rounds_of_training_are_measured(tmp_path):
    rounds = soaked(0.02, tmp_path / "c")
    assert all(10 << 20 < memory < 4 << 30 and 3 <= files < 100 for memory, files in rounds)
    assert soak.faults(rounds[:1]) == ["only 1 rounds in this time"]


def test_a_leak_of_memory_or_files_is_found():
    flat = [(1_000_000 + 9_000 * (i % 2), 6) for i in range(60)]
    assert soak.faults([(500_000, 4)] * 15 + flat) == []
    (leak,) = soak.faults([(1_000_000 + 300 * i, 6) for i in range(60)])
    assert "1004500 bytes after the warm-up, then up to 1017700" in leak
    (lost,) = soak.faults([(1_000_000, 6 + i // 50) for i in range(60)])
    assert lost == "6 files were open after the warm-up, then up to 7"
