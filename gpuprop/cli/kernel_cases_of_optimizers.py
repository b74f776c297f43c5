"""Cases of the optimizers' kernels, for `gpuprop kernels check`; see kernel_cases.py."""

from __future__ import annotations

from typing import Any

import numpy as np

from .. import ops
from ..backend import kernels
from ..backend.arrays import to_device
from ..backend.device import get_device
from ..optim import AdamW, SparseAdam, sparse_kernels
from ..tensors import Parameter

Results = list[Any]


def adam(dtype: Any) -> Results:
    """Parameters and moments after a clipped step; the middle parameter has no gradient, so that packs are
    cut. Of half types the formula is computed from the rounded inputs in float32: NumPy would round after
    each operation."""
    kept = np.float32 if get_device().type == "cpu" and np.dtype(dtype).itemsize == 2 else dtype
    rng = np.random.default_rng(0)
    draws = [rng.standard_normal(n).astype(dtype).astype(kept) for n in (5, 6, 1500)]
    params = [Parameter(to_device(a)) for a in draws]
    optimizer = AdamW(params, lr=0.1, betas=(0.5, 0.6))
    for moment in optimizer.state[0].values():
        moment[...] = to_device(rng.uniform(1, 2, moment.size).astype(dtype))
    for p in (params[0], params[2]):
        p.grad = to_device(rng.standard_normal(p.shape).astype(dtype).astype(kept))
    optimizer.steps = 3
    optimizer.clip_grad_norm(30.0)
    optimizer.step()
    return [optimizer.arenas[0].data, *optimizer.state[0].values()]


def sparse_adam(dtype: Any) -> Results:
    """A table and its moments after a clipped step, and after one of the simple version; rows of whole packs
    and others, runs over several pieces, and an id of padding."""
    results: Results = []
    dtype = np.float64 if dtype == np.float64 else np.float32
    for columns in (45, 136):
        for simple in (False, True):
            rng = np.random.default_rng(0)
            table = Parameter(to_device(rng.standard_normal((21, columns)).astype(dtype)))
            optimizer = SparseAdam([table], lr=0.1, betas=(0.5, 0.6))
            for moment in optimizer.state[0].values():
                moment[...] = to_device(rng.uniform(1, 2, moment.size).astype(dtype))
            ids = np.minimum(rng.integers(0, 60, 130), 20)
            y = ops.embedding(ids, table, padding_idx=3, sparse=True)
            y.backward(rng.standard_normal(y.shape).astype(dtype))
            optimizer.steps = 3
            if not simple:
                optimizer.clip_grad_norm(30.0)
            if simple and kernels.usable(table.data):
                _simple_step(optimizer)
            else:
                optimizer.step()
            results += [table.data, *optimizer.state[0].values()]
    return results


def _simple_step(optimizer: SparseAdam) -> None:
    """As `step`, by the simple version."""
    (arena,), fused = optimizer.arenas, optimizer.fused()
    assert fused is not None
    fused.refresh(optimizer.param_groups)
    for table, grad, _ in arena.tables():
        moments = (optimizer.state[0][slot].reshape(table.shape) for slot in optimizer.slots)
        of_step = (fused.options[0], None, 1.0, None, None, fused.steps, fused.arrived)
        sparse_kernels.update(grad, (table.data, *moments), of_step, last=True, simple=True)
