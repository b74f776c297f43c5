"""The run folder: nothing before the first model, the old run until then, strict reading."""

import json
import os

import numpy as np
import pytest

import gpuprop as gp
from gpuprop import nn
from gpuprop.text import TextField, WordTokenizer
from gpuprop.training import run
from gpuprop.training.files import describe_files
from gpuprop.training.gradients import GRADIENTS
from gpuprop.training.run import RunFolder, check_out, read_config, read_field, read_metrics


@pytest.fixture
def field():
    return TextField.build(["a b c", "a b"], WordTokenizer(), max_length=7)


def write(path, field, **config):
    folder = RunFolder(path, {"task": "classify", **config}, {"text": field})
    folder.prepare()
    folder.save_model(nn.Linear(2, 2))
    return folder


def test_nothing_is_written_before_the_first_model(tmp_path, field):
    folder = RunFolder(tmp_path / "deep" / "run", {}, {"text": field})
    folder.prepare()
    assert os.listdir(tmp_path / "deep" / "run") == []
    folder.abandon()
    assert os.listdir(tmp_path / "deep") == []


def test_a_folder_that_was_there_is_not_taken_back(tmp_path, field):
    (tmp_path / "run").mkdir()
    folder = RunFolder(tmp_path / "run", {}, {"text": field})
    folder.prepare()
    folder.abandon()
    assert (tmp_path / "run").is_dir()


def test_records_of_a_first_epoch_are_shown_where_the_folder_is_its_own(tmp_path, field):
    """Then they stay when the first model comes, and go when none does; beside an old run they wait."""
    for end in ("save", "abandon"):
        folder = RunFolder(tmp_path / end, {}, {"text": field})
        folder.prepare()
        assert not folder.shown
        folder.describe()
        assert folder.shown
        (tmp_path / end / GRADIENTS).write_text('{"step": 1}\n')
        folder.save_model(nn.Linear(2, 2)) if end == "save" else folder.abandon()
    assert (tmp_path / "save" / GRADIENTS).read_text() == '{"step": 1}\n'
    assert not (tmp_path / "abandon").exists()
    later = RunFolder(tmp_path / "save", {}, {"text": field})
    later.prepare()
    later.describe()
    assert not later.shown
    later.save_model(nn.Linear(2, 2))
    assert later.shown
    assert not (tmp_path / "save" / GRADIENTS).exists()


def test_a_run_is_read_back(tmp_path, field):
    folder = write(tmp_path / "run", field, labels=["x", "y"])
    folder.append_metrics({"epoch": 1, "train_loss": 0.5})
    folder.append_metrics({"epoch": 2, "train_loss": 0.25})
    config = read_config(tmp_path / "run")
    assert config["labels"] == ["x", "y"]
    found = read_field(tmp_path / "run", config, "text")
    assert found.vocabulary == field.vocabulary
    assert found.max_length == 7
    assert [r["train_loss"] for r in read_metrics(tmp_path / "run")] == [0.5, 0.25]


def test_a_later_model_replaces_the_earlier_one(tmp_path, field):
    folder = write(tmp_path / "run", field)
    model = nn.Linear(2, 2)
    folder.save_model(model)
    saved = gp.load(tmp_path / "run" / run.MODEL)
    np.testing.assert_array_equal(saved["weight"], model.state_dict()["weight"])
    assert sorted(os.listdir(tmp_path / "run")) == ["config.json", "model.safetensors", "vocabulary.json"]


def test_a_new_run_clears_what_the_old_one_left(tmp_path, field):
    write(tmp_path / "run", field).append_metrics({"epoch": 1})
    (tmp_path / "run" / "notes.txt").write_text("mine")
    write(tmp_path / "run", field, second=True)
    assert not (tmp_path / "run" / run.METRICS).exists()
    assert (tmp_path / "run" / "notes.txt").read_text() == "mine"
    assert read_config(tmp_path / "run")["second"] is True


def test_a_failure_while_a_run_begins_leaves_the_old_run(tmp_path, field, monkeypatch):
    write(tmp_path / "run", field, first=True)
    before = {f.name: f.read_bytes() for f in (tmp_path / "run").iterdir()}

    def fail(model, path, metadata=None):
        raise gp.TrainingError(f"{path}: could not be saved")

    monkeypatch.setattr(run.checkpoint, "save", fail)
    with pytest.raises(gp.TrainingError):
        write(tmp_path / "run", field, first=False)
    assert {f.name: f.read_bytes() for f in (tmp_path / "run").iterdir()} == before


def test_a_folder_removed_during_training_is_reported(tmp_path, field):
    folder = write(tmp_path / "run", field)
    os.rename(tmp_path / "run", tmp_path / "moved")
    with pytest.raises(gp.TrainingError, match="removed or renamed"):
        folder.save_model(nn.Linear(2, 2))
    with pytest.raises(gp.TrainingError, match="removed or renamed"):
        folder.append_metrics({"epoch": 2})


def test_where_a_run_may_go(tmp_path, field):
    check_out(tmp_path / "new", overwrite=False)
    (tmp_path / "empty").mkdir()
    with pytest.raises(gp.DataError, match="exists already"):
        check_out(tmp_path / "empty", overwrite=False)
    check_out(tmp_path / "empty", overwrite=True)
    (tmp_path / "file").write_text("")
    with pytest.raises(gp.DataError, match="not a folder"):
        check_out(tmp_path / "file", overwrite=True)
    write(tmp_path / "run", field)
    check_out(tmp_path / "run", overwrite=True)


def test_metrics_cut_off_by_a_crash_are_read_up_to_there(tmp_path, field):
    folder = write(tmp_path / "run", field)
    folder.append_metrics({"epoch": 1})
    with open(tmp_path / "run" / run.METRICS, "a", encoding="utf-8") as file:
        file.write('{"epoch": 2, "tr')
    assert read_metrics(tmp_path / "run") == [{"epoch": 1}]


def test_metrics_are_strict_json(tmp_path, field):
    folder = write(tmp_path / "run", field)
    with pytest.raises(ValueError, match="JSON compliant"):
        folder.append_metrics({"loss": float("inf")})


def test_files_are_described_by_their_hash(tmp_path):
    (tmp_path / "t").write_bytes(b"abc")
    described = describe_files([("train", tmp_path / "t", 3), ("valid", None, 1)])
    sha256 = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    assert described == {
        "train": {"path": str(tmp_path / "t"), "rows": 3, "sha256": sha256},
        "valid": {"rows": 1},
    }
    assert json.dumps(described)
