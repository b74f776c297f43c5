"""One compilation of each kernel file for the tests of a run."""

import pytest
from cubins import Cubins

from gpuprop.backend import nvrtc


@pytest.fixture(scope="session")
def cubins(tmp_path_factory):
    if not nvrtc.available():
        pytest.skip(nvrtc.MISSING)
    own = tmp_path_factory.getbasetemp()
    shared = own.parent if own.name.startswith("popen-") else own  # with pytest-xdist a folder a process
    folder = shared / "cubins"
    folder.mkdir(exist_ok=True)
    return Cubins(folder)
