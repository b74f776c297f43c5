"""Finds the files of a data set: in `GPUPROP_DATA`, in the cache, or at their origin.

Whatever the place, a file counts only if its SHA-256 is the pinned one.
"""

from __future__ import annotations

import os
import tempfile
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path, PurePosixPath

from gpuprop.errors import DataError
from gpuprop.text.datasets.origins import Origin
from gpuprop.text.files import read_bytes


@dataclass(frozen=True)
class DataFile:
    """One file: its place under `GPUPROP_DATA`, the SHA-256 of the copy there, and of its decompressed
    content.
    """

    path: str
    stored: str
    content: str
    origin: Origin | None
    by_hand: str = ""

    @property
    def cached_name(self) -> str:
        """Place in the cache, where files are kept decompressed."""
        return self.path.removesuffix(".gz").removesuffix(".xz")


def cache_directory() -> Path:
    """`GPUPROP_CACHE`, or `gpuprop` in the user's cache folder (`XDG_CACHE_HOME`, by default `~/.cache`)."""
    chosen = os.environ.get("GPUPROP_CACHE")
    if chosen:
        return Path(chosen).expanduser()
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "gpuprop"


def locate(file: DataFile) -> Path:
    """The path of a checked copy of `file`, fetched where there is none.

    Raises `DataError` where a copy in `GPUPROP_DATA` has another SHA-256 (both are shown), and where the file
    cannot be fetched (with what to do instead).
    """
    folder = os.environ.get("GPUPROP_DATA")
    if folder:
        if not Path(folder).is_dir():
            raise DataError("GPUPROP_DATA is not a folder; correct or unset it", folder)
        copy = Path(folder, *PurePosixPath(file.path).parts)
        if copy.is_file():
            _check(
                copy.read_bytes(), file.stored, copy, "Replace it by the right one, or unset GPUPROP_DATA."
            )
            return copy
    cached = cache_directory() / "data" / PurePosixPath(file.cached_name)
    if cached.is_file() and sha256(cached.read_bytes()).hexdigest() == file.content:
        return cached
    return _fetch(file, cached)


def content(file: DataFile) -> bytes:
    """The decompressed content of `file`; see `locate`."""
    return read_bytes(locate(file))


def _fetch(file: DataFile, cached: Path) -> Path:
    if file.origin is None:
        raise DataError(
            f"{file.path} has no direct download; {file.by_hand} "
            f"Set GPUPROP_DATA to a folder that holds {file.path} (SHA-256 {file.stored})."
        )
    downloads = cache_directory() / "downloads"
    try:
        downloads.mkdir(parents=True, exist_ok=True)
        cached.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise DataError(
            f"the cache cannot be written: {error.strerror}; set GPUPROP_CACHE to a folder", cached
        ) from error
    found = file.origin.read(downloads)
    try:
        remedy = "The publisher's file has changed; set GPUPROP_DATA to a folder with the pinned one."
        _check(found, file.content, file.path, remedy)
    except DataError:
        file.origin.forget(downloads)
        raise
    _write(found, cached)
    return cached


def _check(found: bytes, expected: str, path: str | Path, remedy: str) -> None:
    actual = sha256(found).hexdigest()
    if actual != expected:
        hashes = f"  expected SHA-256 {expected}\n  found SHA-256    {actual}"
        raise DataError(f"not the pinned version of this file\n{hashes}\n{remedy}", path)


def _write(found: bytes, path: Path) -> None:
    """Atomic: two programs may fetch the same file at once."""
    handle, temporary = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    try:
        with os.fdopen(handle, "wb") as out:
            out.write(found)
        os.replace(temporary, path)
    except BaseException as error:
        Path(temporary).unlink(missing_ok=True)
        if isinstance(error, OSError):
            reason = f"cannot be written: {error.strerror}; set GPUPROP_CACHE to a folder"
            raise DataError(reason, path) from error
        raise
