"""The programs of tests/gpu as modules: no package holds them, since a GPU's machine runs them as files."""

import importlib.util
from pathlib import Path

import pytest

FOLDER = Path(__file__).parents[1] / "gpu"


def load(name):
    """tests/gpu/NAME.py, anew each time."""
    path = FOLDER / f"{name}.py"
    if not path.exists():
        pytest.skip("tests/gpu is not part of the wheel's tests")
    spec = importlib.util.spec_from_file_location(f"gpu_{name}", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
