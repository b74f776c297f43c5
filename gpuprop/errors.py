"""The errors gpuprop raises on purpose. Each message carries the values and the fix."""

from __future__ import annotations

from pathlib import Path


class GpupropError(Exception):
    """Base of every error raised on purpose; the command line prints it without a traceback."""

    exit_code = 1


class DataError(GpupropError, ValueError):
    """Bad user data or usage. `path` and `line` (1-based) say where, when there is a file."""

    exit_code = 2

    def __init__(self, message: str, path: str | Path | None = None, line: int | None = None) -> None:
        place = "" if path is None else f"{path}: " if line is None else f"{path}, line {line}: "
        super().__init__(place + message)
        self.path, self.line = path, line


class ShapeError(GpupropError, ValueError):
    """An array has the wrong shape; the message names the layer, what it expects and what it got."""


class DeviceError(GpupropError, RuntimeError):
    """A device cannot be used; the message holds the original cause and the fix."""

    exit_code = 2


class CaptureError(GpupropError, RuntimeError):
    """A step cannot become one CUDA graph; the message names the operation and why."""


class CheckpointError(GpupropError, RuntimeError):
    """A checkpoint or run folder is missing, damaged or belongs to another model."""

    exit_code = 2


class TrainingError(GpupropError, RuntimeError):
    """Training cannot go on: a loss that is not a number, a full disk."""


class TrainingWarning(UserWarning):
    """Training goes on, but the user should look at something: gradients that vanish or explode."""


class KernelError(GpupropError, RuntimeError):
    """A kernel was launched wrongly or did something wrong while it ran."""


class BuildError(KernelError):
    """A kernel does not compile; the message holds the compiler's lines with the user's line numbers."""
