"""Every test of operations, layers, optimizers and training that is for a GPU, on the fake one."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from fake_cuda import reason

ROOT = Path(__file__).parents[2]


@pytest.mark.full
@pytest.mark.skipif(reason is not None, reason=str(reason))
@pytest.mark.parametrize("folder", ["ops", "nn", "optim", "training"])
def test_operations(folder: str) -> None:
    chosen = ["-p", "fake_device", f"tests/{folder}", "-k", "cuda", "-m", "not full"]
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", *chosen],
        cwd=ROOT, capture_output=True, text=True, timeout=900,
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "tests" / "double")])},
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-4000:]
    assert " passed" in done.stdout
