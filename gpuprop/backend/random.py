"""Random numbers that are the same bits on every device.

Everything is drawn from Philox4x64-10 (Salmon et al. 2011, Parallel random numbers: as easy as 1, 2, 3), the
generator of `numpy.random.Philox`: a pure function from a key and a counter to 256 random bits, so that any
part of a stream can be computed anywhere, by any thread, in any order.

    key      (seed, stream)                    stream: one a layer, one a weight, one for shuffles
    counter  (block, call, step, 0)            block: 16 elements; call: use of the layer within a step

Initial weights and shuffles are drawn on the host and copied. Dropout masks are made where the data is.
"""

from __future__ import annotations

import contextlib
import threading
from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from .arrays import Array, device_of, get_xp
from .device import Device
from .recording import again, recording

SHUFFLE_STREAM = 1 << 32  # streams below are handed out one by one to weights and layers
SAMPLE_STREAM = SHUFFLE_STREAM + 3  # +1 and +2: held-out rows and unknown word vectors
LANES = 16  # 16-bit random numbers in one Philox block of 256 bits


class RandomState:
    """The seed, the number of optimizer steps taken, and what was used of each stream within this step."""

    def __init__(self, seed: int = 0) -> None:
        self.seed = seed
        self.step = 0
        self.row_offset = 0
        self.next_stream = 0
        self.calls: Counter[int] = Counter()
        self.known: dict[Device, tuple[int, Array]] = {}  # the step in device memory

    def state_dict(self) -> dict[str, Any]:
        """JSON values that `load_state_dict` needs to go on with the same numbers."""
        calls = {str(stream): n for stream, n in self.calls.items()}
        return {"seed": self.seed, "step": self.step, "next_stream": self.next_stream, "calls": calls}

    def load_state_dict(self, saved: Mapping[str, Any]) -> None:
        """Go on where `state_dict` was taken."""
        self.__init__(int(saved["seed"]))  # type: ignore[misc]
        self.step, self.next_stream = int(saved["step"]), int(saved["next_stream"])
        self.calls.update({int(stream): int(n) for stream, n in saved["calls"].items()})


state = RandomState()


def manual_seed(seed: int) -> None:
    """Start every random stream anew from `seed` (0 <= seed < 2^64). Call it before the model is built."""
    if isinstance(seed, bool) or not isinstance(seed, (int, np.integer)) or not 0 <= seed < 1 << 64:
        raise ValueError(f"a seed is an integer from 0 to 2^64 - 1, not {seed!r}")
    state.__init__(int(seed))  # type: ignore[misc]


def new_stream() -> int:
    """A stream for one weight or layer, in the order in which they are made."""
    state.next_stream += 1
    return state.next_stream - 1


def advance_step() -> None:
    """Tell that an optimizer step was taken: dropout draws new masks. Optimizers call it."""
    state.step += 1
    state.calls.clear()
    again(advance_step)


def step_beside(x: Array) -> Array:
    """The number of the step, uint64 (1,) in the memory of x's device: what kernels read."""
    now = recording()
    if now is not None:
        return now.number("the number of the step", lambda: state.step, np.uint64)
    device = device_of(x)
    known = state.known.get(device)
    if known is None or known[0] != state.step:  # a new array: backward may still read the old one
        known = state.known[device] = (state.step, get_xp(x).full(1, state.step, np.uint64))
    return known[1]


@contextlib.contextmanager
def rows_from(offset: int) -> Iterator[None]:
    """Inside, a batch's first row counts as row `offset` of the whole batch: parts of a split batch then
    draw the dropout masks of the whole (of one padded length)."""
    before = state.row_offset
    state.row_offset = offset
    state.calls.clear()
    try:
        yield
    finally:
        state.row_offset = before


def host_generator(stream: int | None = None) -> np.random.Generator:
    """A NumPy generator over one stream (default: a new one) of the current seed."""
    stream = new_stream() if stream is None else stream
    return np.random.Generator(np.random.Philox(key=_words(state.seed, stream)))


def next_call(stream: int) -> int:
    """How often this stream was used in this step before, counting this use."""
    state.calls[stream] += 1
    return state.calls[stream] - 1


def _words(*values: int) -> np.ndarray[Any, np.dtype[np.uint64]]:
    return np.array(values, dtype=np.uint64)


def keep_threshold(p: float) -> int:
    """A 16-bit random number below this keeps its element: (1 - p) to within 2^-17."""
    return round((1.0 - p) * 65536)


_local = threading.local()  # one generator a thread: to set its state takes an eighth of what a new one takes


def _philox(key: np.ndarray[Any, Any], counter: np.ndarray[Any, Any]) -> np.random.Philox:
    """This thread's generator at the start of the block after `counter`."""
    if not hasattr(_local, "philox"):
        _local.philox = np.random.Philox(0)
        _local.state = _local.philox.state | {"buffer_pos": 4}  # nothing is left of the block before
    _local.state["state"] = {"key": key, "counter": counter}
    _local.philox.state = _local.state
    philox: np.random.Philox = _local.philox
    return philox


def bits16(n: int, first: int, stream: int, call: int, step: int, seed: int) -> np.ndarray[Any, Any]:
    """Elements first .. first + n of a stream's 16-bit random numbers, as uint16 (n,).

    numpy.random.Philox adds one to its counter before each block; a kernel computes block b from b + 1.
    """
    block, skip = divmod(first, LANES)
    generator = _philox(_words(seed, stream), _words(block, call, step, 0))
    words = -(-(skip + n) // 4)
    raw = generator.random_raw(words)
    return raw.astype("<u8", copy=False).view("<u2")[skip : skip + n]
