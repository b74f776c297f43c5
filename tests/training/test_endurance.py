"""Damaged files by the hundred (by the thousand in `make test-full`), and a long training in flat memory."""

import os
import time
import tracemalloc
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from resident import NOISE, needs_peak, peak

import gpuprop as gp
from gpuprop import nn, text
from gpuprop.cli_options_classify import ClassifyOptions
from gpuprop.cli_rebuild import check_same, rebuilt_options
from gpuprop.cli_support import plain
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


def resident() -> int:
    """Bytes of this process in memory."""
    return int(Path("/proc/self/statm").read_text(encoding="utf-8").split()[1]) * 4096


SOAK_MINUTES = float(os.environ.get("GPUPROP_SOAK_MINUTES", "30"))


@pytest.mark.full
@pytest.mark.timeout(60 * SOAK_MINUTES + 600)
@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="/proc is there on Linux only")
def test_memory_stays_flat_and_files_are_closed_over_half_an_hour_of_training(tmp_path):
    """Trainings one after another, each with checkpoints, a stop, and another trainer that goes on."""
    seen, handles, start = [], [], time.perf_counter()
    while time.perf_counter() - start < 60 * SOAK_MINUTES:
        for epochs in (2, 4):
            trainer, batches = trainer_in(tmp_path / "c", every_steps=3)
            trainer.resume()
            trainer.fit(batches, epochs)
        trainer.checkpoints.forget()
        seen.append(resident())
        handles.append(len(os.listdir("/proc/self/fd")))
    warm, late = seen[len(seen) // 4 : len(seen) // 2], seen[-len(seen) // 4 :]
    assert len(seen) > 20
    assert max(late) < 1.01 * max(warm), f"{max(warm)} -> {max(late)} bytes"
    assert handles[-1] == handles[len(handles) // 4]
