"""Random data for GPU benches: made from one block of random numbers, which is small enough to be drawn and
copied in no time, and repeated on the device."""

from __future__ import annotations

import functools
import importlib
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

import gpuprop as gp

PERIOD = (1 << 22) - 3  # a prime: rows of any usual length differ
PRECISIONS = ("fp32", "tf32", "bf16")
Sizes = Mapping[str, Any]
Store = Callable[[np.ndarray[Any, Any]], np.ndarray[Any, Any]]


@functools.cache
def _block() -> np.ndarray[Any, Any]:
    return np.random.default_rng(0).standard_normal(PERIOD, dtype=np.float32)


@dataclass(frozen=True)
class Normal:
    """Normal numbers of a shape. Each seed has others; scale: their standard deviation."""

    shape: tuple[int, ...]
    seed: int = 0
    scale: float = 1.0

    @property
    def size(self) -> int:
        """How many."""
        return math.prod(self.shape)

    def block(self) -> np.ndarray[Any, Any]:
        """What is repeated, float32, at most `PERIOD` numbers."""
        start, count = self.seed * 104729 % PERIOD, min(self.size, PERIOD)
        found = _block()[start : start + count]
        if len(found) < count:
            found = np.concatenate([found, _block()[: count - len(found)]])
        return found * np.float32(self.scale)

    def on_device(self, store: Store) -> Any:
        """An array on gpuprop's current device, of the type that `store` makes."""
        block = gp.tensor(store(self.block())).data
        return self._repeated(block, gp.get_xp(block).empty(self.size, block.dtype))

    def in_torch(self, torch: Any, device: str, precision: str) -> Any:
        """A tensor of PyTorch's with the same numbers."""
        block = torch_array(torch, self.block(), device, precision)
        return self._repeated(block, torch.empty(self.size, dtype=block.dtype, device=device))

    def _repeated(self, block: Any, whole: Any) -> Any:
        """`whole` in the wanted shape, filled by copies, which need no kernel."""
        for start in range(0, self.size, len(block)):
            part = whole[start : start + len(block)]
            part[...] = block[: len(part)]
        return whole.reshape(self.shape)


def integers(high: int, shape: tuple[int, ...], seed: int, low: int = 0) -> np.ndarray[Any, Any]:
    """Ids low..high - 1, all as often."""
    return np.random.default_rng(seed).integers(low, high, shape)


def words(vocab: int, shape: tuple[int, ...], seed: int) -> np.ndarray[Any, Any]:
    """Ids 3..vocab - 1 with frequencies that fall as 1 / rank (Zipf's law)."""
    total = np.cumsum(1 / (np.arange(vocab - 3) + 2.7))
    drawn = np.random.default_rng(seed).random(shape)
    return np.minimum(np.searchsorted(total / total[-1], drawn), vocab - 4) + 3


def stored(precision: str) -> Store:
    """Makes numbers of the type that this precision keeps them in. Those for TF32 are rounded to its 10 bits,
    so that a first product is as exact as in float32: else maxima and ReLUs of it would choose otherwise."""
    if precision == "fp32":
        return lambda values: values.astype(np.float32)
    if precision == "tf32":
        return _tf32
    half = np.dtype(importlib.import_module("ml_dtypes").bfloat16)  # CuPy needs it for bfloat16, too
    return lambda values: values.astype(half)


def _tf32(values: Any) -> Any:
    """The 11 leading bits of each number (Dekker 1971, section 4)."""
    values = values.astype(np.float32)
    high = values * np.float32(2**13 + 1)
    return high - (high - values)


def exactly(precision: str) -> Store:
    """The same numbers in float64: where an exact computation starts."""
    store = stored(precision)
    return lambda values: store(values).astype(np.float64)


def torch_dtype(torch: Any, precision: str) -> Any:
    """PyTorch's type of the same numbers."""
    return torch.bfloat16 if precision == "bf16" else torch.float32


def torch_array(torch: Any, values: np.ndarray[Any, Any], device: str, precision: str) -> Any:
    """Numbers as this precision keeps them, as a tensor of PyTorch's."""
    rounded = torch.from_numpy(stored(precision)(values).astype(np.float32))
    return rounded.to(device=device, dtype=torch_dtype(torch, precision))
