"""Strict reading of a user's text files.

UTF-8, with or without a byte-order mark; lines end with `\\n` or `\\r\\n` and with nothing else (not at
U+0085 or U+2028, which occur inside texts). `.gz` and `.xz` files are read as they are. The first fault is
raised as a `DataError` with the file, the line and the remedy.
"""

from __future__ import annotations

import errno
import gzip
import lzma
import os
import stat
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, cast

from gpuprop.errors import DataError

_UTF16 = (b"\xff\xfe", b"\xfe\xff")


def open_binary(path: str | Path) -> BinaryIO:
    """Opens a file for reading bytes, through gzip or xz where its name ends so."""
    path = Path(path)
    if path.is_dir():
        raise DataError("is a directory; name the file", path)
    try:
        if path.suffix == ".gz":
            return cast(BinaryIO, gzip.open(path, "rb"))
        if path.suffix == ".xz":
            return cast(BinaryIO, lzma.open(path, "rb"))
        return path.open("rb")
    except FileNotFoundError as error:
        raise DataError("no such file; check the name", path) from error
    except OSError as error:
        raise DataError(f"cannot be opened: {error.strerror or error}", path) from error


def open_regular(path: str | Path) -> BinaryIO:
    """Opens a file for reading bytes. Raises OSError for a folder, and for a pipe or a device, whose end may
    never come."""
    if not stat.S_ISREG(os.stat(path).st_mode):
        raise OSError(errno.EINVAL, "it is a folder, a pipe or a device, not a file", str(path))
    return open(path, "rb")


def read_bytes(path: str | Path) -> bytes:
    """The content of a file, decompressed where its name ends with `.gz` or `.xz`."""
    with open_binary(path) as file:
        try:
            return file.read()
        except (OSError, EOFError, lzma.LZMAError, zlib.error) as error:
            raise DataError(
                f"cannot be read, the file may be damaged or cut off: {error}; copy it again", path
            ) from error


def decode_lines(content: bytes, path: str | Path) -> list[str]:
    """The lines of a UTF-8 text, without their ends. `path` is for the error message."""
    if content.startswith(_UTF16):
        raise DataError("is UTF-16, not UTF-8; convert it: iconv -f UTF-16 -t UTF-8", path, 1)
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        # utf-8-sig counts from behind the mark; count from the start of the file instead.
        start = error.start + (len(content) - len(error.object))
        line = content.count(b"\n", 0, start) + 1
        column = start - (content.rfind(b"\n", 0, start) + 1) + 1
        raise DataError(
            f"is not UTF-8: byte 0x{content[start]:02x} at position {column} of the line; convert the file, "
            "for example: iconv -f WINDOWS-1252 -t UTF-8",
            path,
            line,
        ) from error
    lines = text.split("\n")
    if lines[-1] == "":
        lines.pop()
    return [line[:-1] if line.endswith("\r") else line for line in lines]


def read_lines(path: str | Path) -> list[str]:
    """All lines of a text file, empty ones included. Raises `DataError` for an empty file."""
    lines = decode_lines(read_bytes(path), path)
    if not lines:
        raise DataError("the file is empty; name another file, or fill it with one row a line", path)
    return lines


def read_labelled(path: str | Path) -> tuple[list[str], list[str]]:
    """Reads `label<TAB>text` lines; returns (labels, texts), row i from line i + 1."""
    labels, texts = [], []
    for label, text in _columns(path, "label", "text"):
        labels.append(label.strip())
        texts.append(text)
    return labels, texts


def read_pairs(path: str | Path) -> tuple[list[str], list[str]]:
    """Reads `source<TAB>target` lines; returns (sources, targets), row i from line i + 1."""
    sources, targets = [], []
    for source, target in _columns(path, "source", "target"):
        sources.append(source)
        targets.append(target)
    return sources, targets


def _columns(path: str | Path, first: str, second: str) -> Iterator[tuple[str, str]]:
    form = f"each line is {first}<TAB>{second}"
    for number, line in enumerate(read_lines(path), start=1):
        columns = line.split("\t")
        if len(columns) == 1:
            what = "an empty line; remove it" if not line.strip() else "no tab"
            raise DataError(f"{what}; {form}", path, number)
        if len(columns) > 2:
            raise DataError(
                f"{len(columns)} columns, expected 2; {form}, and neither may hold a tab", path, number
            )
        for name, value in zip((first, second), columns, strict=True):
            if not value.strip():
                raise DataError(f"the {name} is empty; fill it in or remove the line", path, number)
        yield columns[0], columns[1]
