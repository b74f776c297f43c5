"""Where an error is said to have happened."""

from __future__ import annotations

from typing import Any

from gpuprop.backend.where import place_of


def test_frames_of_cupys_compiled_modules_are_no_place() -> None:
    """Their file names are relative, and their lines are not there to show."""
    module: dict[str, Any] = {}
    exec(compile("def copy():\n    raise RuntimeError('capturing')", "cupy/cuda/memory.pyx", "exec"), module)
    try:
        module["copy"]()
    except RuntimeError as error:
        found = place_of(error)
    assert found.startswith("test_frames_of_cupys_compiled_modules_are_no_place (test_where.py, line ")
    assert '`module["copy"]()`' in found
