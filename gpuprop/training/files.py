"""Writing files so that a crash, a full disk or a kill leaves either the old file or the new one, never
half."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from ..errors import TrainingError

_REMEDY = {
    errno.ENOSPC: "the disk is full: free some space, or write elsewhere",
    errno.EDQUOT: "your disk quota is used up: free some space, or write elsewhere",
    errno.EFBIG: "the file is larger than this system or process may write (see `ulimit -f`)",
    errno.EACCES: "you may not write there: choose another folder, or change its permissions",
    errno.ENOTDIR: "a part of that path is a file: choose another folder",
    errno.EROFS: "that file system is read-only: choose another folder",
    errno.ENOENT: "its folder is gone: was it removed or renamed meanwhile?",
}


def atomic_write(path: str | Path, content: bytes) -> None:
    """Write `content` to `path`: to a file beside it first, flushed to the disk, which then takes its name.

    Raises TrainingError with the remedy when that fails; the file that was there is then untouched.
    """
    path = Path(path)
    temporary: str | None = None
    try:
        handle, temporary = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
        with os.fdopen(handle, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.chmod(temporary, 0o666 & ~_umask())
        os.replace(temporary, path)
        _sync_folder(path.parent)
    except OSError as error:
        raise write_error(path, error) from error
    finally:
        if temporary is not None:
            with contextlib.suppress(FileNotFoundError):  # gone already when all went well
                os.unlink(temporary)  # no Path: each interns its name, and this one is new every time


def leftovers(folder: str | Path, names: Iterable[str]) -> list[Path]:
    """What writers of these files left in a folder when they were killed."""
    starts = tuple(f".{name}." for name in names)
    try:
        return [file for file in Path(folder).iterdir() if file.name.startswith(starts)]
    except OSError:
        return []


def write_json(path: str | Path, value: Any) -> None:
    """Write strict JSON (NaN and infinity are refused), atomically."""
    text = json.dumps(value, ensure_ascii=False, indent=2, allow_nan=False)
    atomic_write(path, (text + "\n").encode("utf-8"))


def append_line(path: str | Path, line: str, sync: bool = True) -> None:
    """Add one line to a text file and flush it to the disk; without sync, to the system, which is quicker."""
    try:
        with open(path, "a", encoding="utf-8", newline="\n") as file:
            file.write(line + "\n")
            file.flush()
            if sync:
                os.fsync(file.fileno())
    except OSError as error:
        raise write_error(path, error) from error


def write_error(path: str | Path, error: OSError) -> TrainingError:
    """What to tell the user when `path` could not be written."""
    cause = error.strerror or str(error)
    remedy = _REMEDY.get(error.errno or 0)
    return TrainingError(f"{path}: could not be saved: {cause}" + (f"; {remedy}" if remedy else ""))


def describe_files(files: Iterable[tuple[str, str | Path | None, int | None]]) -> dict[str, Any]:
    """(role, path, rows) of data as the configuration keeps them, files with their SHA-256. The path is None
    for rows held out of the training file, rows is None for a file without rows."""
    return {
        role: ({} if path is None else {"path": str(path), "sha256": sha256(path)})
        | ({} if rows is None else {"rows": rows})
        for role, path, rows in files
    }


def sha256(path: str | Path) -> str:
    """SHA-256 (hex) of a file."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _umask() -> int:
    mask = os.umask(0o077)
    os.umask(mask)
    return mask


def _sync_folder(folder: Path) -> None:
    """Make the renaming itself last through a power cut, where the file system can."""
    with contextlib.suppress(OSError):
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
