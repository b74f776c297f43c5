"""Saving is atomic, loading is strict."""

import json
import os
import subprocess
import sys

import numpy as np
import pytest

import gpuprop as gp
from gpuprop import nn
from gpuprop.training import checkpoint, files
from gpuprop.training.checkpoint_folder import CheckpointFolder


def small_model(hidden=4):
    return nn.Sequential(nn.Linear(3, hidden), nn.ReLU(), nn.Linear(hidden, 2))


def test_a_model_comes_back_bit_for_bit(tmp_path):
    model, other = small_model(), small_model()
    gp.save(model, tmp_path / "m.safetensors")
    other.load_state_dict(gp.load(tmp_path / "m.safetensors"))
    for (name, p), (_, q) in zip(model.named_parameters(), other.named_parameters(), strict=True):
        np.testing.assert_array_equal(p.numpy(), q.numpy(), err_msg=name)
    assert os.listdir(tmp_path) == ["m.safetensors"]


@pytest.mark.parametrize("dtype", ["f4", "f8", "f2", "i8", "i4", "u1", "?"])
def test_arrays_of_any_type_and_memory_order_come_back(tmp_path, dtype):
    array = np.arange(24).reshape(2, 3, 4).astype(dtype)
    given = {
        "c": array,
        "f": np.asfortranarray(array),
        "t": array.transpose(2, 0, 1),
        "one": array[0, 0, 0].reshape(()),
    }
    gp.save(given, tmp_path / "a.safetensors")
    found = gp.load(tmp_path / "a.safetensors")
    assert set(found) == set(given)
    for name, value in given.items():
        assert found[name].dtype == value.dtype
        np.testing.assert_array_equal(found[name], value, err_msg=name)


def test_tensors_and_texts_can_be_saved(tmp_path):
    gp.save({"x": gp.tensor([1.0, 2.0])}, tmp_path / "t.safetensors", {"made": "by a test"})
    arrays, texts = checkpoint.load_with_metadata(tmp_path / "t.safetensors")
    np.testing.assert_array_equal(arrays["x"], np.array([1, 2], np.float32))
    assert texts == {"made": "by a test"}


def test_the_file_is_what_the_safetensors_package_reads(tmp_path):
    numpy = pytest.importorskip("safetensors.numpy")
    model = small_model()
    gp.save(model, tmp_path / "m.safetensors")
    state = numpy.load_file(tmp_path / "m.safetensors")
    np.testing.assert_array_equal(state["0.weight"], model.state_dict()["0.weight"])


@pytest.mark.parametrize("damage", ["truncated", "empty", "text", "header", "pickle"])
def test_a_damaged_file_is_refused_by_name(tmp_path, damage):
    path = tmp_path / "m.safetensors"
    gp.save(small_model(), path)
    whole = path.read_bytes()
    path.write_bytes(
        {
            "truncated": whole[:-7],
            "empty": b"",
            "text": b"this is no model",
            "header": whole[:8] + b"\xff" * 20 + whole[28:],
            "pickle": b"\x80\x04\x95\x00\x00\x00\x00\x00\x00\x00\x00.",
        }[damage]
    )
    with pytest.raises(gp.CheckpointError, match=r"m\.safetensors: damaged.*train again"):
        gp.load(path)


def test_missing_files_and_folders_are_named(tmp_path):
    with pytest.raises(gp.CheckpointError, match=r"nothing\.safetensors: no such file"):
        gp.load(tmp_path / "nothing.safetensors")
    with pytest.raises(gp.CheckpointError, match="is a folder"):
        gp.load(tmp_path)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no pipes in the file system")
@pytest.mark.timeout(20)
def test_a_pipe_is_refused_and_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(
        gp.CheckpointError, match="pipe: cannot be read: it is a folder, a pipe or a device, not a file"
    ):
        gp.load(tmp_path / "pipe")
    told = []
    folder = CheckpointFolder(tmp_path / "checkpoints", report=told.append)
    folder.prepare()
    folder.save({"step": 1}, 1)
    os.mkfifo(tmp_path / "checkpoints" / "step-00000002.safetensors")
    path, _ = folder.latest()
    assert path.name == "step-00000001.safetensors"
    assert "step-00000002.safetensors: cannot be read: it is a folder, a pipe or a device" in told[0]


def test_weights_of_another_model_are_refused_and_change_nothing(tmp_path):
    path = tmp_path / "m.safetensors"
    gp.save(small_model(hidden=5), path)
    model = small_model()
    before = model.state_dict()
    with pytest.raises(
        gp.CheckpointError, match=r"m\.safetensors.*0\.weight.*\(5, 3\).*\(4, 3\).*another model"
    ):
        checkpoint.load_into(model, path)
    for name, value in model.state_dict().items():
        np.testing.assert_array_equal(value, before[name])


def test_weights_that_are_not_finite_are_refused(tmp_path):
    state = small_model().state_dict()
    state["2.bias"][1] = np.nan
    gp.save(state, tmp_path / "m.safetensors")
    with pytest.raises(gp.CheckpointError, match=r"2\.bias"):
        checkpoint.load_into(small_model(), tmp_path / "m.safetensors")


FULL_DISK = """
import resource, sys
import numpy as np
import gpuprop as gp
resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))   # writing fails after 4 KiB, as on a full disk
try:
    gp.save({"w": np.zeros(100_000, np.float32)}, sys.argv[1])
except gp.TrainingError as error:
    print(error)
    sys.exit(error.exit_code)
"""


def test_a_disk_that_fills_up_leaves_the_old_file(tmp_path):
    path = tmp_path / "m.safetensors"
    gp.save({"w": np.ones(3, np.float32)}, path)
    before = path.read_bytes()
    done = subprocess.run(
        [sys.executable, "-c", FULL_DISK, str(path)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 1, done.stderr
    assert "m.safetensors: could not be saved" in done.stdout
    assert done.stderr == ""
    assert path.read_bytes() == before
    assert os.listdir(tmp_path) == ["m.safetensors"]


def test_a_full_disk_is_explained(tmp_path, monkeypatch):
    def full(handle):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(files.os, "fsync", full)
    with pytest.raises(
        gp.TrainingError, match=r"config\.json: could not be saved: No space left.*free some space"
    ):
        files.write_json(tmp_path / "config.json", {})
    assert os.listdir(tmp_path) == []


def test_json_is_strict(tmp_path):
    with pytest.raises(ValueError, match="JSON compliant"):
        files.write_json(tmp_path / "x.json", {"loss": float("nan")})
    files.write_json(tmp_path / "x.json", {"ö": [1, 2.5]})
    assert json.loads((tmp_path / "x.json").read_text("utf-8")) == {"ö": [1, 2.5]}


def test_saved_files_have_ordinary_permissions(tmp_path):
    files.atomic_write(tmp_path / "f", b"x")
    (tmp_path / "g").write_bytes(b"x")
    assert (tmp_path / "f").stat().st_mode == (tmp_path / "g").stat().st_mode
