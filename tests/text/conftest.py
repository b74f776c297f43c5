"""Settings of the text tests."""

from hypothesis import settings

# A busy machine is no reason to fail.
settings.register_profile("text", deadline=None)
settings.load_profile("text")
