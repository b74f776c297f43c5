"""What the real CuPy offers, as record_cupy.py found it, so that the stand-ins offer and take no more."""

from __future__ import annotations

import functools
import inspect
import json
from pathlib import Path
from typing import Any

FILE = Path(__file__).with_name("cupy_signatures.json")
RECORDED = json.loads(FILE.read_text(encoding="utf-8"))
SIGNATURES: dict[str, str | int | None] = RECORDED["signatures"]
HINT = f"CuPy {RECORDED['cupy']} has none; if a newer one does, run tests/double/record_cupy.py there"


@functools.cache
def signature(name: str) -> inspect.Signature | None:
    """Of "sum", "ndarray.sum", "cuda.Stream.record", without self; None where CuPy does not tell.
    AttributeError where it has no such name."""
    if name not in SIGNATURES:
        raise AttributeError(f"cupy.{name}: {HINT}")
    text = SIGNATURES[name]
    return inspect.signature(eval(f"lambda {text}: 0")) if isinstance(text, str) else None


def check(name: str, args: Any, keywords: Any) -> None:
    """TypeError where the real function takes no such arguments."""
    known = signature(name)
    if known is not None:
        try:
            known.bind(*args, **dict.fromkeys(keywords))
        except TypeError as error:
            raise TypeError(f"cupy.{name}{known}: {error}") from None
