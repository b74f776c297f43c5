"""Fixtures and settings of the whole test suite."""

import signal

from fake_cuda import any_gpu, fake_gpu  # noqa: F401
from hypothesis import settings

from gpuprop.testing import device  # noqa: F401

# Timing a single example says nothing on a busy machine; the same examples every time keep failures
# repeatable.
settings.register_profile("gpuprop", deadline=None, derandomize=True)
settings.load_profile("gpuprop")

# A shell's job in the background ignores Ctrl-C, and so would all programs that the tests start.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)
