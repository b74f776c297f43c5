"""The training steps of the GPU bench, in the order of the table of targets.

Floors count Adam's 28 bytes a weight and the products; what else moves may stay in caches.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from itertools import pairwise
from typing import Any

from .floors import Cost
from .gpu_case import GpuCase, Target
from .gpu_data import Sizes
from .gpu_steps import Batches, ours, pairs, pictures, sentences, theirs

ADAM = 28.0  # bytes a weight


def _step(
    name: str, row: str, work: str, batches: Batches, sizes: Sizes, gate: Sizes,
    cost: Callable[[Sizes], Cost], passing: Target,
) -> GpuCase:  # fmt: skip
    return GpuCase(
        name, row, f"{work} tf32", "tf32", sizes, gate, cost, partial(ours, batches),
        partial(theirs, batches), passing=passing, step=True, repeatable=False,
    )  # fmt: skip


def _mlp_cost(s: Sizes) -> Cost:
    """The first layer has no gradient of its input."""
    products = [a * b for a, b in pairwise(s["dims"])]
    weights = sum(products) + sum(s["dims"][1:])
    return Cost(ADAM * weights, 2.0 * s["B"] * (3 * sum(products) - products[0]))


def _cnn_cost(s: Sizes) -> Cost:
    """Convolutions forward only: behind a maximum their gradients are sparse."""
    taps = [s["emb"] * s["filters"] * k for k in s["widths"]]
    places = [s["L"] - k + 1 for k in s["widths"]]
    weights = s["vocab"] * s["emb"] + sum(taps) + len(taps) * s["filters"] * (1 + s["classes"]) + s["classes"]
    return Cost(ADAM * weights, 2.0 * s["B"] * sum(t * n for t, n in zip(taps, places, strict=True)))


def _gru_cost(s: Sizes) -> Cost:
    """A GRU each way over the source and one over the target, attention, and the words."""
    d, tables = s["d"], s["d"] * (s["src_vocab"] + s["tgt_vocab"])
    bridge, key, comb, out = 2 * d * d, 2 * d * d, 3 * d * d, d * s["tgt_vocab"]
    weights = tables + 3 * 6 * d * d + bridge + key + comb + out
    each = 3 * 6 * d * d + key + comb + out + 3 * s["length"] * d  # multiplications a position
    return Cost(ADAM * weights, 6.0 * s["B"] * (s["length"] * each + bridge))


def _transformer_cost(s: Sizes) -> Cost:
    """A layer of the encoder has 4 d² + 2 d ff weights, one of the decoder 4 d² more."""
    d, ff, length = s["d"], s["ff"], s["length"]
    layers = s["layers"] * (12 * d * d + 4 * d * ff)
    tables, out = d * (s["src_vocab"] + s["tgt_vocab"]), d * s["tgt_vocab"]
    attention = s["layers"] * 3 * 2 * length * d
    return Cost(ADAM * (tables + layers + out), 6.0 * s["B"] * length * (layers + attention + out))


def step_cases() -> list[GpuCase]:
    """All rows of the second table."""
    words = {"src_vocab": 8000, "tgt_vocab": 8000, "smoothing": 0.0}
    small = {"kind": "mlp", "B": 64, "dims": (784, 512, 256, 10)}
    large = {"kind": "mlp", "B": 8192, "dims": (4096, 4096, 4096, 4096, 16)}
    cnn = {
        "kind": "cnn", "B": 50, "L": 56, "vocab": 20000, "emb": 300, "filters": 100, "widths": (3, 4, 5),
        "classes": 2, "dropout": 0.5,
    }  # fmt: skip
    gru = words | {"kind": "gru", "attention": "luong", "d": 256, "B": 64, "length": 20, "dropout": 0.0}
    transformer = words | {
        "kind": "tfm", "d": 512, "heads": 8, "ff": 2048, "layers": 3, "dropout": 0.1, "B": 128, "length": 64,
        "smoothing": 0.1,
    }  # fmt: skip
    few: dict[str, Any] = {"src_vocab": 500, "tgt_vocab": 500, "B": 8, "dropout": 0.0}

    def passing(eager: float, reduced: float, graph: float) -> Target:
        return {"eager": eager, "reduce_overhead": reduced, "graph": graph}

    return [
        _step(
            "step_mlp", "small MLP", "784-512-256-10, batch 64", pictures, small, {}, _mlp_cost,
            passing(8, 2.5, 1.5),
        ),
        _step(
            "step_text_cnn", "text CNN, batch 50", "Kim 2014: 20,000 x 300, 50 texts of 56, 3, 4, 5 x 100",
            sentences, cnn, {"vocab": 2000, "dropout": 0.0}, _cnn_cost, passing(6, 3, 2),
        ),
        _step(
            "step_gru", "GRU seq2seq", "two-way GRU and GRU of 256, attention, 8,000 words, 64 pairs of 20",
            pairs, gru, few | {"length": 12}, _gru_cost, passing(3, 2, 1.5),
        ),
        _step(
            "step_transformer", "Transformer, up to 8k tokens",
            "3 + 3 layers of 512, 8 heads, 8,000 words, 128 pairs of 64", pairs, transformer,
            few | {"length": 32, "d": 128, "ff": 256}, _transformer_cost, passing(2, 1.1, 1.05),
        ),
        _step(
            "step_products", "product-bound MLP", "4096-4096-4096-4096-16, batch 8192", pictures, large,
            {"B": 64, "dims": (512, 512, 512, 16)}, _mlp_cost, passing(0.98, 0.98, 0.98),
        ),
    ]  # fmt: skip
