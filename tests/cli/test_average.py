"""`gpuprop average`, and the epochs that `gpuprop train --keep-last` keeps for it."""

import os
import shutil

import numpy as np
import pytest

import gpuprop as gp
from gpuprop.training import load_run
from gpuprop.training.averaging import kept_epochs

from .conftest import CLASSIFY


@pytest.fixture(scope="module")
def trained(data, tmp_path_factory):
    """A run with the weights of its last three of five epochs."""
    out = tmp_path_factory.mktemp("runs") / "kept"
    arguments = ("--model", "feedforward", "--train", data / "kinds.tsv", "--out", out, "--quiet", *CLASSIFY)
    arguments = (*arguments, "--epochs", 5, "--keep-last", 3, "--lr", 0.05)
    assert gp.cli.main(["train", "classify", *map(str, arguments)]) == 0
    return out


@pytest.fixture
def run(trained, tmp_path):
    return shutil.copytree(trained, tmp_path / "run")


def mean_of(run, epochs):
    arrays = [gp.load(run / "epochs" / f"epoch-{n:04d}.safetensors") for n in epochs]
    return {name: np.mean([a[name].astype(np.float64) for a in arrays], axis=0) for name in arrays[0]}


def assert_model_is(run, expected):
    model = gp.load(run / "model.safetensors")
    assert set(model) == set(expected)
    for name, array in expected.items():
        np.testing.assert_allclose(model[name], array, rtol=1e-6, atol=1e-9)


def test_training_keeps_the_last_epochs(run):
    assert list(kept_epochs(run)) == [3, 4, 5]
    weights = [gp.load(path)["output.weight"] for path in kept_epochs(run).values()]
    assert not np.array_equal(weights[0], weights[2])


def test_the_average_takes_the_models_place(cli, data, run):
    best = (run / "model.safetensors").read_bytes()
    done = cli("average", run)
    assert done.code == 0
    assert "averaged epochs 3, 4, 5" in done.err
    assert_model_is(run, mean_of(run, [3, 4, 5]))
    assert (run / "model.best.safetensors").read_bytes() == best
    assert cli("evaluate", run, data / "kinds_test.tsv").code == 0
    assert cli("average", run, "--last", 1).code == 0
    assert_model_is(run, mean_of(run, [5]))
    assert (run / "model.best.safetensors").read_bytes() == best  # the first average is not the best epoch


def test_a_copy_gets_the_average_and_the_run_stays(cli, run, tmp_path):
    before = {name: (run / name).read_bytes() for name in os.listdir(run) if (run / name).is_file()}
    out = tmp_path / "deep" / "averaged"
    assert cli("average", run, "--epochs", "3,5", "--out", out).code == 0
    assert {name: (run / name).read_bytes() for name in before} == before
    assert_model_is(out, mean_of(run, [3, 5]))
    assert set(os.listdir(out)) == {*before, "model.best.safetensors"}
    assert load_run(out).predict(["a lovely film"])[0][0] in ("kind", "unkind")
    assert os.listdir(out.parent) == ["averaged"]
    again = cli("average", run, "--out", out)
    assert again.code == 2
    assert "exists already" in again.err


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--last", 2, "--epochs", "3"), "--last and --epochs"),
        (("--last", 4), "keeps epochs 3, 4, 5"),
        (("--epochs", "2,3"), "--epochs 2,3"),
        (("--epochs", "none"), "keeps epochs 3, 4, 5"),
        (("--epochs", "x"), "--epochs must be whole numbers"),
    ],
)
def test_wrong_choices_are_explained(cli, run, arguments, said):
    before = (run / "model.safetensors").read_bytes()
    done = cli("average", run, *arguments)
    assert done.code == 2
    assert said in done.err
    assert (run / "model.safetensors").read_bytes() == before
    assert not (run / "model.best.safetensors").exists()


def test_what_cannot_be_averaged_is_named(cli, classifier, run, tmp_path):
    none = cli("average", classifier)
    assert (none.code, "train with --keep-last" in none.err) == (2, True)
    before = (run / "model.safetensors").read_bytes()
    file = run / "epochs" / "epoch-0004.safetensors"
    whole = file.read_bytes()
    file.write_bytes(whole[:-9])
    damaged = cli("average", run)
    assert (damaged.code, "epoch-0004.safetensors: damaged" in damaged.err) == (2, True)
    gp.save({"other": np.ones(3, np.float32)}, file)
    other = cli("average", run, "--epochs", "4")
    assert (other.code, "the weights do not fit" in other.err) == (2, True)
    assert (run / "model.safetensors").read_bytes() == before
    assert not (run / "model.best.safetensors").exists()


def test_another_training_in_the_folder_forgets_the_epochs(cli, data, run):
    assert cli("average", run).code == 0
    arguments = ("train", "classify", "--train", data / "kinds.tsv", "--out", run, "--overwrite", *CLASSIFY)
    assert cli(*arguments).code == 0
    assert not (run / "epochs").exists()
    assert not (run / "model.best.safetensors").exists()
