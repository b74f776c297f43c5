"""A residual, dropout and layer normalisation in one; residual_layer_norm.cu computes it on a GPU."""

from __future__ import annotations

import math
from typing import Any

from ..backend import kernels, random
from ..backend.arrays import Array, get_xp
from ..backend.gemm import rows
from ..backend.kernel_memory import aligned
from ..backprop import Context
from ..errors import ShapeError
from ..op import Op
from ..tensors import Tensor
from . import layer_norm_kernels
from .dropout import check_probability, launch, numbering
from .dropout import dropout as drop
from .elementwise import add
from .layer_norm import layer_norm
from .layer_norm_kernels import (
    MOST_BLOCKS,
    THREADS,
    WARPS,
    memory_of_sums,
    partial_sums,
    sum_type,
    sums_of_parts,
    weight_gradients,
)
from .operands import data_of

EVERYTHING = 1 << 16  # above each number of 16 bits: what a kernel keeps when nothing is dropped


class ResidualLayerNorm(Op):
    """y = w ŝ + b,  ŝ = (s - μ) / √(σ² + ε)        s = x + m r / (1 - p)

    x and r (..., D), w and b (D,), m the mask of `Dropout`, μ and σ² the mean and the variance of each row of
    s. With ds' what arrives at s beside, and LN' the gradient of `LayerNorm`:
        dx = ds' + LN'(dy)        dr = m dx / (1 - p)        dw = Σ dy ŝ        db = Σ dy
    Forward is one launch, which writes y and s; backward is two, and draws m again.
    """

    @staticmethod
    def forward(
        ctx: Context, x: Array, residual: Array, weight: Array, bias: Array, *, eps: float,
        drops: tuple[Any, ...] | None, of_rows: Array | None = None,
    ) -> tuple[Array, Array]:  # fmt: skip
        """drops: p, first, stream and call of `Dropout`, None where nothing is dropped; of_rows: its rows."""
        xp, shape = get_xp(x), x.shape
        x, residual, weight, bias = (xp.ascontiguousarray(a) for a in (rows(x), rows(residual), weight, bias))
        (n, width), sums = x.shape, sum_type(x)
        total, y = xp.empty_like(x), xp.empty_like(x)
        mean, inverse = xp.empty(n, sums), xp.empty(n, sums)
        place = None if drops is None else (*drops, random.step_beside(x), random.state.seed)
        packs = _packs(x, residual, weight, bias)
        grid = min(n if packs is None else math.ceil(n / WARPS), MOST_BLOCKS)
        args = (x, residual, weight, bias, total, y, mean, inverse, n, width, eps)
        _kernel("forward", x, packs)(grid, THREADS, (*args, *_dropout(place, of_rows)))
        ctx.save(total, mean, inverse, weight, place, of_rows)
        return y.reshape(shape), total.reshape(shape)

    @staticmethod
    def backward(ctx: Context, dy: Array | None, ds: Array | None) -> tuple[Array | None, ...]:
        total, mean, inverse, weight, place, of_rows = ctx.saved
        xp, need_r, (n, width) = get_xp(total), ctx.needs_grad[1], total.shape
        shape = next(d.shape for d in (dy, ds) if d is not None)
        ds, dy = (None if d is None else xp.ascontiguousarray(rows(d), dtype=total.dtype) for d in (ds, dy))
        if dy is None and ds is not None:
            dr = ds if place is None else launch(ds, place, of_rows)
            return ds.reshape(shape), dr.reshape(shape), None, None
        dx, dr = xp.empty_like(total), xp.empty_like(total) if need_r and place is not None else None
        packs, drop = _packs(total, dy, ds, weight), _dropout(place, of_rows)
        args = (total, dy, ds, weight, mean, inverse, dx, dr)
        if packs is None:
            _kernel("backward_input", total)(min(n, MOST_BLOCKS), THREADS, (*args, n, width, *drop))
            partial = sums_of_parts(total, dy, mean, inverse)
        else:
            partial = partial_sums(mean, n, width)
            memory, args = memory_of_sums(total, packs), (*args, partial, n, width, *drop)
            _kernel("backward", total, packs)(len(partial), THREADS, args, shared_mem=memory)
        dx = dx.reshape(shape)
        return dx, dx if dr is None else dr.reshape(shape), *weight_gradients(ctx, (2, 3), partial)


def _packs(x: Array, *others: Array | None) -> int | None:
    """How many packs of 16 bytes a lane of a warp needs for a row of x (N, D); None where none will do."""
    return (
        packs_of(x.shape[1], x.dtype.itemsize) if aligned(x, *(a for a in others if a is not None)) else None
    )


def packs_of(width: int, itemsize: int) -> int | None:
    """The same, for rows of `width` elements of so many bytes: as of `layer_norm_kernels`, with room for a
    whole block of random numbers where rows may begin inside one."""
    return layer_norm_kernels.packs_of(width, itemsize, random.LANES if width % random.LANES else 0)


def _kernel(name: str, x: Array, packs: int | None = None) -> kernels.Kernel:
    types = ", ".join(kernels.c_types(x.dtype))
    which = f"{name}<{types}>" if packs is None else f"{name}_warp<{types}, {packs}>"
    return kernels.project("residual_layer_norm", f"residual_layer_norm_{which}")


def _dropout(place: tuple[Any, ...] | None, of_rows: Array | None) -> tuple[Any, ...]:
    """The last arguments of each kernel, for `place` as `Dropout` saves it."""
    if place is None:
        return None, 0, EVERYTHING, 1.0, 0, 0, 0, None
    p, first, stream, call, step, seed = place
    return of_rows, first, random.keep_threshold(p), 1.0 / (1.0 - p), seed, stream, call, step


def residual_layer_norm(
    x: Any, residual: Any, weight: Any, bias: Any, eps: float = 1e-5, *, dropout: float = 0.0,
    stream: int = random.SHUFFLE_STREAM + 1, mask: Any = None,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """norm(s) and s = x + dropout(residual): both (..., D), in one launch on a GPU.

    x and residual (..., D), weight and bias (D,). dropout: the probability to drop; stream and mask: as
    `ops.dropout` has them, whose random bits are drawn. For norm(x + dropout(y)), as Vaswani et al. (2017)
    have it, take the first result; where s flows on past the norm (Xiong et al. 2020), take both. Raises
    ShapeError unless x and residual are of one shape.
    """
    if tuple(x.shape) != tuple(residual.shape):
        raise ShapeError(
            f"residual_layer_norm expects x and residual of one shape but got {tuple(x.shape)} and "
            f"{tuple(residual.shape)}"
        )
    if not _fits(x, residual, weight, bias):
        total = add(x, drop(residual, dropout, stream=stream, mask=mask))
        return layer_norm(total, weight, bias, eps), total
    check_probability(dropout)
    static: dict[str, Any] = {"eps": eps, "drops": None}
    if dropout > 0.0:
        first, static["of_rows"] = numbering("residual_layer_norm", residual, mask)
        static["drops"] = dropout, first, stream, random.next_call(stream)
    result: tuple[Tensor, Tensor] = ResidualLayerNorm.apply(x, residual, weight, bias, **static)
    return result


def _fits(x: Any, *others: Any) -> bool:
    """Whether the kernels take these: else the three operations are one after another."""
    width = (x.shape[-1],) if x.shape else ()
    return (
        kernels.usable(data_of(x))
        and x.size > 0
        and all(a.dtype == x.dtype for a in others)
        and all(tuple(a.shape) == width for a in others[1:])
    )
