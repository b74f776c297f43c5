"""GRU and LSTM over all times in one launch each way, in one direction or both (recurrent_sequence.cu, and
where one block cannot hold the weights recurrent_cluster.cu).

What the kernels keep of each time is (B, L, directions, ...), so that the products for x and for the weights
are one each, over rows that lie as x does. recurrent_kernels.py is the same a time step at a time.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from ..backend import kernels
from ..backend.arrays import Array, get_xp
from ..backend.gemm import matmul as product
from ..backend.gemm import rows
from ..backend.kernel_memory import aligned, shared_memory
from ..backprop import Context
from . import cluster_sizes, persistent_sizes, recurrent_kernels
from .linear import weight_and_bias_gradients

Weights = tuple[Array, Array, Array, Array]  # weight_ih, weight_hh, bias_ih, bias_hh of a direction


class Kept(NamedTuple):
    """From forward for backward, with D directions: gates (B, L, D, n H); the states before each time, what
    else the gates need, and the cells before each time (B, L, D, H); mask (B, L)."""

    gates: Array
    before: Array
    more: Array
    cells: Array | None
    mask: Array | None
    reverse: bool


def fits(x: Array, directions: Sequence[Weights]) -> bool:
    """Whether the kernels take x (B, L, I) and these weights, and are likely to be faster than a step at a
    time."""
    if not recurrent_kernels.usable(x, *(w for d in directions for w in d)):
        return False
    sizes = x.shape[0] * len(directions), *_gates_and_size(directions), x.dtype.itemsize
    return cluster_sizes.one_launch(x.shape[1], *sizes, shared_memory(x))


def forward(
    ctx: Context, x: Array, directions: Sequence[Weights], h0: Sequence[Array | None],
    c0: Sequence[Array | None] | None, mask: Array | None, reverse: bool,
) -> tuple[Any, ...]:  # fmt: skip
    """(y (B, L, D H), the last h, and with c0 the last c) of D directions: a GRU without c0.

    h0, c0: a state (B, H), or None for 0, a direction. The last states are (D, B, H), or (B, H) of one
    direction, which runs from the last time to the first with `reverse`, as a second one always does.
    """
    xp, (n, size) = get_xp(x), _gates_and_size(directions)
    x, (batch, length, _) = xp.ascontiguousarray(x), x.shape
    count = len(directions)
    joined = _joined([weights[0] for weights in directions])
    gates = product(rows(x), joined.T).reshape(batch, length, count, n * size)
    before, more = (xp.empty((batch, length, count, size), x.dtype) for _ in range(2))
    y = xp.empty((batch, length, count * size), x.dtype)
    last = xp.empty(_of_states(count, batch, size), x.dtype)
    mask = None if mask is None else xp.ascontiguousarray(mask, dtype=bool)
    constants = [_constants(weights, size, x.dtype.itemsize) for weights in directions]
    matrices, biases = [c[0] for c in constants], [b for c in constants for b in c[1:]]
    starts = [None if h is None else xp.ascontiguousarray(h, dtype=x.dtype) for h in h0]
    cells, last_cell = None, None
    if c0 is None:
        args = (*_two(starts), before, more, y, last)
    else:
        cells, last_cell = xp.empty_like(before), xp.empty_like(last)
        of_cells = [None if c is None else xp.ascontiguousarray(c, dtype=x.dtype) for c in c0]
        args = (*_two(starts), *_two(of_cells), before, cells, more, y, last, last_cell)
    how = _sizes(x, length, count * batch, n, size, forward=True)
    _launch(
        "forward", how, count, (gates, *_two(matrices), *_two(biases, 2), *args, mask),
        (batch, length, size), reverse,
    )  # fmt: skip
    kept = Kept(gates, before, more, cells, mask, reverse)
    hidden = [matrix.T for matrix in matrices]
    ctx.save(x, joined, hidden[0] if count == 1 else hidden, kept)
    return (y, last) if c0 is None else (y, last, last_cell)


def backward(ctx: Context, dy: Array | None, *dlast: Array | None) -> tuple[Array | None, ...]:
    """Gradients of x, of the weights and biases of each direction, of the first states and, for an LSTM, of
    the first cells, both shaped as the last ones; of those not wanted, None."""
    x, joined, hidden, kept = ctx.saved
    (batch, length, count, size), wants = kept.before.shape, ctx.needs_grad
    hidden = hidden if isinstance(hidden, list) else [hidden]
    inner, *dfirst = _gate_gradients(hidden, kept, dy, dlast, any(wants[1 + 4 * count :]))
    outer = kept.gates.reshape(batch * length, count, -1)
    inner, before = inner.reshape(outer.shape), kept.before.reshape(batch * length, count, size)
    found: list[Array | None] = [None] * (1 + 4 * count)
    if wants[0]:
        found[0] = product(outer.reshape(batch * length, -1), joined).reshape(x.shape)
    for d in range(count):
        i = 1 + 4 * d
        found[i], found[i + 2] = weight_and_bias_gradients(ctx, rows(x), outer[:, d], i, i + 2)
        found[i + 1], found[i + 3] = weight_and_bias_gradients(ctx, before[:, d], inner[:, d], i + 1, i + 3)
    return (*found, *dfirst)


def _gate_gradients(
    hidden: list[Array], kept: Kept, dy: Array | None, dlast: Sequence[Array | None], want_first: bool
) -> tuple[Any, ...]:
    """The gradients of W_hh h + b_hh (B, L, D, n H), those of W_ih x + b_ih being left in kept.gates, and of
    the first states: None where they are not wanted."""
    gates, xp = kept.gates, get_xp(kept.gates)
    batch, length, count, size = kept.before.shape
    dy, *dlast = (None if d is None else xp.ascontiguousarray(d, dtype=gates.dtype) for d in (dy, *dlast))
    n, cells = gates.shape[3] // size, kept.cells is not None
    how = _sizes(gates, length, count * batch, n, size, forward=False)
    matrices = [_ready(w.T, how.padded == size) for w in hidden] if how.blocks == 1 else []
    needed = how.blocks > 1 or how.held < n * size
    by_gate = [_ready(w, True) if needed else None for w in hidden]
    inner = gates if cells else xp.empty_like(gates)
    states = _of_states(count, batch, size)
    dfirst = [xp.empty(states, gates.dtype) if want_first else None for _ in dlast]
    weights = (*_two(matrices), *_two(by_gate)) if matrices else _two(by_gate)
    shared = (*weights, dy, *dlast, kept.mask)
    args = (kept.more, kept.cells, *shared) if cells else (kept.more, kept.before, *shared, inner)
    _launch("backward", how, count, (gates, *args, *dfirst), (batch, length, size), kept.reverse)
    return inner, *dfirst


def _gates_and_size(directions: Sequence[Weights]) -> tuple[int, int]:
    rows_of_all, size = directions[0][1].shape
    return rows_of_all // size, size


def _of_states(count: int, batch: int, size: int) -> tuple[int, ...]:
    return (batch, size) if count == 1 else (count, batch, size)


def _joined(weights: list[Array]) -> Array:
    """Weights (n H, I) as one (D n H, I), whose transpose lies in order."""
    return weights[0] if len(weights) == 1 else get_xp(*weights).concatenate([w.T for w in weights], axis=1).T


def _constants(weights: Weights, size: int, itemsize: int) -> tuple[Array, Array, Array]:
    """W_hhᵀ (H, n H) and both biases as the kernels read them."""
    _, weight_hh, *biases = weights
    whole = persistent_sizes.padded_size(size, itemsize) == size
    bias_ih, bias_hh = (get_xp(b).ascontiguousarray(b) for b in biases)
    return _ready(weight_hh.T, whole), bias_ih, bias_hh


def _ready(matrix: Array, packs: bool) -> Array:
    """In C order, and where it is read in packs, at a multiple of 16 bytes: a copy where it is not."""
    matrix = get_xp(matrix).ascontiguousarray(matrix)
    return matrix if not packs or aligned(matrix) else matrix.copy()


def _two(values: Sequence[Any], each: int = 1) -> tuple[Any, ...]:
    """What belongs to both directions, None for one that is not there."""
    return (*values, *(None,) * (2 * each - len(values)))


def _sizes(
    like: Array, length: int, sequences: int, gates: int, size: int, forward: bool
) -> persistent_sizes.Sizes:
    itemsize, most = like.dtype.itemsize, shared_memory(like)
    if cluster_sizes.suits(length, sequences, gates, size, itemsize, most):
        how = cluster_sizes.sizes(gates, size, itemsize, forward, most)
    else:
        how = persistent_sizes.sizes(sequences, gates, size, itemsize, forward, most)
    assert how is not None, (sequences, gates, size)  # `fits` has asked for no more shared memory
    return how


def _launch(
    direction: str, how: persistent_sizes.Sizes, count: int, args: tuple[Any, ...],
    shape: tuple[int, int, int], reverse: bool,
) -> None:  # fmt: skip
    gates, (batch, _, size) = args[0], shape
    cell = "gru" if gates.shape[3] == 3 * size else "lstm"
    types = ", ".join(kernels.c_types(gates.dtype))
    if how.blocks == 1:
        kernel = kernels.project("recurrent_sequence", f"{cell}_sequence_{direction}<{types}, {how.rows}>")
        numbers = (*shape, how.padded, how.held, how.slices, int(reverse))
    else:
        kernel = kernels.project("recurrent_cluster", f"{cell}_cluster_{direction}<{types}>")
        numbers = (*shape, how.width, how.held, how.slices, int(reverse))
    grid = (-(-batch // how.rows) * how.blocks, count)
    kernel(grid, how.threads, (*args, *numbers), shared_mem=how.shared)
