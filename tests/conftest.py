"""Fixtures of the whole test suite."""

from gpuprop.testing import device  # noqa: F401
