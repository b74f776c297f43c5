"""`gp.cost` refuses shapes that do not fit each other, and takes what the operations take."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import gpuprop as gp
from gpuprop import ops
from gpuprop.costs.shapes import FORMS

RECURRENT = ((4, 8, 24), (96, 24), (96, 32), (96,), (96,), (4, 32))
WRONG: list[tuple[str, tuple[Any, ...], str]] = [
    ("additive_attention_weights", ((8, 4, 16), (8, 9, 12), (16,)), r"key \(B, S, H\).*\(8, 9, 12\)"),
    ("attention", ((8, 32, 64), (8, 16, 64), (8, 15, 40)), r"value \(..., S, Dv\) but got"),
    ("attention_weights", ((8, 32, 64), (7, 16, 64)), r"key \(..., S, D\) but got .*\(7, 16, 64\)"),
    ("embedding", ((8, 32), (16,)), r"ids \(...\), table \(V, D\) but got \(8, 32\), \(16,\)"),
    ("feed_forward", ((4, 16), (96, 16), (96,), (40, 95), (40,)), r"weight2 \(O2, O1\).*\(40, 95\)"),
    ("gru", (*RECURRENT[:1], (96, 25), *RECURRENT[2:]), r"gru expects x \(B, T, I\), weight_ih \(3H, I\)"),
    ("gru", (*RECURRENT[:5], (4, 33)), r"h0 \(B, H\) but got .*\(4, 33\)"),
    ("layer_norm", ((64, 256), (255,), (256,)), r"x \(..., D\), weight \(D,\), bias \(D,\) but got"),
    (
        "linear", ((64, 300), (100, 200), (100,)),
        r"linear expects x \(..., I\), weight \(O, I\), bias \(O,\) but got \(64, 300\), \(100, 200\)",
    ),
    ("linear", ((64, 300), (100, 300), (99,)), r"bias \(O,\) but got .*\(99,\)"),
    ("linear_cross_entropy", ((64, 300), (100, 300), (63,)), r"targets \(...\) but got .*\(63,\)"),
    ("lstm", RECURRENT, r"lstm expects x .*weight_hh \(4H, H\)"),
    ("matmul", ((8, 32, 64), (63, 16)), r"a \(..., M, K\), b \(..., K, N\) but got .*\(63, 16\)"),
    ("max_over_time", ((8, 32, 64), (8, 31)), r"x \(B, L, C\), mask \(B, L\) but got"),
    ("mean_over_time", ((8, 32),), r"mean_over_time expects x \(B, L, C\) but got \(8, 32\)"),
    ("residual_layer_norm", ((64, 256), (32, 256), (256,), (256,)), r"residual \(..., D\)"),
    ("scaled_dot_product_attention", ((8, 32, 64), (8, 16, 60), (8, 16, 40)), r"key \(..., S, D\)"),
    ("softmax_cross_entropy", ((64, 100), (63,)), r"logits \(..., C\), targets \(...\) but got"),
    ("conv1d", ((4, 9, 20), (7, 3, 21)), r"conv1d expects \(batch, length, 21\) but got \(4, 9, 20\)"),
    ("pack", ((8, 32, 64), (8, 31)), r"pack expects x \(B, L, ...\), mask \(B, L\) but got"),
    ("pack_labels", ((8, 32), (8, 31), -100), r"labels \(B, L\), mask \(B, L\) but got \(8, 32\), \(8, 31\)"),
    ("packing_of", ((8,), (8, 32, 64)), r"packing_of expects mask \(B, L\) but got \(8,\)"),
    ("unpack", ((256, 64), (256,)), r"unpack expects x \(N, ...\), mask \(B, L\) but got"),
    ("unpack", ((255, 64), (8, 32)), r"unpack: 255 rows for a mask \(8, 32\) with 256 real tokens"),
    ("max_pool1d", ((8, 2, 64), 3), r"max_pool1d: a window of 3 does not fit into \(8, 2, 64\)"),
    ("avg_pool1d", ((8, 32), 3), r"avg_pool1d expects \(batch, length, channels\) but got \(8, 32\)"),
    ("glu", ((4, 9),), r"glu expects x \(..., 2C\) but got \(4, 9\)"),
]  # fmt: skip


@pytest.mark.parametrize(("op", "inputs", "why"), WRONG)
def test_shapes_that_do_not_fit(op: str, inputs: Any, why: str) -> None:
    with pytest.raises(gp.ShapeError, match=why):
        gp.cost(op, *inputs)


def test_every_form_is_refused_somewhere() -> None:
    assert set(FORMS) <= {op for op, *_ in WRONG}


def test_what_is_left_out_counts_for_nothing() -> None:
    assert gp.cost(ops.linear, (4, 16, 300), (100, 300), None) == gp.cost(ops.linear, (64, 300), (100, 300))
    weights = ((96, 16), None, (40, 96), None)
    assert gp.cost(ops.feed_forward, (2, 2, 16), *weights) == gp.cost(ops.feed_forward, (4, 16), *weights)
    assert gp.cost(ops.linear, np.ones((4, 300)), (100, 300)).forward.launches == 1
