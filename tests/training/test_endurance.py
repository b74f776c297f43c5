"""Damaged files by the hundred (by the thousand in `make test-full`), and a long training in flat memory."""

import time
from pathlib import Path

import numpy as np
import pytest

import gpuprop as gp
from gpuprop import nn, text
from gpuprop.models import TextCNN

EFFORT = [pytest.param(300, id="short"), pytest.param(10_000, id="long", marks=pytest.mark.full)]


def damage(data: bytes, rng: np.random.Generator) -> bytes:
    """The bytes with some changed, cut, doubled or inserted."""
    out = bytearray(data)
    for _ in range(int(rng.integers(1, 4))):
        at = int(rng.integers(0, max(1, len(out))))
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


@pytest.mark.parametrize("files", EFFORT)
def test_damaged_weights_load_or_are_refused(tmp_path, files):
    rng = np.random.default_rng(0)
    good = tmp_path / "good.safetensors"
    gp.save({"a": np.arange(6, dtype=np.float32).reshape(2, 3), "b": np.ones(4)}, good)
    data, path, refused = good.read_bytes(), tmp_path / "damaged.safetensors", 0
    start = time.perf_counter()
    for _ in range(files):
        path.write_bytes(damage(data, rng))
        try:
            loaded = gp.load(path)
        except gp.CheckpointError as error:
            refused += 1
            assert str(path) in str(error)
        else:
            assert all(isinstance(a, np.ndarray) for a in loaded.values())
    assert refused > files / 4
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


def resident() -> int:
    """Bytes of this process in memory."""
    return int(Path("/proc/self/statm").read_text(encoding="utf-8").split()[1]) * 4096


@pytest.mark.full
@pytest.mark.timeout(600)
@pytest.mark.skipif(not Path("/proc/self/statm").exists(), reason="/proc is there on Linux only")
def test_memory_stays_flat_over_three_minutes_of_training():
    rng = np.random.default_rng(2)
    rows = [rng.integers(4, 500, int(n)).tolist() for n in rng.integers(3, 40, 400)]
    labels = rng.integers(0, 2, 400)
    model = TextCNN(500, 2, embedding_dim=64, filters=32)
    criterion, optimizer = nn.CrossEntropyLoss(), gp.optim.AdamW(model.parameters())
    batches = text.text_batches(rows, labels, batch_size=32, seed=0)
    seen, start = [], time.perf_counter()
    while time.perf_counter() - start < 180:
        for batch in batches:
            optimizer.zero_grad()
            criterion(model(batch.ids, batch.mask), batch.labels).backward()
            optimizer.step()
        seen.append(resident())
    warm, late = seen[len(seen) // 4 : len(seen) // 2], seen[-len(seen) // 4 :]
    assert len(seen) > 20
    assert max(late) < 1.02 * max(warm), f"{max(warm)} -> {max(late)} bytes"
