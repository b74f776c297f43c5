"""A batch that does not fit: what is said, which size fits, and what --batch-size auto finds."""

import json

import numpy as np
import pytest

import gpuprop as gp
from gpuprop.backend import random
from gpuprop.backend.memory import MemoryUse
from gpuprop.backend.nvml import GpuProcess
from gpuprop.cli import main
from gpuprop.models import FeedForwardClassifier, Seq2Seq
from gpuprop.text.batches import collate_pairs, collate_text
from gpuprop.training import Classification, memory
from gpuprop.training.memory import described, first_rows, fits, fitting_rows

CPU = gp.get_device()


def classifier(limit):
    """A model, and a loss that finds no memory for more than `limit` rows."""
    gp.manual_seed(0)
    model = FeedForwardClassifier(20, 2, embedding_dim=4, dropout=0.3)
    criterion = gp.nn.CrossEntropyLoss()

    def loss(batch):
        if batch.size > limit:
            raise MemoryError("Out of memory allocating 12 bytes")
        return criterion(model(batch.ids, batch.mask), batch.labels)

    return model, loss


def texts(rows):
    return collate_text([[4, 5, 6][: 1 + i % 3] for i in range(rows)], [i % 2 for i in range(rows)])


def train(limit, rows):
    model, loss = classifier(limit)
    optimizer = gp.optim.Adam(model.parameters(), lr=0.01)
    return gp.Trainer(model, loss, optimizer, progress="off").fit([texts(rows)], 1)


def test_the_message_says_what_did_not_fit_and_what_does():
    with pytest.raises(gp.TrainingError) as failed:
        train(limit=6, rows=50)
    text = str(failed.value)
    assert "not enough memory on cpu for a batch of 50 rows of 3 tokens (Out of memory allocating" in text
    assert "A batch of 6 rows fits: --batch-size 6 --accumulate 9" in text
    assert isinstance(failed.value.__cause__, MemoryError)


def test_a_row_that_is_too_long_alone_is_told_so():
    with pytest.raises(gp.TrainingError, match=r"Not even one of its rows fits: cut the texts"):
        train(limit=0, rows=8)


def test_who_holds_the_memory_is_named(monkeypatch):
    use = MemoryUse(
        3 << 30, 1 << 29, 80 << 30, (GpuProcess(12, 5 << 30, "python"), GpuProcess(13, None, None))
    )
    monkeypatch.setattr(memory, "memory_use", lambda device: use)
    with pytest.raises(gp.TrainingError) as failed:
        train(limit=6, rows=8)
    text = str(failed.value)
    assert "at most 3.0 GiB were in use here, 0.5 GiB of 80.0 GiB are free" in text
    assert "also on this GPU: python (pid 12) 5.0 GiB, a process (pid 13)" in text


def test_trying_leaves_no_trace():
    model, loss = classifier(limit=10)
    before = random.state.calls.copy()
    assert fits(loss, texts(10), model, CPU)
    assert not fits(loss, texts(11), model, CPU)
    assert random.state.calls == before
    assert all(p.grad is None for p in model.parameters())


@pytest.mark.parametrize(
    ("limit", "rows", "found"), [(37, 500, 32), (64, 500, 64), (10**6, 100, 64), (1, 9, 1)]
)
def test_the_largest_power_of_two_that_fits_is_found(limit, rows, found):
    model, loss = classifier(limit)
    asked = []

    def largest(size):
        asked.append(size)
        return texts(size)

    assert fitting_rows(loss, largest, rows, model.eval(), CPU) == found
    assert not model.training
    assert asked == [2**i for i in range(len(asked))]


def test_no_row_that_fits_is_an_error():
    model, loss = classifier(0)
    with pytest.raises(gp.TrainingError, match="not enough memory on cpu for one row"):
        fitting_rows(loss, texts, 9, model, CPU)


def test_first_rows_of_pairs():
    batch = collate_pairs([[4, 5], [6], [7, 8, 9]], [[4], [5, 6], [7]])
    part = first_rows(batch, 2)
    assert part.size == 2
    assert part.source.shape == (2, 3)
    np.testing.assert_array_equal(part.target_out, batch.target_out[:2])
    assert described([batch, part]) == "a batch of 3 rows of 3 source and 3 target tokens"


LINES = "".join(f"{'ab'[i % 2]}\t{'x ' * (1 + i % 7)}{'ab'[i % 2]}\n" for i in range(80))


def test_auto_on_a_cpu_is_the_default(tmp_path, capfd, monkeypatch):
    monkeypatch.setenv("GPUPROP_DEVICE", "cpu")
    (tmp_path / "rows.tsv").write_text(LINES)
    arguments = ["train", "classify", "--train", str(tmp_path / "rows.tsv"), "--out", str(tmp_path / "run")]
    assert main([*arguments, "--epochs", "1", "--embedding-dim", "4", "--batch-size", "auto"]) == 0
    assert "--batch-size auto: 50 rows" in capfd.readouterr().err
    config = json.loads((tmp_path / "run" / "config.json").read_text())
    assert config["training"]["batch_size"] == config["options"]["batch_size"] == 50


def test_auto_on_a_gpu_tries_the_longest_rows(tmp_path, capfd, monkeypatch):
    """The device is called a GPU's, its memory ends at 21 rows."""
    monkeypatch.setenv("GPUPROP_DEVICE", "cpu")
    monkeypatch.setattr("gpuprop.cli.batch_size.get_device", lambda: gp.Device("cuda", 0))
    monkeypatch.setattr(memory, "release_memory", lambda device: None)
    seen = []
    loss_of = Classification.loss

    def loss(self, batch):
        seen.append(batch.lengths.tolist())
        if batch.size > 21:
            raise MemoryError
        return loss_of(self, batch)

    monkeypatch.setattr(Classification, "loss", loss)
    (tmp_path / "rows.tsv").write_text(LINES)
    arguments = ["train", "classify", "--train", str(tmp_path / "rows.tsv"), "--out", str(tmp_path / "run")]
    assert main([*arguments, "--epochs", "1", "--embedding-dim", "4", "--batch-size", "auto"]) == 0
    assert "--batch-size auto: 16 rows, fit on cuda:0" in capfd.readouterr().err
    assert seen[0] == [8]
    assert sorted(seen[3], reverse=True) == [8] * 8
    assert json.loads((tmp_path / "run" / "config.json").read_text())["training"]["batch_size"] == 16


@pytest.mark.parametrize("given", ["0", "-3", "some", "1.5", ""])
def test_other_sizes_are_refused(given, tmp_path, capfd):
    (tmp_path / "rows.tsv").write_text(LINES)
    files = ["--train", str(tmp_path / "rows.tsv"), "--out", str(tmp_path / "run")]
    assert main(["train", "classify", *files, f"--batch-size={given}"]) == 2
    assert "--batch-size" in capfd.readouterr().err


def test_a_seq2seq_step_is_explained_too():
    gp.manual_seed(0)
    model = Seq2Seq(9, 9, 4, 4)

    def loss(batch):
        raise MemoryError

    trainer = gp.Trainer(model, loss, gp.optim.SGD(model.parameters(), lr=0.1), progress="off")
    batch = collate_pairs([[4, 5], [6]], [[4], [5, 6]])
    with pytest.raises(gp.TrainingError, match="a batch of 2 rows of 2 source and 3 target tokens"):
        trainer.fit([batch], 1)
