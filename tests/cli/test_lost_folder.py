"""A run folder whose disk is full, or that is removed, while a training writes to it."""

import errno
import os
import shutil

import pytest

from gpuprop.optim import Optimizer
from gpuprop.training import files, run

from .test_resume import KINDS, outcome

EPOCH = 5  # steps


class Loss:
    """What becomes of a run folder before the n-th optimizer step, and how it comes back."""

    def __init__(self, monkeypatch, folder, kind):
        self.monkeypatch, self.folder, self.kind, self.full = monkeypatch, folder, kind, False
        make, append = files.tempfile.mkstemp, open
        monkeypatch.setattr(files.tempfile, "mkstemp", lambda **o: self._on_disk(o["dir"]) or make(**o))
        monkeypatch.setattr(
            files, "open", lambda file, *a, **o: self._on_disk(file) or append(file, *a, **o), raising=False
        )

    def _on_disk(self, path):
        if self.full and str(path).startswith(str(self.folder)):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def happens_before(self, number):
        left, step = [number], Optimizer.step

        def counted(optimizer):
            left[0] -= 1
            if left[0] == 0:
                self.happen()
            step(optimizer)

        self.monkeypatch.setattr(Optimizer, "step", counted)

    def happen(self):
        if self.kind == "removed":
            shutil.rmtree(self.folder)
        else:
            self.full = True

    def is_over(self):
        self.full = False


@pytest.fixture(params=["full", "removed"])
def loss(request, monkeypatch, tmp_path):
    return Loss(monkeypatch, tmp_path / "run", request.param)


@pytest.fixture(scope="module")
def whole(data, tmp_path_factory):
    """A training to which nothing happened."""
    from gpuprop.cli import main

    out = tmp_path_factory.mktemp("whole") / "run"
    assert main([str(a) for a in command(data, out)]) == 0
    return out


def command(data, out, *more):
    return ("train", *KINDS, "--train", data / "kinds.tsv", "--quiet", "--out", out, *more)


REASON = {"full": "No space left on device; the disk is full", "removed": "its folder is gone"}


@pytest.mark.parametrize("step", [1, EPOCH + 2, 3 * EPOCH], ids=["first step", "second epoch", "last step"])
def test_training_goes_on_with_a_second_folder(cli, data, tmp_path, whole, loss, step):
    second = tmp_path / "second"
    loss.happens_before(step)
    done = cli(*command(data, loss.folder, "--checkpoint-dir", second, "--checkpoint-every", "1"))
    assert done.code == 1
    assert REASON[loss.kind] in done.err
    assert done.err.count("training goes on, and what it needs is kept in") == 1
    assert done.err.count("training goes on with the other folder of checkpoints") <= 1
    assert f"go on with: gpuprop resume {loss.folder} --checkpoint-dir {second}" in done.err
    assert f"its best model is {second / 'best.safetensors'}" in done.err
    assert "curves.png" not in done.err
    assert loss.folder.exists() == (loss.kind == "full" and step > 1)
    best = (second / "best.safetensors").read_bytes()
    assert best == (whole / "model.safetensors").read_bytes()

    loss.is_over()
    done = cli("resume", loss.folder, "--checkpoint-dir", second, "--quiet")
    assert done.code == 0, done.err
    records = loss.kind == "full"  # those of a removed folder are lost
    assert outcome(loss.folder, records, second) == outcome(whole, records)
    assert not (second / "best.safetensors").exists()


def test_a_disk_that_has_room_again_gets_all_in_the_end(cli, data, tmp_path, whole, monkeypatch):
    loss = Loss(monkeypatch, tmp_path / "run", "full")
    loss.happens_before(2)
    append = run.RunFolder.append_metrics

    def later(folder, record):
        if record["epoch"] == 3:
            loss.is_over()
        else:
            append(folder, record)

    monkeypatch.setattr(run.RunFolder, "append_metrics", later)
    second = tmp_path / "second"
    done = cli(*command(data, loss.folder, "--checkpoint-dir", second))
    assert done.code == 0, done.err
    assert "the disk is full" in done.err
    assert outcome(loss.folder, checkpoints=second) == outcome(whole)
    assert not (second / "best.safetensors").exists()


def test_without_a_second_folder_a_full_disk_ends_training_with_its_last_checkpoint(
    cli, data, tmp_path, whole, monkeypatch
):
    loss = Loss(monkeypatch, tmp_path / "run", "full")
    loss.happens_before(EPOCH + 2)
    done = cli(*command(data, loss.folder))
    assert done.code == 1
    assert "the disk is full" in done.err
    saved = loss.folder / "checkpoints" / "step-00000005.safetensors"
    assert f"saved as {saved}; go on with: gpuprop resume {loss.folder}\n" in done.err
    loss.is_over()
    assert cli("resume", loss.folder, "--quiet").code == 0
    assert outcome(loss.folder) == outcome(whole)


@pytest.mark.parametrize("more", [(), ("--keep-checkpoints", "0")])
def test_without_a_second_folder_the_first_epoch_leaves_nothing(cli, data, loss, more):
    loss.happens_before(2)
    done = cli(*command(data, loss.folder, *more))
    assert done.code == 1
    assert REASON[loss.kind] in done.err
    *warnings, _ = done.err.splitlines()  # the last is of the model; nothing is said of curves.png
    assert len(warnings) == (not more)
    assert all(w.startswith("warning: ") and "gradients.jsonl: could not be saved" in w for w in warnings)
    assert not loss.folder.exists()


def test_a_removed_folder_without_a_second_one_is_not_called_saved(cli, data, tmp_path, monkeypatch):
    loss = Loss(monkeypatch, tmp_path / "run", "removed")
    loss.happens_before(EPOCH + 2)
    done = cli(*command(data, loss.folder))
    assert done.code == 1
    assert "its folder is gone" in done.err
    assert "go on with" not in done.err
