"""What `gpuprop kernels check` runs: our kernels against their formulas, or a user's driver."""

from __future__ import annotations

import inspect
import runpy
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from ..backend import emulator, kernels
from ..backend.device import use_device
from ..backend.instantiations import C_TYPES
from ..backend.signatures import parse_kernels
from ..errors import DataError, KernelError
from .kernel_cases import OURS

# Of the largest value: a few roundings of the type that is stored.
TOLERANCE = {"float64": 1e-12, "float32": 4e-6, "float16": 2e-3, "bfloat16": 1.6e-2}


@dataclass
class Check:
    """One run under the checker. findings: what was wrong; error: against the formula, where there is one."""

    file: str
    name: str
    order: str
    ok: bool = True
    error: float | None = None
    findings: list[str] = field(default_factory=list)

    def fail(self, finding: str) -> None:
        self.ok = False
        self.findings.append(finding)


def check_ours(orders: Sequence[str], seed: int, time_limit: float) -> list[Check]:
    """Each of our kernel files in each type and order, compared with the formula in NumPy."""
    checks = []
    for file, case in OURS.items():
        for name in C_TYPES:
            dtype = _dtype(name)
            if dtype is None:
                continue
            with use_device("cpu"):
                wanted = case(dtype)
            for order in orders:
                check = Check(file, name, order)
                checks.append(check)
                with (
                    use_device("emulated"),
                    emulator.options(mode="check", order=order, seed=seed, time_limit=time_limit),
                ):
                    try:
                        got = case(dtype)
                    except KernelError as error:
                        check.fail(str(error))
                        continue
                check.error = max(_error(a, b) for a, b in zip(got, wanted, strict=True))
                if not check.error <= TOLERANCE[name]:
                    check.fail(
                        f"differs from the formula by {check.error:.1e}, {TOLERANCE[name]:.1e} is allowed"
                    )
    return checks


def check_theirs(
    file: Path, driver: Path, orders: Sequence[str], seed: int, time_limit: float
) -> list[Check]:
    """Each "check" function of the driver, in each order, on the kernels of `file`."""
    if not driver.is_file():
        raise DataError("there is no such driver", driver)
    namespace = _read_driver(driver)
    functions = {
        name: f for name, f in namespace.items() if name.startswith("check") and inspect.isfunction(f)
    }
    if not functions:
        raise DataError('the driver has no function whose name begins with "check"', driver)
    names, options = namespace.get("NAMES", ()), namespace.get("OPTIONS", ())
    checks = []
    with use_device("emulated"):
        declared = [name for name in names if "<" in name]
        with emulator.options(mode="check"):
            module = kernels.load(
                file, names=[*_plain(file), *declared] if declared else names, options=options
            )
        for name, function in functions.items():
            for order in orders:
                check = Check(str(file), name, order)
                checks.append(check)
                with emulator.options(mode="check", order=order, seed=seed, time_limit=time_limit):
                    _run(check, function, module, driver)
    return checks


def _read_driver(driver: Path) -> dict[str, Any]:
    """What the driver defines. Raises DataError with the line where it fails."""
    try:
        return runpy.run_path(str(driver))
    except SyntaxError as error:
        raise DataError(f"SyntaxError: {error.msg}", driver, error.lineno) from error
    except Exception as error:
        raise DataError(f"{type(error).__name__}: {error}", driver, _line(error, driver)) from error


def _line(error: BaseException, driver: Path) -> int | None:
    """The driver's line that led to the error."""
    places = traceback.extract_tb(error.__traceback__)
    return next((place.lineno for place in reversed(places) if place.filename == str(driver)), None)


def _run(check: Check, function: Callable[[Any], Any], module: kernels.Module, driver: Path) -> None:
    try:
        function(module)
    except KernelError as error:
        check.fail(str(error))
    except Exception as error:
        check.fail(f"{driver}:{_line(error, driver)}: {type(error).__name__}: {error}".rstrip(": "))


def _plain(file: Path) -> list[str]:
    try:
        declared = parse_kernels(file.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"cannot be read: {error}", file) from error
    return [kernel.name for kernel in declared.values() if not kernel.template]


def _dtype(name: str) -> Any:
    """The NumPy type; None for bfloat16 where ml_dtypes is not installed."""
    try:
        return np.dtype(name)
    except TypeError:
        try:
            import ml_dtypes
        except ImportError:
            return None
        return np.dtype(getattr(ml_dtypes, name))


def _error(got: Any, wanted: Any) -> float:
    """The largest difference, of the largest value (but at least 1)."""
    got, wanted = np.asarray(got, np.float64), np.asarray(wanted, np.float64)
    return float(np.abs(got - wanted).max() / max(1.0, np.abs(wanted).max()))
