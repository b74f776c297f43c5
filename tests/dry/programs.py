"""The programs for a GPU that are no tests of their own, as tests of the dry run."""

from __future__ import annotations

import numpy as np
import pytest
import sanitize
from experiments import EXPERIMENTS

from gpuprop.backend.device import use_device
from gpuprop.cli.kernel_cases import OURS

pytestmark = pytest.mark.gpu


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_experiment(name: str) -> None:
    with use_device("cuda"):
        EXPERIMENTS[name](False)


@pytest.mark.parametrize("dtype", sanitize.TYPES)
@pytest.mark.parametrize("file", OURS)
def test_kernel_case(file: str, dtype: str) -> None:
    with use_device("cuda"):
        OURS[file](np.dtype(dtype))
