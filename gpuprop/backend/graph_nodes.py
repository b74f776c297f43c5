"""How many nodes a captured CUDA graph has: its launches, copies and fills."""

from __future__ import annotations

import ctypes
from typing import Any

from .cuda_setup import DRIVER_LIBRARY


def count(graph: Any) -> int | None:
    """Of a `cupy.cuda.Graph`, by the driver's cuGraphGetNodes; None where the driver does not say."""
    try:
        library = ctypes.CDLL(DRIVER_LIBRARY)
        found = ctypes.c_size_t(0)
        failed = library.cuGraphGetNodes(ctypes.c_void_p(int(graph.graph)), None, ctypes.byref(found))
    except (OSError, AttributeError):
        return None
    return None if failed else found.value
