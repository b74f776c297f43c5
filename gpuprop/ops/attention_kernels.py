"""Scaled dot-product attention by the kernels of kernels/attention.cu."""

from __future__ import annotations

import math

import numpy as np

from ..backend import kernels, random
from ..backend.arrays import Array, get_xp
from ..backend.instantiations import C_TYPES, attention_tiles
from ..backend.kernel_memory import shared_memory

THREADS, SIDE = 256, 16
COLUMNS = 64  # of a result that a block of threads computes
SHORT = 128  # queries, and keys, of a matrix whose gradients one block computes
DECLARED = 31 << 10  # bytes of shared memory that attention_backward has beside its sums, at most
Place = tuple[float, int, int, int, int, int]  # of the dropout mask: p, first, stream, call, step, seed


def usable(query: Array, key: Array, value: Array) -> bool:
    """Kernels take one type, and at least one of everything."""
    if not kernels.usable(query) or query.dtype.name not in C_TYPES:
        return False
    return query.dtype == key.dtype == value.dtype and bool(query.size and key.size and value.size)


def rate(place: Place | None) -> float:
    """1 / (1 - p), or 1 without dropout."""
    return 1.0 if place is None else 1.0 / (1.0 - place[0])


def one_block(query: tuple[int, ...], value: tuple[int, ...], acc: str, most_shared: int) -> int:
    """Bytes of dynamic shared memory for a block that computes all gradients of a matrix of query (..., T, D)
    and value (..., S, Dv); 0 where it cannot. `acc`: the C++ type of sums."""
    (queries, size), (keys, value_size) = query[-2:], value[-2:]
    if max(queries, keys) > SHORT or max(size, value_size) > COLUMNS:
        return 0
    tile, of_sum = tile_of(queries, keys, acc), 8 if acc == "double" else 4
    sums = math.ceil(queries / tile) * tile * math.ceil(size / SIDE) * SIDE * of_sum
    return sums if sums + DECLARED <= most_shared else 0


def tile_of(queries: int, keys: int, acc: str) -> int:
    """The side of the tiles in which weights are made."""
    return attention_tiles(acc)[0 if max(queries, keys) <= 32 else -1]


class Launch:
    """The kernels on one set of inputs."""

    def __init__(
        self, query: Array, key: Array, value: Array, mask: Array | None, causal: bool, scale: float,
        place: Place | None,
    ) -> None:  # fmt: skip
        xp = get_xp(query)
        self.inputs = [xp.ascontiguousarray(x) for x in (query, key, value)]
        *lead, self.queries, self.size = query.shape
        self.keys, self.value_size = value.shape[-2:]
        self.matrices, heads = math.prod(lead), math.prod(lead[1:])
        self.types = kernels.c_types(query.dtype)
        self.sum_type = np.float64 if query.dtype == np.float64 else np.float32
        self.mask, steps = _mask_with_steps(mask, lead)
        p, first, stream, call, _, seed = place or (0.0, 0, 0, 0, 0, 0)
        step = None if place is None else random.step_beside(query)
        self.numbers = (
            self.matrices, heads, self.queries, self.keys, self.size, self.value_size, *steps, causal, scale,
            random.keep_threshold(p), rate(place), first, seed, stream, call, step,
        )  # fmt: skip

    def forward(self) -> tuple[Array, Array]:
        """The context, and lse (..., T): the logarithm of the sum over the keys of e^energy."""
        query = self.inputs[0]
        xp, rows = get_xp(query), query.shape[:-1]
        context = xp.empty((*rows, self.value_size), query.dtype)
        log_sum_exp = xp.empty(rows, self.sum_type)
        arrays = (*self.inputs, self.mask, context, log_sum_exp)
        tile = tile_of(self.queries, self.keys, self.types[1])
        self._run("forward", tile, self._jobs(tile, self.queries, self.value_size), arrays)
        return context, log_sum_exp

    def backward(self, context: Array, log_sum_exp: Array, dcontext: Array) -> tuple[Array, ...]:
        """The gradients of query, key and value."""
        dcontext = get_xp(context).ascontiguousarray(dcontext, dtype=context.dtype)
        grads = dquery, dkey, dvalue = tuple(get_xp(context).empty_like(x) for x in self.inputs)
        query, value = self.inputs[0], self.inputs[2]
        shared = one_block(query.shape, value.shape, self.types[1], shared_memory(query))
        if shared:
            tile = tile_of(self.queries, self.keys, self.types[1])
            arrays = (*self.inputs, self.mask, context, log_sum_exp, dcontext, *grads)
            self._run("backward", tile, self.matrices, arrays, shared)
            return grads
        tile, columns = attention_tiles(self.types[1])[-1], max(self.size, self.value_size)
        delta = get_xp(context).empty_like(log_sum_exp)
        arrays = (*self.inputs, self.mask, context, log_sum_exp, dcontext, delta, dquery)
        self._run("backward_query", tile, self._jobs(tile, self.queries, self.size), arrays)
        arrays = (*self.inputs, self.mask, log_sum_exp, dcontext, delta, dkey, dvalue)
        self._run("backward_key", tile, self._jobs(tile, self.keys, columns), arrays)
        return grads

    def _jobs(self, tile: int, rows: int, columns: int) -> int:
        return self.matrices * math.ceil(rows / tile) * math.ceil(columns / COLUMNS)

    def _run(
        self, name: str, tile: int, blocks: int, arrays: tuple[Array | None, ...], shared: int = 0
    ) -> None:
        kernel = kernels.project("attention", f"attention_{name}<{', '.join(self.types)}, {tile}>")
        kernel(min(blocks, 2**31 - 1), THREADS, (*arrays, *self.numbers), shared_mem=shared)


def _mask_with_steps(mask: Array | None, lead: list[int]) -> tuple[Array | None, tuple[int, ...]]:
    """The mask as a contiguous array, and the elements from one batch row, head, query and key of it to the
    next: 0 along an axis that repeats."""
    if mask is None:
        return None, (0, 0, 0, 0)
    xp = get_xp(mask)
    if any(n != 1 for n in mask.shape[1:-2]):
        mask = xp.broadcast_to(mask, (mask.shape[0], *lead[1:], *mask.shape[-2:]))
    mask = xp.ascontiguousarray(mask)
    shape = (mask.shape[0], math.prod(mask.shape[1:-2]), *mask.shape[-2:])
    return mask, tuple(0 if n == 1 else math.prod(shape[i + 1 :]) for i, n in enumerate(shape))
