"""A per-user cache of compiled things, safe for several processes at once.

An entry is a folder that is filled under another name and then renamed: it is whole or absent, and of two
processes that make the same one, the slower throws its own away.
"""

from __future__ import annotations

import functools
import hashlib
import os
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path

HERE = Path(__file__).parent


def folder() -> Path:
    """`emulator` in GPUPROP_CACHE, else in gpuprop of XDG_CACHE_HOME or ~/.cache."""
    named = os.environ.get("GPUPROP_CACHE")
    base = (
        Path(named) if named else Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache", "gpuprop")
    )
    return base / "emulator"


def entry(key: str, fill: Callable[[Path], None]) -> Path:
    """The cache's folder `key`, made by `fill` when it is not there."""
    wanted = folder() / key
    if wanted.is_dir():
        return wanted
    wanted.parent.mkdir(parents=True, exist_ok=True)
    made = Path(tempfile.mkdtemp(prefix=f"{key}.", dir=wanted.parent))
    try:
        fill(made)
        try:
            made.rename(wanted)
        except OSError:  # another process was faster
            if not wanted.is_dir():
                raise
    finally:
        shutil.rmtree(made, ignore_errors=True)
    return wanted


def key(*parts: object) -> str:
    """A name for what is made of `parts`, and of the emulator's own files."""
    return hashlib.sha256(repr((parts, _own_files())).encode()).hexdigest()[:24]


@functools.lru_cache(maxsize=1)
def _own_files() -> str:
    headers = sorted((HERE / "include").rglob("*.h"))
    sources = sorted((HERE / "runtime").glob("*.*"))
    python = [HERE / name for name in ("build.py", "flags.py", "launch_bounds.py", "source.py", "symbols.py")]
    text = "".join(path.read_text(encoding="utf-8") for path in (*headers, *sources, *python))
    return hashlib.sha256(text.encode()).hexdigest()
