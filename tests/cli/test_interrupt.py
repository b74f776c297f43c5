"""Ctrl-C at any moment ends the command without a traceback."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

import gpuprop
from gpuprop.cli import commands

STRIKES = """
import os, signal, time
os.kill(os.getpid(), signal.SIGINT)
time.sleep(20)
"""
ROOT = Path(gpuprop.__file__).parents[1]


def struck(tmp_path, *arguments):
    """Run Python with a NumPy that presses Ctrl-C while it is imported."""
    (tmp_path / "numpy.py").write_text(STRIKES)
    paths = os.pathsep.join([str(tmp_path), str(ROOT)])
    command = [sys.executable, *map(str, arguments)]
    environment = {**os.environ, "PYTHONPATH": paths}
    return subprocess.run(command, capture_output=True, text=True, check=False, env=environment)


def test_while_the_command_is_imported(tmp_path):
    script = tmp_path / "bin" / "gpuprop"
    script.parent.mkdir()
    script.write_text("import sys\nfrom gpuprop.cli import main\nsys.exit(main())\n")
    for command in (("-m", "gpuprop", "devices"), (script, "devices")):
        done = struck(tmp_path, *command)
        assert (done.returncode, done.stdout, done.stderr) == (130, "", "")


@pytest.mark.parametrize("program", ["import gpuprop", "import sys; sys.argv[0] = '-m'; import gpuprop"])
def test_other_programs_get_their_exception(tmp_path, program):
    done = struck(tmp_path, "-c", f"try:\n  {program}\nexcept KeyboardInterrupt:\n  print('caught')")
    assert (done.returncode, done.stdout) == (0, "caught\n")


def test_between_import_and_command(monkeypatch, capfd):
    def struck_app(**options):
        raise KeyboardInterrupt

    monkeypatch.setattr(commands, "app", struck_app)
    assert commands.main(["devices"]) == 130
    assert capfd.readouterr() == ("", "")
