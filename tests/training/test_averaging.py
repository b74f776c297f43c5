"""The weights of the last epochs and their average."""

import numpy as np
import pytest

import gpuprop as gp
from gpuprop import nn
from gpuprop.training import average_checkpoints
from gpuprop.training.averaging import forget_epochs, keep_epoch, kept_epochs


def write(folder, **arrays):
    """Numbered files of these arrays, one a value."""
    paths = []
    for i, values in enumerate(zip(*arrays.values(), strict=True)):
        paths.append(folder / f"{i}.safetensors")
        gp.save(dict(zip(arrays, values, strict=True)), paths[-1])
    return paths


def test_the_mean_is_summed_in_float64_and_keeps_the_type(tmp_path):
    rng = np.random.default_rng(0)
    weights = rng.standard_normal((7, 30, 4)).astype(np.float32) + 1000
    halves = rng.standard_normal((7, 5)).astype(np.float16)
    mean = average_checkpoints(write(tmp_path, weight=weights, half=halves))
    assert set(mean) == {"half", "weight"}
    np.testing.assert_array_equal(mean["weight"], weights.astype(np.float64).mean(0).astype(np.float32))
    np.testing.assert_array_equal(mean["half"], halves.astype(np.float64).mean(0).astype(np.float16))
    assert not np.array_equal(mean["weight"], weights.sum(0) / np.float32(7))  # float32 sums would differ


def test_the_mean_of_large_numbers_does_not_overflow(tmp_path):
    big = np.full((3, 2), 3e38, np.float32)
    np.testing.assert_array_equal(average_checkpoints(write(tmp_path, w=big))["w"], big[0])


def test_bfloat16_is_averaged_too(tmp_path):
    bfloat16 = pytest.importorskip("ml_dtypes").bfloat16
    values = np.array([[1.0, 2.0], [3.0, 2.5]]).astype(bfloat16)
    mean = average_checkpoints(write(tmp_path, w=values))["w"]
    assert mean.dtype == bfloat16
    np.testing.assert_array_equal(mean.astype(np.float32), [2.0, 2.25])


def test_files_that_do_not_belong_together_are_named(tmp_path):
    good = np.ones((2, 3), np.float32)
    others = {
        "shape": {"w": np.ones((3, 2), np.float32)},
        "type": {"w": np.ones((2, 3), np.float64)},
        "missing": {"v": good},
        "more": {"w": good, "v": good},
        "nan": {"w": np.full((2, 3), np.nan, np.float32)},
    }
    first = tmp_path / "first.safetensors"
    gp.save({"w": good}, first)
    said = {
        "shape": r"w is float32 \(3, 2\), in .*first.safetensors it is float32 \(2, 3\)",
        "type": r"w is float64 \(2, 3\)",
        "missing": "w is nothing",
        "more": r"v is float32 \(2, 3\), in .* it is nothing",
        "nan": "w holds values that are not finite",
    }
    for name, arrays in others.items():
        path = tmp_path / f"{name}.safetensors"
        gp.save(arrays, path)
        with pytest.raises(gp.CheckpointError, match=rf"{name}\.safetensors: {said[name]}"):
            average_checkpoints([first, path])
    with pytest.raises(gp.CheckpointError, match=r"nan\.safetensors: w holds values"):
        average_checkpoints([tmp_path / "nan.safetensors"])
    with pytest.raises(gp.CheckpointError, match=r"gone\.safetensors: no such file"):
        average_checkpoints([first, tmp_path / "gone.safetensors"])
    (tmp_path / "cut.safetensors").write_bytes(first.read_bytes()[:-3])
    with pytest.raises(gp.CheckpointError, match=r"cut\.safetensors: damaged"):
        average_checkpoints([first, tmp_path / "cut.safetensors"])
    with pytest.raises(gp.DataError, match="at least one file"):
        average_checkpoints([])


def test_only_the_last_epochs_stay(tmp_path):
    model = nn.Linear(2, 2)
    (tmp_path / "epochs").mkdir()
    (tmp_path / "epochs" / "notes.txt").write_text("mine")
    for epoch in range(1, 6):
        model.bias.data[...] = epoch
        keep_epoch(tmp_path, model, epoch, last=2)
    assert list(kept_epochs(tmp_path)) == [4, 5]
    assert gp.load(kept_epochs(tmp_path)[4])["bias"].tolist() == [4, 4]
    forget_epochs(tmp_path)
    assert kept_epochs(tmp_path) == {}
    assert (tmp_path / "epochs" / "notes.txt").read_text() == "mine"
    (tmp_path / "epochs" / "notes.txt").unlink()
    forget_epochs(tmp_path)
    assert not (tmp_path / "epochs").exists()
