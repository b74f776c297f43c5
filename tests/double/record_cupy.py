"""Writes cupy_signatures.json: what the installed CuPy offers of what gpuprop may use. It needs no GPU.

pip install cupy-cuda13x nvidia-nccl-cu13 && python tests/double/record_cupy.py
"""

from __future__ import annotations

import importlib
import inspect
import json
import re
import types
from pathlib import Path
from typing import Any

FILE = Path(__file__).with_name("cupy_signatures.json")
# Modules and classes whose public names are recorded.
PLACES = (
    "", "ndarray", "RawModule", "RawKernel", "lib", "lib.stride_tricks", "cuda", "cuda.Device", "cuda.Event",
    "cuda.Graph", "cuda.MemoryPool", "cuda.Stream", "cuda.compiler", "cuda.driver", "cuda.memory",
    "cuda.nccl", "cuda.nccl.NcclCommunicator", "cuda.nvrtc", "cuda.runtime",
)  # fmt: skip
UFUNC = "*args, out=0, dtype=0, casting=0"


def collect(cupy: Any) -> dict[str, str | int | None]:
    """The parameters of each public function and method, without self, as `lambda` would take them; None for
    what is no function, or does not tell. A default stands as 0. Of NCCL also the numbers."""
    importlib.import_module("cupy.cuda.nccl")
    found: dict[str, str | int | None] = dict.fromkeys(PLACES[1:])
    for place in PLACES:
        of = cupy
        for part in filter(None, place.split(".")):
            of = getattr(of, part)
        for name in dir(of):
            thing, full = getattr(of, name), f"{place}.{name}".lstrip(".")
            if name.startswith("NCCL_"):
                found[full] = int(thing)
            elif not name.startswith("_") and not _is_constant(thing) and _belongs(thing, full):
                found[full] = parameters(cupy, thing)
    return dict(sorted(found.items()))


def attributes(cupy: Any) -> list[str]:
    """The names of `cupy.cuda.Device.attributes`, as CuPy finds them."""
    known = (name for name in vars(cupy.cuda.runtime) if name.startswith("cudaDevAttr"))
    return sorted(name.removeprefix("cudaDevAttr") for name in known)


def parameters(cupy: Any, thing: Any) -> str | None:
    """See `collect`."""
    if isinstance(thing, cupy.ufunc):
        return UFUNC
    text = _of_python(thing)
    text = _of_cython(thing) if text is None else text
    if text is None:
        return None
    try:
        compile(f"lambda {text}: 0", "", "eval")
    except SyntaxError:
        return None
    return text


def _is_constant(thing: Any) -> bool:
    return isinstance(thing, (int, float, str, tuple, dict, type(None)))


def _belongs(thing: Any, name: str) -> bool:
    """Whether it is nothing that a module merely uses: a module, or a future."""
    return name in PLACES or not (isinstance(thing, types.ModuleType) or name.endswith("annotations"))


def _of_python(thing: Any) -> str | None:
    if not callable(thing):
        return None
    try:
        found = inspect.signature(thing)
    except (TypeError, ValueError):
        return None
    several = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    known = list(found.parameters.values())
    if isinstance(thing, type) and [p.kind for p in known] == list(
        several
    ):  # Cython says nothing of __init__
        return None
    known = known[1:] if known and known[0].name == "self" else known
    plain = [p.replace(annotation=p.empty, default=p.empty if p.default is p.empty else 0) for p in known]
    return str(inspect.Signature(plain))[1:-1]


def _of_cython(thing: Any) -> str | None:
    """From the first line of the text that Cython writes: "MemoryPool.malloc(self, size_t size) -> ..."."""
    first = (getattr(thing, "__doc__", None) or "").partition("\n")[0]
    match = re.fullmatch(r"[\w.]+\((.*?)\)( *->.*)?", first)
    if match is None:
        return None
    parts = [part.strip() for part in re.split(r",(?![^(\[]*[)\]])", match[1]) if part.strip()]
    named = [_name(part) for part in parts if part.split()[-1] != "self"]
    return ", ".join(named)


def _name(part: str) -> str:
    """ "size_t size=5" -> "size=0"."""
    left, equals, _ = part.partition("=")
    word = left.split()[-1]
    return f"{word}=0" if equals else word


if __name__ == "__main__":
    cupy = importlib.import_module("cupy")
    lines = {"cupy": cupy.__version__, "attributes": attributes(cupy), "signatures": collect(cupy)}
    FILE.write_text(json.dumps(lines, indent=0, ensure_ascii=False) + "\n", encoding="utf-8")
