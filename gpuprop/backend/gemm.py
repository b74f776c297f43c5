"""The one door for every matrix product, so that its precision, its library and its threads are chosen in one
place.

On a CPU, OpenBLAS shares a product over its own threads, which wait for each other by spinning: on a quiet
machine that is fast, but where cores are shared a step takes fifty times as long. Large products are
therefore cut into one piece a thread here, and each piece is computed by one thread of the library.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator

import numpy as np

from . import gemm_cuda
from .arrays import Array, get_xp, is_cupy
from .buffers import empty
from .half import is_half
from .threads import at_once, blas_on_one_thread, can_hold_blas, pieces

PRECISIONS = ("highest", "high")
LIBRARY_SPLITS = 1 << 18  # multiplications up to which OpenBLAS uses one thread anyway
FEW = 1 << 11  # numbers of a result up to which memory that is used again does not pay
LEAST = 1 << 22  # multiplications a piece below which handing it to another thread does not pay
SMALL = 10**6  # multiplications up to which OpenBLAS reads the factors where they are: no copies in its order
LONG = 120  # of an axis, the least that is worth a product of its own
_float32 = "highest"


def set_matmul_precision(precision: str) -> None:
    """How products of float32 are computed on a GPU, as in PyTorch: "highest" (the default) in float32,
    "high" by tensor cores in TF32, where 10 bits of each factor's fraction count and sums are float32.
    Nothing changes on a CPU."""
    global _float32
    if precision not in PRECISIONS:
        raise ValueError(f"matmul precision is one of {', '.join(PRECISIONS)}, not {precision!r}")
    _float32 = precision


def get_matmul_precision() -> str:
    """What `set_matmul_precision` set."""
    return _float32


def matmul(a: Array, b: Array, out: Array | None = None) -> Array:
    """a @ b for stacks of matrices: (..., M, K) @ (..., K, N) -> (..., M, N), into `out` if given.

    Half types are multiplied and added up in float32, and the result is rounded once.
    """
    if get_xp(a, b) is not np:
        return gemm_cuda.matmul(a, b, out, _float32 == "high")
    if isinstance(a, np.ndarray) and (is_half(a.dtype) or is_half(b.dtype)):
        return _half(a, b, out)
    if a.ndim < 2 or b.ndim < 2:
        return a @ b if out is None else np.matmul(a, b, out=out)
    count = a.size * b.shape[-1]
    if out is None and count <= min(LIBRARY_SPLITS, FEW * a.shape[-1]):
        return a @ b
    if out is None:
        lead = a.shape[:-2] if b.ndim == 2 else np.broadcast_shapes(a.shape[:-2], b.shape[:-2])
        dtype = a.dtype if a.dtype == b.dtype else np.result_type(a, b)
        out = empty(np, (*lead, a.shape[-2], b.shape[-1]), dtype)
    if a.shape[-1] == 1:  # an outer product: OpenBLAS takes three times as long as the multiplications
        return np.multiply(a, b, out=out)
    if count <= LIBRARY_SPLITS or not can_hold_blas():
        return np.matmul(a, b, out=out)
    if a.ndim > 2 or b.ndim > 2:
        return _stacks(a, b, out)
    (rows, inner), columns = a.shape, b.shape[1]
    by_rows = rows >= columns
    cut = pieces(rows if by_rows else columns, rows * inner * columns, LEAST)
    if len(cut) == 1:
        with blas_on_one_thread():
            return _multiply(a, b, out)

    def work(start: int, stop: int) -> None:
        part = slice(start, stop)
        if by_rows:
            _multiply(a[part], b, out[part])
        else:
            _multiply(a, b[:, part], out[:, part])

    at_once(work, cut, products=True)
    return out


def _multiply(a: Array, b: Array, out: Array) -> Array:
    """a @ b, cut along its one long axis into pieces that OpenBLAS multiplies without copies, where the two
    others are short: up to three times as fast (8 x 256 x 1024), a quarter for 4096 x 16 x 64."""
    sizes = rows, inner, columns = a.shape[-2], a.shape[-1], b.shape[-1]
    longest = max(sizes)
    step = SMALL * longest // max(1, rows * inner * columns)
    if not LONG <= step <= longest // 2 or min(sizes) == 1 or b.strides[-1] != b.itemsize:
        return np.matmul(a, b, out=out)
    cuts = [slice(i, i + step) for i in range(0, longest, step)]
    if rows == longest:
        for part in cuts:
            np.matmul(a[..., part, :], b, out=out[..., part, :])
    elif columns == longest:
        for part in cuts:
            np.matmul(a, b[..., part], out=out[..., part])
    else:
        np.matmul(a[..., cuts[0]], b[..., cuts[0], :], out=out)
        partial = empty(np, out.shape, out.dtype)
        for part in cuts[1:]:
            out += np.matmul(a[..., part], b[..., part, :], out=partial)
    return out


def repeated(a: Array, b: Array, held: bool = False) -> Callable[..., Array]:
    """What multiplies a and b, to be asked once before many products of their shapes and types: `matmul`, or
    the library itself where that would only look at them and pass them on. held: the caller holds the library
    to one thread, by `blas_on_one_thread`."""
    if not isinstance(a, np.ndarray) or is_half(a.dtype) or a.shape[-1] == 1:
        return matmul
    return np.matmul if a.size * b.shape[-1] <= (SMALL if held else LIBRARY_SPLITS) else matmul


@contextlib.contextmanager
def tf32_products() -> Iterator[None]:
    """Inside, float32 products on a GPU use its tensor cores; see `set_matmul_precision`."""
    before = get_matmul_precision()
    set_matmul_precision("high")
    try:
        yield
    finally:
        set_matmul_precision(before)


def affine(a: Array, b: Array, bias: Array | None, activation: str | None = None) -> Array | None:
    """f(a b + bias), f the identity, "relu" or "gelu" (its tanh form), for matrices (M, K), (K, N) and bias
    (N,) or None, in one launch. None where no library does that: on a CPU, and for types and strides that
    cublasLt has no algorithm for."""
    return gemm_cuda.affine(a, b, bias, activation, _float32 == "high") if is_cupy(a) else None


def activated(a: Array, b: Array, bias: Array | None, activation: str) -> tuple[Array, Array] | None:
    """`affine`, and what `behind` needs; see `beside`."""
    return gemm_cuda.activated(a, b, bias, activation, _float32 == "high") if is_cupy(a) else None


def beside(y: Array, activation: str) -> Array:
    """Memory for what `behind` needs of z, where y (M, N) is f(z): for "relu" bits in bytes
    (M, ceil(N / 128) 16), the lowest first, 1 where y > 0; for "gelu" (M, ceil(N / 8) 8), z in its first N
    columns."""
    return gemm_cuda.beside(y, activation)


def behind(
    dy: Array, weight: Array, aux: Array, activation: str, scale: float = 1.0, sums: Array | None = None
) -> Array | None:
    """dz = (scale dy W) f'(z) for dy (N, O) and W (O, I), the gradient before an activation, which aux is of
    (see `beside`), and its sums over the rows into sums (I,), if given, in one launch. None, with nothing
    done, where no library does that."""
    if not is_cupy(dy):
        return None
    return gemm_cuda.behind(dy, weight, aux, activation, scale, sums, _float32 == "high")


def with_bias(a: Array, b: Array, bias: Array, out: Array) -> bool:
    """out = a b + bias for a stack a (N, M, K), b (K, C) and bias (C,), in one launch; out (N, M, C) may be
    `matrices`. False, with nothing done, where no library does that."""
    return is_cupy(a) and gemm_cuda.with_bias(a, b, bias, out, _float32 == "high")


def matrices(x: Array, first: int, shape: tuple[int, int, int], strides: tuple[int, int]) -> Array:
    """A stack of matrices (N, M, C) in the memory of x, C-contiguous, for `matmul`: element (n, m, c) lies
    at first + n strides[0] + m strides[1] + c. They may overlap where they are only read."""
    last = first + sum((n - 1) * step for n, step in zip(shape, (*strides, 1), strict=True))
    if not x.flags.c_contiguous or first < 0 or min(*shape, *strides) < 1 or last >= x.size:
        raise ValueError(f"matrices {shape} at {first} with strides {strides} are outside {x.size} elements")
    xp, size = get_xp(x), x.dtype.itemsize
    steps = (*(step * size for step in strides), size)
    return xp.lib.stride_tricks.as_strided(x.reshape(-1)[first:], shape, steps)


def with_sums(a: Array, b: Array, out: Array, sums: Array) -> bool:
    """out = a b for matrices (M, K), (K, N), and sums (N,) = Σ over the rows of b, in one launch. False, with
    nothing done, where no library does that."""
    return is_cupy(a) and gemm_cuda.with_sums(a, b, out, sums, _float32 == "high")


def sum_of_squares(x: Array) -> Array:
    """Σ x², half types added up in float32; a number of one element on the device of x."""
    flat = x.reshape(-1)
    flat = flat.astype(np.float32) if is_half(flat.dtype) else flat
    if is_cupy(flat):
        return (flat * flat).sum()
    return flat.dot(flat)


def _half(a: Array, b: Array, out: Array | None) -> Array:
    y = matmul(a.astype(np.float32), b.astype(np.float32))
    if out is None:
        return y.astype(a.dtype if a.dtype == b.dtype else np.float32, copy=False)
    out[...] = y
    return out


def _stacks(a: Array, b: Array, out: Array) -> Array:
    """Stacks of matrices: cut along the first axis where both have it."""
    alike = a.ndim == b.ndim and a.shape[0] == b.shape[0]
    cut = pieces(a.shape[0], a.size * b.shape[-1], LEAST) if alike else []
    if len(cut) < 2:
        with blas_on_one_thread():
            return _multiply(a, b, out)

    def work(start: int, stop: int) -> None:
        _multiply(a[start:stop], b[start:stop], out[start:stop])

    at_once(work, cut, products=True)
    return out


def rows(x: Array) -> Array:
    """x (..., N) as a matrix of rows (-1, N): one large product instead of a batch of small ones."""
    return x.reshape(-1, x.shape[-1])
