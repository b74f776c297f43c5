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

from . import ops
from .backend import emulator, kernels
from .backend.device import get_device, use_device
from .backend.instantiations import C_TYPES
from .backend.signatures import parse_kernels
from .errors import DataError, KernelError
from .ops.dropout import Dropout
from .ops.scaled_dot_product_attention import Attention
from .optim import AdamW
from .tensors import Parameter, tensor

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


Results = list[Any]


def adam(dtype: Any) -> Results:
    """Parameters and moments after a clipped step; the middle parameter has no gradient. Of half types the
    formula is computed from the rounded inputs in float32: NumPy would round after each operation."""
    kept = np.float32 if get_device().type == "cpu" and np.dtype(dtype).itemsize == 2 else dtype
    rng = np.random.default_rng(0)
    params = [Parameter(rng.standard_normal(n).astype(dtype).astype(kept)) for n in (5, 6, 1500)]
    optimizer = AdamW(params, lr=0.1, betas=(0.5, 0.6))
    for moment in optimizer.state[0].values():
        moment[...] = rng.uniform(1, 2, moment.size).astype(dtype)
    for p in (params[0], params[2]):
        p.grad = rng.standard_normal(p.shape).astype(dtype).astype(kept)
    optimizer.steps = 3
    optimizer.clip_grad_norm(30.0)
    optimizer.step()
    return [optimizer.arenas[0].data, *optimizer.state[0].values()]


def attention(dtype: Any) -> Results:
    """Context and gradients: short texts with padding, and long ones, causal, with dropout."""
    results: Results = []
    for queries, keys, p in ((20, 31, 0.0), (70, 67, 0.25)):
        rng = np.random.default_rng(0)
        shapes = ((2, 2, queries, 20), (2, 2, keys, 20), (2, 2, keys, 5))
        inputs = [tensor(rng.standard_normal(s).astype(dtype), requires_grad=True) for s in shapes]
        place = None if p == 0 else (p, 5, 9, 2, 0, 3)
        mask = np.arange(keys) < np.array([keys, keys // 2])[:, None, None, None]
        y = Attention.apply(*inputs, mask=mask, causal=p > 0, scale=0.2, place=place)
        y.backward(rng.standard_normal(y.shape).astype(dtype))
        results += [y.data, *(x.grad for x in inputs)]
    return results


def conv1d(dtype: Any) -> Results:
    """Output and gradients, of one group and of narrow ones."""
    results: Results = []
    for groups in (1, 4):
        rng = np.random.default_rng(0)
        x = tensor(rng.standard_normal((2, 35, 8)).astype(dtype), requires_grad=True)
        weight = Parameter(rng.standard_normal((68, 3, 8 // groups)).astype(dtype))
        bias = Parameter(rng.standard_normal(68).astype(dtype))
        y = ops.conv1d(x, weight, bias, padding="same", dilation=2, groups=groups)
        y.backward(rng.standard_normal(y.shape).astype(dtype))
        results += [y.data, x.grad, weight.grad, bias.grad]
    return results


def softmax_cross_entropy(dtype: Any) -> Results:
    """Loss and gradient, of few classes and of many."""
    results: Results = []
    for classes, label in ((40, np.int64), (1100, np.int32)):
        rng = np.random.default_rng(0)
        logits = tensor(rng.standard_normal((9, classes)).astype(dtype), requires_grad=True)
        targets = rng.integers(0, classes, 9).astype(label)
        targets[3] = -100
        loss = ops.softmax_cross_entropy(
            logits, targets, weight=rng.uniform(0.5, 2, classes), label_smoothing=0.1
        )
        loss.backward()
        results += [loss.data, logits.grad]
    return results


def dropout(dtype: Any) -> Results:
    """Output and gradient: the bits of the formula; of all elements, and of packed rows."""
    results = []
    for rows in (None, np.array([0, 1, 2, 5, 6, 9, 11])):
        x = tensor(np.random.default_rng(0).standard_normal((7, 300)).astype(dtype), requires_grad=True)
        y = Dropout.apply(x, p=0.3, first=5, stream=9, call=2, rows=rows)
        y.backward(np.ones(y.shape, dtype))
        results += [y.data, x.grad]
    return results


def embedding(dtype: Any) -> Results:
    """The gradient of a table whose rows are asked for several times."""
    rng = np.random.default_rng(0)
    ids = np.sort(rng.integers(0, 20, 60))
    values, table = rng.standard_normal((60, 45)).astype(dtype), np.zeros((20, 45), dtype)
    if kernels.usable(table):
        kernel = kernels.project("embedding", f"add_sorted_rows<{kernels.c_type(table.dtype)}>")
        kernel(60, 64, (ids, np.arange(60), values, table, 60, 45))
    else:
        wide = table.astype(np.float64)
        np.add.at(wide, ids, values.astype(np.float64))
        table = wide.astype(dtype)
    return [table]


def layer_norm(dtype: Any) -> Results:
    """Output and gradients: rows that a warp holds, and others."""
    results: Results = []
    for width in (37, 136):
        rng = np.random.default_rng(0)
        leaves = [
            tensor(rng.standard_normal(s).astype(dtype), requires_grad=True)
            for s in ((35, width), width, width)
        ]
        y = ops.layer_norm(leaves[0], leaves[1], leaves[2])
        y.backward(rng.standard_normal(y.shape).astype(dtype))
        results += [y.data, *(leaf.grad for leaf in leaves)]
    return results


OURS: dict[str, Callable[[Any], Results]] = {
    "adam.cu": adam,
    "attention.cu": attention,
    "conv1d.cu": conv1d,
    "dropout.cu": dropout,
    "embedding.cu": embedding,
    "layer_norm.cu": layer_norm,
    "softmax_cross_entropy.cu": softmax_cross_entropy,
}


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
    namespace = runpy.run_path(str(driver))
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
                    _run(check, function, module)
    return checks


def _run(check: Check, function: Callable[[Any], Any], module: kernels.Module) -> None:
    try:
        function(module)
    except KernelError as error:
        check.fail(str(error))
    except Exception as error:
        place = traceback.extract_tb(error.__traceback__)[-1]
        check.fail(f"{place.filename}:{place.lineno}: {type(error).__name__}: {error}".rstrip(": "))


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
