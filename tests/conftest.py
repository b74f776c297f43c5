"""Fixtures and settings of the whole test suite."""

from fake_cuda import any_gpu, fake_gpu  # noqa: F401
from hypothesis import settings

from gpuprop.testing import device  # noqa: F401

# Timing a single example says nothing on a busy machine; the same examples every time keep failures
# repeatable.
settings.register_profile("gpuprop", deadline=None, derandomize=True)
settings.load_profile("gpuprop")
