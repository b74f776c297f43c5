"""The command line: `gpuprop`, or `python -m gpuprop`. Each command has a file of its own name."""

from .commands import app, main

__all__ = ["app", "main"]
