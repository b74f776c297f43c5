"""What users' tests need too: a gradient check and a pytest fixture over the devices there are.

In a `conftest.py`:    from gpuprop.testing import device  # noqa: F401
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np

from .backend.arrays import get_xp, to_host
from .backend.device import available_devices, resolve, use_device
from .backprop import no_grad
from .errors import DeviceError
from .tensors import Tensor, tensor

DEVICES = ("cpu", "emulated", "cuda")


class GradcheckError(AssertionError):
    """A gradient of backward differs from finite differences."""


def gradcheck(
    fn: Callable[..., Any],
    inputs: Sequence[Any] | np.ndarray[Any, Any] | Tensor,
    *,
    eps: float = 1e-6,
    rtol: float = 1e-6,
    seed: int = 0,
) -> float:
    """Compare the gradients of `fn` with central differences in float64.

    fn(*inputs) returns a tensor (or several, in a tuple). inputs: tensors or parameters (used as they are,
    in float64), or float arrays (made into float64 tensors); one alone needs no list. A random linear
    functional of the outputs is differentiated, so one check covers them all.

    Returns the worst error, max |analytic - numeric| / max(1, max |numeric|) over each input; raises
    GradcheckError when it exceeds rtol, with the input, the place and both values.
    """
    if isinstance(inputs, (np.ndarray, Tensor)):
        inputs = [inputs]
    leaves = [_as_leaf(x) for x in inputs]
    rng = np.random.default_rng(seed)
    weights: list[Any] = []

    def functional() -> Tensor:
        outputs = fn(*leaves)
        outputs = outputs if isinstance(outputs, tuple) else (outputs,)
        if not weights:
            weights.extend(get_xp(y.data).asarray(rng.standard_normal(y.shape)) for y in outputs)
        total = (outputs[0] * weights[0]).sum()
        for y, w in zip(outputs[1:], weights[1:], strict=True):
            total = total + (y * w).sum()
        return total

    for leaf in leaves:
        if leaf.requires_grad:
            leaf.grad = None
    functional().backward()
    worst = 0.0
    for number, leaf in enumerate(leaves):
        if leaf.requires_grad:
            analytic = np.zeros(leaf.shape) if leaf.grad is None else to_host(leaf.grad)
            worst = max(worst, _compare(functional, leaf, analytic, number, eps, rtol))
    return worst


def _as_leaf(x: Any) -> Tensor:
    if isinstance(x, Tensor):
        if x.requires_grad and x.dtype != np.float64:
            raise TypeError(
                f"gradcheck needs float64 inputs, not {x.dtype}: differences of float32 are too coarse"
            )
        return x
    return tensor(np.asarray(x, dtype=np.float64), requires_grad=True)


def _compare(
    functional: Callable[[], Tensor], leaf: Tensor, analytic: Any, number: int, eps: float, rtol: float
) -> float:
    numeric = np.zeros(leaf.shape)
    with no_grad():
        for index in np.ndindex(leaf.shape):
            value = float(leaf.data[index])
            leaf.data[index] = value + eps
            above = functional().item()
            leaf.data[index] = value - eps
            below = functional().item()
            leaf.data[index] = value
            numeric[index] = (above - below) / (2 * eps)
    if numeric.size == 0:
        return 0.0
    scale = max(1.0, float(np.abs(numeric).max()))
    error = np.abs(analytic - numeric) / scale
    worst = float(error.max())
    if not worst <= rtol:
        place = tuple(int(i) for i in np.unravel_index(int(np.argmax(error)), error.shape))
        raise GradcheckError(
            f"input {number} at {place}: backward gives {analytic[place]:.9g}, finite differences "
            f"{numeric[place]:.9g} (relative error {worst:.2g}, allowed {rtol:.2g})"
        )
    return worst


def unavailable(name: str) -> str | None:
    """Why device `name` cannot be used here, or None when it can."""
    try:
        resolve(name)
    except DeviceError as error:
        return str(error)
    return None


try:
    import pytest
except ModuleNotFoundError:  # only the fixture needs it
    pass
else:

    @pytest.fixture(params=[pytest.param(d, marks=pytest.mark.gpu) if d == "cuda" else d for d in DEVICES])
    def device(request: pytest.FixtureRequest) -> Iterator[str]:
        """Runs a test once on each device: "cpu", "emulated" and "cuda"; skipped, with the reason, where one
        cannot be used. The device is current while the test runs."""
        reason = unavailable(request.param)
        if reason is not None:
            pytest.skip(f"{request.param}: {reason.splitlines()[0]}")
        with use_device(request.param):
            yield request.param


__all__ = ["DEVICES", "GradcheckError", "available_devices", "device", "gradcheck", "unavailable"]
