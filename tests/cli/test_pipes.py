"""A pipe in place of a file of a run, whose end may never come, is refused and not waited for."""

import os
import shutil

import pytest

pytestmark = [
    pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no pipes in the file system"),
    pytest.mark.timeout(60),
]


def with_pipe(run, name, folder):
    """A copy of a run in which one file is a pipe."""
    copy = folder / "run"
    shutil.copytree(run, copy)
    file = max((copy / "checkpoints").iterdir()) if name == "checkpoint" else copy / name
    file.unlink()
    os.mkfifo(file)
    return copy, file


@pytest.mark.parametrize(
    ("name", "command"),
    [
        ("config.json", "predict"),
        ("vocabulary.json", "predict"),
        ("model.safetensors", "predict"),
        ("config.json", "report"),
        ("metrics.jsonl", "report"),
        ("gradients.jsonl", "report"),
        ("vocabulary.json", "resume"),
    ],
)
def test_a_pipe_in_a_run_folder_is_refused(cli, classifier, tmp_path, name, command):
    run, file = with_pipe(classifier, name, tmp_path)
    done = cli(command, run, stdin=b"a lovely film\n")
    assert done.code == 2
    assert f"{file}: " in done.err
    assert "it is a folder, a pipe or a device, not a file" in done.err


def test_a_pipe_among_checkpoints_is_passed_over(cli, classifier, tmp_path):
    run, file = with_pipe(classifier, "checkpoint", tmp_path)
    done = cli("resume", run, "--quiet")
    assert done.code == 0
    assert f"{file}: cannot be read: it is a folder, a pipe" in done.err
    assert "the last good checkpoint is used" in done.err


def test_training_does_not_read_from_a_pipe(cli, data, tmp_path):
    """Its files are read again for their checksums, and when it goes on."""
    os.mkfifo(tmp_path / "rows")
    for role in ("train", "valid", "test", "embeddings"):
        files = {"train": data / "kinds.tsv", role: tmp_path / "rows"}
        options = [text for name, path in files.items() for text in (f"--{name}", path)]
        done = cli("train", "classify", *options, "--out", tmp_path / "run")
        assert done.code == 2
        assert f"{tmp_path / 'rows'}: is a pipe or a device" in done.err
        assert "--" + role in done.err
