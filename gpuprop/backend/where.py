"""Where an error came from, in the user's terms: the operation, and the line of the program."""

from __future__ import annotations

import linecache
import sys
from pathlib import Path

PACKAGE = Path(__file__).resolve().parents[1]


def place_of(error: BaseException) -> str:
    """ "MyOp.backward (my_model.py, line 12: `if mask.any():`)": the innermost operation, or else function
    outside gpuprop's backend, that the error, or what caused it, went through."""
    import traceback  # here, since it takes long to import

    while error.__cause__ is not None:
        error = error.__cause__
    frames = [(f.f_code, line) for f, line in traceback.walk_tb(error.__traceback__)]
    ours = [(code, line) for code, line in frames if _counts(Path(code.co_filename))]
    if not ours:
        return "an unknown place"
    operations = [
        (code, line) for code, line in ours if code.co_qualname.rpartition(".")[2] in ("forward", "backward")
    ]
    code, _ = (operations or ours)[-1]
    last, number = ours[-1]
    text = linecache.getline(last.co_filename, number).strip()
    return f"{code.co_qualname} ({Path(last.co_filename).name}, line {number}: `{text}`)"


def _counts(path: Path) -> bool:
    """Whether a file is the user's program or an operation: not an installed package, nor the backend."""
    if PACKAGE in path.parents:
        return path.relative_to(PACKAGE).parts[0] not in ("backend", "capture.py", "op.py", "backprop.py")
    cupy = getattr(sys.modules.get("cupy"), "__file__", None)
    if cupy is not None and Path(cupy).parent in path.parents:
        return False
    if path.suffix in (".pyx", ".pxi"):  # CuPy's compiled modules give relative names: cupy/cuda/memory.pyx
        return False
    return "site-packages" not in path.parts and path.name != "contextlib.py"
