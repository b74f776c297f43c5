"""What `gp.cost` says of a last layer and its loss in one is what the fake GPU counts."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from test_predicted_costs import NUMBERS, Fixed, Ids, _made, counted

import gpuprop as gp
from gpuprop import ops


@pytest.mark.parametrize("dtype", ["float32", "float16", "float64"])
@pytest.mark.parametrize("options", [{}, {"reduction": "sum"}, {"weight": True}], ids=str)
def test_a_last_layer_and_its_loss_some_rows_at_a_time(
    fake_gpu: Any, options: dict[str, Any], dtype: str
) -> None:
    """Of a mean, backward multiplies the gradients, and the products are all forward."""
    n, width, classes = 64, 32, 200
    leaves = [_made(shape, dtype) for shape in ((n, width), (classes, width), (classes,))]
    targets, kept = _made(Ids((n,), classes), dtype), "float64" if dtype == "float64" else "float32"
    given = {"linear_bias": leaves[2], "chunk_rows": 24}
    given |= {k: _made(Fixed((classes,)), kept) if k == "weight" else v for k, v in options.items()}
    ops.linear_cross_entropy(*leaves[:2], targets, **given)
    fake_gpu.costs.clear()
    loss = ops.linear_cross_entropy(*leaves[:2], targets, **given)
    forward = counted(fake_gpu)
    products = sum(c.flops for c in fake_gpu.costs)
    dy = gp.get_xp(loss.data).ones(loss.shape, loss.dtype)
    fake_gpu.costs.clear()
    loss.backward(dy)
    launches, moved = counted(fake_gpu)
    gradients = sum(
        np.dtype(t).itemsize * leaf.size for t, leaf in zip((dtype, kept, kept), leaves, strict=True)
    )
    if options.get("reduction") != "sum":
        moved += 2 * gradients  # which the kernel reads and writes, as dy / N is not 1
    found = gp.cost("linear_cross_entropy", *leaves[:2], (n,), **given)
    for part, (count, nbytes) in ((found.forward, forward), (found.backward, (launches, moved))):
        assert part.launches == count
        assert 0 <= nbytes - part.bytes <= NUMBERS * count
    assert products == 6 * n * width * classes + 2 * n * classes
    assert found.forward.flops == products + 3 * n * classes  # the bias, the loss, the gradient of logits
    again = ops.linear_cross_entropy(*leaves[:2], targets, **given)
    assert found.backward.flops == gp.explain(again).rows[0].flops
    by_shape = {**given, "linear_bias": (classes,)}
    assert (
        gp.cost("linear_cross_entropy", *(x.shape for x in leaves[:2]), (n,), dtype=dtype, **by_shape)
        == found
    )
