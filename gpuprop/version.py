"""The version, also of the built package."""

__version__ = "0.1.0"
