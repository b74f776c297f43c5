"""A plugin for pytest: tests for a GPU run on CuPy without one, and only what is no matter of values counts.

No kernel and no product computes anything, so results are whatever memory holds. Comparisons and what refuses
strange values are off (asserts by `python -O -m pytest --assert=plain`), and a test that fails for its values
tells nothing. What counts is what a GPU would refuse, too: arguments, types and attributes that CuPy has not,
kernels that do not compile or launch, calls that a capture does not allow, memory that runs out. The exit
status is 1 where there is any of it, else 0.
"""

from __future__ import annotations

import importlib
import re
import traceback
from collections import defaultdict
from collections.abc import Iterator
from typing import Any

import cupy
import fake_cublas
import numpy as np
import pytest

from gpuprop.backend import cublas
from gpuprop.errors import CaptureError, DeviceError, KernelError

COUNTS = (
    TypeError,
    AttributeError,
    NameError,
    KeyError,
    ImportError,
    NotImplementedError,
    MemoryError,
    CaptureError,
    DeviceError,
    KernelError,
)
PRODUCTS = ("cublasGemmEx_64", "cublasGemmStridedBatchedEx_64", "cublasLtMatmul")
ON_HOST = ("partition", "unique")  # Thrust, which CuPy links with a runtime of its own, finds no device
COMPARISONS = (
    "assert_allclose",
    "assert_array_equal",
    "assert_equal",
    "assert_array_less",
    "assert_almost_equal",
)
SENSIBLE = 4 << 30  # bytes; an array of more has its size from a value on the device
# What looks at values and stops: a module, and what it is called there.
REFUSALS = (
    ("gpuprop.ops.softmax_cross_entropy", "refuse"),
    ("gpuprop.ops.linear_cross_entropy", "refuse"),
    ("gpuprop.ops.embedding", "check_ids"),
    ("gpuprop.training.guard", "Guard._stop"),
    ("gpuprop.training.divergence", "Divergence.judge"),
)

found: dict[tuple[str, str], list[str]] = defaultdict(list)
outcomes: dict[str, int] = defaultdict(int)


class Products:
    """The stand-in of cuBLAS, but its products are nothing."""

    def __init__(self) -> None:
        self.library = fake_cublas.build()
        for name in PRODUCTS:
            setattr(self, name, lambda *args: 0)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.library, name)


def on_host(name: str) -> Any:
    """CuPy's function, and where it has sorted nothing NumPy's."""
    real = getattr(cupy, name)

    def function(*args: Any, **options: Any) -> Any:
        try:
            return real(*args, **options)
        except RuntimeError as error:
            if "cudaErrorInvalidDevice" not in str(error):
                raise
        results = getattr(np, name)(*map(cupy.asnumpy, args), **options)
        return tuple(map(cupy.asarray, results)) if isinstance(results, tuple) else cupy.asarray(results)

    return function


def pytest_configure() -> None:
    np.seterr(all="ignore")
    for name in ON_HOST:
        setattr(cupy, name, on_host(name))
    products = Products()
    cublas._load = lambda name: products  # type: ignore[assignment]
    for name in COMPARISONS:
        setattr(np.testing, name, lambda *args, **options: None)
    for module, name in REFUSALS:
        owner, _, last = name.rpartition(".")
        holder = importlib.import_module(module)
        setattr(getattr(holder, owner) if owner else holder, last, lambda *args, **options: None)


def causes(error: BaseException) -> Iterator[BaseException]:
    """The errors at the root of one: hypothesis gives several, and most have a cause."""
    if isinstance(error, BaseExceptionGroup):
        for part in error.exceptions:
            yield from causes(part)
    elif error.__cause__ is not None:
        yield from causes(error.__cause__)
    else:
        yield error


def counts(error: BaseException) -> bool:
    asked = re.search(r"Out of memory allocating ([\d,]+) bytes", str(error))
    if asked and int(asked[1].replace(",", "")) > SENSIBLE:
        return False
    of_cupy = type(error).__module__.partition(".")[0] in ("cupy", "cupy_backends")
    return of_cupy or isinstance(error, COUNTS) or "is capturing" in str(error)


def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]) -> None:
    if call.excinfo is None:
        outcomes["ran"] += call.when == "call"
        return
    if isinstance(call.excinfo.value, pytest.skip.Exception):
        outcomes["skipped"] += 1
        return
    errors = [error for error in causes(call.excinfo.value) if counts(error)]
    outcomes["stopped by a value" if not errors else "refused"] += 1
    for error in errors:
        lines = traceback.extract_tb(error.__traceback__)
        ours = [f for f in lines if "/gpuprop/" in f.filename or "/tests/" in f.filename][-2:]
        place = "".join(f"\n    {f.filename}:{f.lineno}: {f.line}" for f in reversed(ours))
        found[f"{type(error).__name__}: {str(error)[:300]}", place].append(item.nodeid)


def pytest_terminal_summary(terminalreporter: Any) -> None:
    terminalreporter.section("what a GPU would refuse, too")
    for (text, place), tests in sorted(found.items(), key=lambda each: -len(each[1])):
        terminalreporter.write_line(f"{len(tests)} x {text}{place}\n    in {tests[0]}")
    terminalreporter.write_line(", ".join(f"{count} {name}" for name, count in outcomes.items()))
    terminalreporter.write_line(f"{len(found)} kinds of failures that count")


@pytest.hookimpl(trylast=True)
def pytest_sessionfinish(session: pytest.Session) -> None:
    if session.exitstatus in (pytest.ExitCode.OK, pytest.ExitCode.TESTS_FAILED):
        session.exitstatus = pytest.ExitCode.TESTS_FAILED if found else pytest.ExitCode.OK
