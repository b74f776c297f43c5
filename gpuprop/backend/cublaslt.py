"""cublasLt: products with an epilogue, which adds a bias, applies an activation or its derivative, or sums
the columns of a factor, while the result is still on the chip.

An algorithm is asked for once a shape and kept; `run` says False where cublasLt has none. What it forbids is
in NVIDIA's documentation (cuBLAS, cublasLtEpilogue_t and cublasLtMatmulDescAttributes_t): an epilogue needs
a column-major D, and the auxiliary matrix of an activation has a leading dimension of its own.
"""

from __future__ import annotations

import ctypes
import threading
from collections.abc import Sequence
from typing import Any

from . import cublas
from .cublas import DATA_TYPES, NOT_SUPPORTED, WORKSPACE, check, library
from .gemm_layout import KEPT, Operand, Plan

# cublasLtEpilogue_t. aux: the auxiliary matrix is written, which d... reads: for ReLU a bit an element of D,
# 1 where it is above 0, for GELU (the tanh form) what went into it. bgrad: sums over the columns of D, after
# the derivative. sums_p and sums_q are of the rows of op(P), columns of op(Q).
EPILOGUES = {
    "relu": 2, "bias": 4, "relu_bias": 6, "relu_aux": 130, "relu_aux_bias": 134, "drelu": 136,
    "drelu_bgrad": 152, "gelu": 32, "gelu_bias": 36, "gelu_aux": 160, "gelu_aux_bias": 164, "dgelu": 192,
    "dgelu_bgrad": 208, "sums_p": 256, "sums_q": 512,
}  # fmt: skip
# cublasLtMatmulDescAttributes_t, cublasLtMatrixLayoutAttribute_t, cublasLtMatmulPreferenceAttributes_t
TRANSPOSE_P, TRANSPOSE_Q, EPILOGUE, BIAS_POINTER, AUX_POINTER, AUX_LD = 3, 4, 7, 8, 11, 12
AUX_STEPS = {"relu": 128, "gelu": 8}  # what a leading dimension is a multiple of: bits, elements
BATCH_COUNT, BATCH_STRIDE = 5, 6
MOST_WORKSPACE, ALIGNMENTS = 1, (5, 6, 7, 8)
MOST_ALIGNMENT = 256
REAL_32F, REAL_64F = 0, 1


class _Heuristic(ctypes.Structure):
    """cublasLtMatmulHeuristicResult_t."""

    _fields_ = (
        ("algorithm", ctypes.c_uint64 * 8),
        ("workspace", ctypes.c_size_t),
        ("state", ctypes.c_int),
        ("waves", ctypes.c_float),
        ("reserved", ctypes.c_int * 4),
    )


class _Cache(threading.local):
    """This thread's handle for each GPU, and what it prepared: a descriptor is changed by each call."""

    def __init__(self) -> None:
        self.handles: dict[int, ctypes.c_void_p] = {}
        self.prepared: dict[tuple[Any, ...], _Prepared | None] = {}


_cache = _Cache()


class _Prepared:
    """Descriptors of one kind of product, and the algorithm for it."""

    def __init__(self, plan: Plan, types: tuple[int, int, int], compute: int, epilogue: str) -> None:
        scale = REAL_64F if compute == cublas.COMPUTE_64F else REAL_32F
        self.description = _create("MatmulDesc", compute, scale)
        self.set(TRANSPOSE_P, ctypes.c_int32(plan.p.transposed))
        self.set(TRANSPOSE_Q, ctypes.c_int32(plan.q.transposed))
        self.set(EPILOGUE, ctypes.c_int32(EPILOGUES[epilogue]))
        self.p = _layout(types[0], plan.m, plan.k, plan.p, plan.batch)
        self.q = _layout(types[1], plan.k, plan.n, plan.q, plan.batch)
        self.d = _layout(types[2], plan.m, plan.n, plan.d, plan.batch)
        if reads_or_writes_aux(epilogue):
            self.set(AUX_LD, ctypes.c_int64(aux_ld(epilogue, plan.m)))
        self.found = _Heuristic()

    def set(self, attribute: int, value: Any) -> None:
        of = library("cublasLt").cublasLtMatmulDescSetAttribute
        check(
            of(self.description, attribute, ctypes.byref(value), ctypes.sizeof(value)), "cublasLt attribute"
        )

    def point(self, bias: Any, aux: Any) -> None:
        """Where the vector and the auxiliary matrix are, read or written."""
        for attribute, x in ((BIAS_POINTER, bias), (AUX_POINTER, aux)):
            if x is not None:
                self.set(attribute, ctypes.c_void_p(x.data.ptr))

    def choose(self, handle: ctypes.c_void_p, alignments: tuple[int, ...]) -> bool:
        """Ask for the algorithm; False where there is none."""
        lt, preference = library("cublasLt"), _create("MatmulPreference")
        values: list[tuple[int, Any]] = [(MOST_WORKSPACE, ctypes.c_uint64(WORKSPACE))]
        values += [(name, ctypes.c_uint32(a)) for name, a in zip(ALIGNMENTS, alignments, strict=True)]
        for name, value in values:
            done = lt.cublasLtMatmulPreferenceSetAttribute(
                preference, name, ctypes.byref(value), ctypes.sizeof(value)
            )
            check(done, "cublasLt preference")
        count = ctypes.c_int(0)
        layouts = (self.p, self.q, self.d, self.d)
        status = lt.cublasLtMatmulAlgoGetHeuristic(
            handle, self.description, *layouts, preference, 1, ctypes.byref(self.found), ctypes.byref(count)
        )
        lt.cublasLtMatmulPreferenceDestroy(preference)
        if status == NOT_SUPPORTED or (not status and not count.value):
            return False
        check(status, "cublasLt heuristic")
        return self.found.state == 0

    def destroy(self) -> None:
        lt = library("cublasLt")
        lt.cublasLtMatmulDescDestroy(self.description)
        for layout in (self.p, self.q, self.d):
            lt.cublasLtMatrixLayoutDestroy(layout)


def reads_or_writes_aux(epilogue: str) -> bool:
    return "_aux" in epilogue or epilogue.startswith("d")


def aux_ld(epilogue: str, rows: int) -> int:
    """The leading dimension of the auxiliary matrix of D (rows, n): in bits for ReLU, elements for GELU."""
    step = AUX_STEPS["relu" if "relu" in epilogue else "gelu"]
    return -(-rows // step) * step


def run(
    device: int, plan: Plan, p: Any, q: Any, d: Any, compute: int, epilogue: str, bias: Any = None,
    aux: Any = None, scale: float = 1.0,
) -> bool:  # fmt: skip
    """D = epilogue(scale op(P) op(Q)) on CuPy arrays of GPU `device`, the current one, as `plan` says; of a
    batch with the epilogue "bias" only. bias: the vector (m,) that is added, or receives sums. aux: the
    auxiliary matrix, with leading dimension `aux_ld`. False, with nothing done, where there is no algorithm.
    """
    pointers = [x.data.ptr for x in (p, q, d)]
    steps = [at.stride * x.dtype.itemsize for x, at in ((p, plan.p), (q, plan.q), (d, plan.d))]
    places = [at | step for at, step in zip(pointers, steps, strict=True)] if plan.batch > 1 else pointers
    beside = [0 if x is None else x.data.ptr for x in (bias, aux)]
    alignments = _alignments((*places, places[2], *beside))
    types = tuple([DATA_TYPES[x.dtype.name] for x in (p, q, d)])
    key = (device, plan, types, compute, epilogue, alignments)
    handle = _handle(device)
    if key not in _cache.prepared:
        _make_room(_cache.prepared)
        new = _Prepared(plan, types, compute, epilogue)  # type: ignore[arg-type]
        new.point(bias, aux)
        _cache.prepared[key] = new if new.choose(handle, alignments[:4]) else None
    ready = _cache.prepared[key]
    if ready is None:
        return False
    ready.point(bias, aux)
    alpha, zero = cublas.number(scale, p.dtype), cublas.number(0.0, p.dtype)
    stream = cublas.current_stream()
    workspace = cublas.handle(device).workspace(stream)
    status = library("cublasLt").cublasLtMatmul(
        handle, ready.description, ctypes.byref(alpha), pointers[0], ready.p, pointers[1], ready.q,
        ctypes.byref(zero), pointers[2], ready.d, pointers[2], ready.d, ctypes.byref(ready.found.algorithm),
        workspace.ptr, WORKSPACE, stream,
    )  # fmt: skip
    if status:
        check(status, f"cublasLt product {epilogue} of {plan}")
    return True


def _make_room(prepared: dict[tuple[Any, ...], _Prepared | None]) -> None:
    """Forget the oldest, as texts of ever new lengths would otherwise leave ever more."""
    while len(prepared) >= KEPT:
        oldest = prepared.pop(next(iter(prepared)))
        if oldest is not None:
            oldest.destroy()


def _handle(device: int) -> ctypes.c_void_p:
    if device not in _cache.handles:
        value = ctypes.c_void_p()
        check(library("cublasLt").cublasLtCreate(ctypes.byref(value)), "cublasLtCreate")
        _cache.handles[device] = value
    return _cache.handles[device]


def _create(kind: str, *arguments: int) -> ctypes.c_void_p:
    made = ctypes.c_void_p()
    create = getattr(library("cublasLt"), f"cublasLt{kind}Create")
    check(create(ctypes.byref(made), *arguments), f"cublasLt{kind}Create")
    return made


def _layout(kind: int, rows: int, columns: int, at: Operand, batch: int) -> ctypes.c_void_p:
    """Of the matrix, or of each of a batch, as it lies: op(X) is (rows, columns)."""
    lies = (columns, rows) if at.transposed else (rows, columns)
    layout = _create("MatrixLayout", kind, *lies, at.ld)
    if batch > 1:
        values = ((BATCH_COUNT, ctypes.c_int32(batch)), (BATCH_STRIDE, ctypes.c_int64(at.stride)))
        for name, value in values:
            of = library("cublasLt").cublasLtMatrixLayoutSetAttribute
            check(of(layout, name, ctypes.byref(value), ctypes.sizeof(value)), "cublasLt layout")
    return layout


def _alignments(addresses: Sequence[int]) -> tuple[int, ...]:
    """The largest powers of two up to `MOST_ALIGNMENT` that divide addresses, or an address | a stride."""
    return tuple([min(MOST_ALIGNMENT, place & -place or MOST_ALIGNMENT) for place in addresses])
