"""Cases of the kernels of recurrent layers, for `gpuprop kernels check`; see kernel_cases.py."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from .. import ops
from ..backend.device import get_device
from ..ops import cluster_sizes
from ..tensors import Tensor, tensor

Results = list[Any]


def recurrent(dtype: Any) -> Results:
    """Outputs, states and gradients of a GRU and an LSTM over padded rows; of half types one time, since what
    is stored each time is rounded, while the formula is computed in float32."""
    half = np.dtype(dtype).itemsize == 2
    kept = np.float32 if get_device().type == "cpu" and half else dtype
    mask = np.array([[True, True, True], [False, True, False], [True, False, True]])[:, : 1 if half else 3]
    results: Results = []
    for operation, gates in ((ops.gru, 3), (ops.lstm, 4)):
        rng = np.random.default_rng(0)
        shapes = ((*mask.shape, 5), (gates * 90, 5), (gates * 90, 90), gates * 90, gates * 90)
        draws = [(rng.standard_normal(s) / 8).astype(dtype).astype(kept) for s in shapes]
        x, *weights = (tensor(a, requires_grad=True) for a in draws)
        outputs: tuple[Tensor, ...] = operation(x, *weights, mask=mask)
        outputs[0].backward(rng.uniform(0.1, 0.2, outputs[0].shape).astype(kept))
        results += [*(y.data for y in outputs), *(leaf.grad for leaf in (x, *weights))]
    return results


def recurrent_sequence(dtype: Any) -> Results:
    """As `recurrent`, in both directions over all times: whole packs, and a size that is not."""
    return _both_directions(dtype, ((ops.gru, 3, 6), (ops.gru, 3, 32), (ops.lstm, 4, 6), (ops.lstm, 4, 32)))


def recurrent_cluster(dtype: Any) -> Results:
    """As `recurrent_sequence`, by clusters of blocks where there are any: some blocks own nothing, one less
    than the others."""
    with cluster_sizes.wherever_possible():
        return _both_directions(dtype, ((ops.gru, 3, 40), (ops.lstm, 4, 72)))


def _both_directions(dtype: Any, cells: Sequence[tuple[Any, int, int]]) -> Results:
    """Of cells (operation, gates, size)."""
    kept = np.float32 if get_device().type == "cpu" and np.dtype(dtype).itemsize == 2 else dtype
    mask = np.array([[True, True, True], [False, True, False], [True, False, True]])
    results: Results = []
    for operation, gates, size in cells:
        rng = np.random.default_rng(0)
        shapes = ((gates * size, 5), (gates * size, size), gates * size, gates * size)
        draws = [
            (rng.standard_normal(s) / 8).astype(dtype).astype(kept) for s in ((3, 3, 5), *shapes, *shapes)
        ]
        x, *weights = (tensor(a, requires_grad=True) for a in draws)
        first = [(None,) * (gates - 2)] * 2
        outputs = ops.bidirectional(operation, x, [weights[:4], weights[4:]], first, mask=mask)
        outputs[0].backward(rng.uniform(0.1, 0.2, outputs[0].shape).astype(kept))
        results += [*(y.data for y in outputs), *(leaf.grad for leaf in (x, *weights))]
    return results
