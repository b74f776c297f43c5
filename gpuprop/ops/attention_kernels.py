"""Scaled dot-product attention by the kernels of attention.cu and attention_tensor_cores.cu."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from ..backend import kernels, random, tensor_cores
from ..backend.arrays import Array, get_xp
from ..backend.instantiations import C_TYPES, PACK
from ..backend.kernel_memory import aligned, shared_memory
from . import attention_sizes

Place = tuple[float, int, int, int, int, int]  # of the dropout mask: p, first, stream, call, step, seed


def usable(query: Array, key: Array, value: Array) -> bool:
    """Kernels take one type, and at least one of everything."""
    if not kernels.usable(query) or query.dtype.name not in C_TYPES:
        return False
    return query.dtype == key.dtype == value.dtype and bool(query.size and key.size and value.size)


def rate(place: Place | None) -> float:
    """1 / (1 - p), or 1 without dropout."""
    return 1.0 if place is None else 1.0 / (1.0 - place[0])


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
        self.matrices, self.heads = math.prod(lead), math.prod(lead[1:])
        self.shapes = (query.shape, value.shape, query.dtype, tensor_cores.there(query))
        self.sum_type = np.float64 if query.dtype == np.float64 else np.float32
        self.mask, steps = _mask_with_steps(mask, lead)
        p, first, stream, call, _, seed = place or (0.0, 0, 0, 0, 0, 0)
        step = None if place is None else random.step_beside(query)
        self.numbers = (
            self.matrices, self.heads, self.queries, self.keys, self.size, self.value_size, *steps, causal,
            scale, random.keep_threshold(p), rate(place), first, seed, stream, call, step,
        )  # fmt: skip

    def forward(self) -> tuple[Array, Array]:
        """The context, and lse (..., T): the logarithm of the sum over the keys of e^energy."""
        query = self.inputs[0]
        xp, rows = get_xp(query), query.shape[:-1]
        beside = self.heads if query.ndim == 4 else 1
        shape = rows if beside == 1 else (rows[0], self.queries, beside)  # a token's heads beside each other
        context = xp.empty((*shape, self.value_size), query.dtype)
        log_sum_exp = xp.empty(rows, self.sum_type)
        arrays = (*self.inputs, self.mask, context, log_sum_exp)
        self._run(attention_sizes.forward(*self.shapes), self.queries, self.value_size, arrays, beside)
        return context.swapaxes(1, 2) if beside > 1 else context, log_sum_exp

    def backward(self, context: Array, log_sum_exp: Array, dcontext: Array) -> tuple[Array, ...]:
        """The gradients of query, key and value."""
        context, y_heads = _beside(context)
        dcontext, dy_heads = _beside(dcontext.astype(context.dtype, copy=False))
        both = y_heads, dy_heads
        grads = dquery, dkey, dvalue = tuple(get_xp(context).empty_like(x) for x in self.inputs)
        how = attention_sizes.backward(*self.shapes, shared_memory(context))
        if how is not None:
            arrays = (*self.inputs, self.mask, context, log_sum_exp, dcontext, *grads)
            self._run(how, self.queries, self.size, arrays, *both)
            return grads
        delta = get_xp(context).empty_like(log_sum_exp)
        arrays = (*self.inputs, self.mask, context, log_sum_exp, dcontext, delta, dquery)
        of_query, of_key = (
            attention_sizes.of_long_texts(f"backward_{of}", context.dtype) for of in ("query", "key")
        )
        self._run(of_query, self.queries, self.size, arrays, *both)
        arrays = (*self.inputs, self.mask, log_sum_exp, dcontext, delta, dkey, dvalue)
        self._run(of_key, self.keys, max(self.size, self.value_size), arrays, dy_heads)
        return grads

    def _run(
        self, how: attention_sizes.Kernel, rows: int, columns: int, arrays: tuple[Any, ...], *beside: int
    ) -> None:
        kernel = kernels.project(how.file, how.name)
        blocks = min(how.blocks(self.matrices, rows, columns), 2**31 - 1)
        numbers: tuple[Any, ...] = (*self.numbers, *beside)
        if how.file == "attention_tensor_cores":
            stored = [a for a in arrays if a is not None and a.dtype == self.inputs[0].dtype]
            numbers += (aligned(*stored) and all(a.shape[-1] * a.itemsize % PACK == 0 for a in stored),)
        kernel(blocks, how.threads, (*arrays, *numbers), shared_mem=how.shared)


def _beside(x: Array) -> tuple[Array, int]:
    """x (..., T, D) as it lies in memory, in C order, and how many heads' rows of a token lie beside each
    other: all as (B, T, heads, D), else 1. A copy where it is neither."""
    if x.ndim == 4 and x.shape[1] > 1 and x.swapaxes(1, 2).flags.c_contiguous:
        return x.swapaxes(1, 2), x.shape[1]
    return get_xp(x).ascontiguousarray(x), 1


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
