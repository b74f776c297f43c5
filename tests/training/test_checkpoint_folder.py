"""Checkpoints: what one file holds, which files stay, what happens when a disk or a file fails."""

import os

import numpy as np
import pytest

import gpuprop as gp
from gpuprop.training import CheckpointFolder, checkpoint, files
from gpuprop.training.state_file import FORMAT, digest, read_state, write_state

STATE = {
    "model": {"w": np.arange(6, dtype=np.float32).reshape(2, 3), "scalar": np.array(2.5)},
    "training": {"epoch": 3, "best": None, "history": [{"epoch": 1, "lr": 0.1}], "progress": None},
    "empty": {},
}


def test_a_state_comes_back_with_types_and_bits(tmp_path):
    path = tmp_path / "s.safetensors"
    third = 1 / 3
    write_state(path, {**STATE, "x": {"float": third, "text": "ü", "numpy": np.float64(third), "none": None}})
    state = read_state(path)
    assert state["x"] == {"float": third, "text": "ü", "numpy": third, "none": None}
    assert state["training"] == STATE["training"]
    assert state["empty"] == {}
    for name, array in STATE["model"].items():
        assert state["model"][name].dtype == array.dtype
        np.testing.assert_array_equal(state["model"][name], array)
    assert set(gp.load(path)) == {"model/w", "model/scalar"}


@pytest.mark.parametrize(
    ("value", "message"),
    [({"a": float("nan")}, "cannot be saved"), ({"a": object()}, "cannot be saved"), ({"a/b": 1}, "slash")],
)
def test_what_json_has_not_is_refused(tmp_path, value, message):
    with pytest.raises(gp.DataError, match=message):
        write_state(tmp_path / "s", value)
    assert os.listdir(tmp_path) == []


def test_every_changed_byte_of_the_content_is_noticed(tmp_path):
    path = tmp_path / "s.safetensors"
    write_state(path, STATE)
    content = path.read_bytes()
    for at in range(len(content)):
        changed = bytearray(content)
        changed[at] ^= 1
        path.write_bytes(changed)
        try:
            state = read_state(path)
        except gp.CheckpointError as error:
            assert "s.safetensors" in str(error)
        else:  # a space in the header, say
            assert repr(state) == repr(read_again(path, content))


def read_again(path, content):
    path.write_bytes(content)
    return read_state(path)


def forged(path, text, arrays=None):
    """A file whose checksum is right and whose content somebody else chose."""
    arrays = arrays or {}
    checkpoint.save(arrays, path, {"format": FORMAT, "state": text, "sha256": digest(text, arrays)})


@pytest.mark.parametrize(
    ("text", "arrays"),
    [
        ("[" * 100_000, {}),
        ("[]", {}),
        ("3", {"a/b": np.ones(2)}),
        ('{"a": [1]}', {"a/b": np.ones(2)}),
        ('{"a": {"b": 1}}', {"a/b": np.ones(2)}),
        ('{"a": "text"}', {"a/b": np.ones(2)}),
        ('{"a": NaN}', {}),
        ('{"a": -Infinity}', {}),
        ("", {}),
    ],
)
def test_a_forged_state_is_refused(tmp_path, text, arrays):
    forged(tmp_path / "f", text, arrays)
    with pytest.raises(gp.CheckpointError, match="f: damaged"):
        read_state(tmp_path / "f")


def test_a_header_that_would_fill_the_memory_is_refused(tmp_path):
    """6 MB of "[]," would be more than 120 MB of lists."""
    forged(tmp_path / "f", "[" + "[]," * 2_000_000 + "[]]")
    with pytest.raises(gp.CheckpointError, match="of memory"):
        read_state(tmp_path / "f")


def test_weights_are_no_checkpoint(tmp_path):
    gp.save({"w": np.ones(2)}, tmp_path / "m.safetensors")
    with pytest.raises(gp.CheckpointError, match="is no checkpoint of a training"):
        read_state(tmp_path / "m.safetensors")


def steps(folder):
    return [int(file.name[5:13]) for file in folder.files()]


def test_the_last_ones_and_the_best_stay(tmp_path):
    folder = CheckpointFolder(tmp_path / "c", keep=2)
    folder.prepare()
    for step in range(1, 8):
        folder.save(STATE, step, best_step=3 if step >= 3 else step)
    assert steps(folder) == [7, 6, 3]
    assert folder.saved == tmp_path / "c" / "step-00000007.safetensors"


def test_a_training_that_went_back_does_not_lose_its_new_checkpoints(tmp_path):
    """Later ones, which could not be read, must not push out what is saved now."""
    folder = CheckpointFolder(tmp_path / "c", keep=2)
    folder.prepare()
    for step in (10, 20, 30):
        folder.save(STATE, step)
    for file in folder.files():
        file.write_bytes(b"damaged")
    folder.save(STATE, 15)
    assert steps(folder) == [15]


def test_the_last_whole_one_is_found_and_the_others_are_reported(tmp_path):
    told = []
    folder = CheckpointFolder(tmp_path / "c", keep=9, report=told.append)
    folder.prepare()
    assert folder.latest() is None
    for step in (1, 2, 3):
        folder.save(STATE, step)
    first, second, third = reversed(folder.files())
    third.write_bytes(third.read_bytes()[:-1])
    path, state = folder.latest()
    assert path == second
    assert state["training"] == STATE["training"]
    assert "step-00000003.safetensors: damaged" in told[0]
    assert told[1] == f"{second}: the last good checkpoint is used"
    for file in (first, second):
        file.write_bytes(b"")
    with pytest.raises(gp.CheckpointError, match="no checkpoint is whole"):
        folder.latest()


def test_without_a_listener_a_damaged_one_is_warned_of(tmp_path):
    folder = CheckpointFolder(tmp_path)
    folder.save(STATE, 1)
    folder.save(STATE, 2)
    folder.files()[0].write_bytes(b"")
    with pytest.warns(RuntimeWarning) as warned:
        assert folder.latest()[0].name == "step-00000001.safetensors"
    assert "step-00000002.safetensors: damaged" in str(warned[0].message)


def test_steps_and_seconds_make_one_due(tmp_path, monkeypatch):
    now = [100.0]
    monkeypatch.setattr("gpuprop.training.checkpoint_folder.time.monotonic", lambda: now[0])
    folder = CheckpointFolder(tmp_path / "c", every_steps=5)
    assert [step for step in range(1, 12) if folder.due(step)] == [5, 10]
    folder = CheckpointFolder(tmp_path / "d", every_seconds=60)
    folder.prepare()
    assert not folder.due(1)
    now[0] += 60
    assert folder.due(2)
    folder.save(STATE, 2)
    assert not folder.due(3)
    assert not CheckpointFolder(tmp_path / "e").due(1)


@pytest.mark.parametrize("name", ["keep", "every_steps", "every_seconds"])
def test_numbers_below_one_are_refused(tmp_path, name):
    with pytest.raises(gp.DataError, match=f"{name} must be at least 1"):
        CheckpointFolder(tmp_path, **{name: 0})


def test_training_goes_on_while_one_of_two_folders_can_be_written_to(tmp_path):
    told = []
    folder = CheckpointFolder(tmp_path / "a" / "c", also=tmp_path / "b" / "c", report=told.append)
    folder.prepare()
    folder.save(STATE, 1)
    os.rename(tmp_path / "a", tmp_path / "gone")
    for step in (2, 3):
        folder.save(STATE, step)
    assert len(told) == 1
    assert "its folder is gone" in told[0]
    assert "training goes on" in told[0]
    assert folder.saved == tmp_path / "b" / "c" / "step-00000003.safetensors"
    assert not (tmp_path / "a").exists()
    os.rename(tmp_path / "b", tmp_path / "gone too")
    with pytest.raises(gp.TrainingError, match="its folder is gone"):
        folder.save(STATE, 4)
    assert folder.latest() is None


def test_where_both_folders_fail_nobody_is_told_that_training_goes_on(tmp_path):
    told = []
    folder = CheckpointFolder(tmp_path / "a" / "c", also=tmp_path / "b" / "c", report=told.append)
    with pytest.raises(gp.TrainingError, match="its folder is gone"):
        folder.save(STATE, 1)
    assert told == []


def test_a_full_disk_leaves_the_checkpoints_before(tmp_path, monkeypatch):
    folder = CheckpointFolder(tmp_path / "c", keep=1)
    folder.prepare()
    folder.save(STATE, 1)

    def full(handle):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(files.os, "fsync", full)
    with pytest.raises(gp.TrainingError, match=r"step-00000002\.safetensors.*No space left.*free some space"):
        folder.save(STATE, 2)
    monkeypatch.undo()
    assert os.listdir(tmp_path / "c") == ["step-00000001.safetensors"]
    assert folder.latest() is not None


def test_what_a_killed_writer_left_is_removed(tmp_path):
    (tmp_path / ".step-00000009.safetensors.abc").write_bytes(b"half")
    (tmp_path / "notes.txt").write_bytes(b"mine")
    CheckpointFolder(tmp_path).prepare()
    assert os.listdir(tmp_path) == ["notes.txt"]
