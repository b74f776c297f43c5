"""Importing gpuprop.text is light."""

from __future__ import annotations

import subprocess
import sys

import pytest

import gpuprop.text


def test_import_is_light() -> None:
    program = (
        "import sys, gpuprop.text\n"
        "heavy = {'pooch', 'requests', 'tokenizers', 'cupy', 'matplotlib'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
        "assert 'gpuprop.text.datasets' not in sys.modules\n"
        "assert gpuprop.text.datasets.load\n"
        "assert 'pooch' not in sys.modules\n"  # which only a download needs: a machine may lack it
    )
    subprocess.run([sys.executable, "-c", program], check=True, timeout=60)


def test_public_names_exist() -> None:
    for name in gpuprop.text.__all__:
        assert hasattr(gpuprop.text, name)
    with pytest.raises(AttributeError, match="nothing"):
        gpuprop.text.nothing  # noqa: B018
