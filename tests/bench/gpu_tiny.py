"""What tests of the GPU bench share: sizes at which a row is quick, a row that is wrong, and a clock that is
told what to say."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import gpuprop as gp
from gpuprop.bench import floors
from gpuprop.bench.gpu_catalogue import gpu_cases

PAIRS = {"B": 3, "length": 6, "src_vocab": 20, "tgt_vocab": 20, "d": 8, "dropout": 0.0}
TINY: dict[str, dict[str, Any]] = {
    **{f"cross_entropy_{n}": {"B": 12} for n in (2, 16, 64)},
    **{f"cross_entropy_{n}": {"B": 4, "C": 300} for n in (32000, 131072, 262144)},
    **{
        f"conv1d_{n}": {"B": 2, "L": 9, "C": 8, "F": 16, "k": 3}
        for n in ("f_bf16", "fb_bf16", "fb_tf32", "own_fb_bf16")
    },
    "conv1d_dilated_bf16": {"B": 2, "L": 13, "C": 8, "F": 16},
    **{f"depthwise_{n}": {"B": 2, "L": 9, "C": 16, "F": 16} for n in ("f", "fb")},
    "text_cnn_block": {"B": 3, "L": 9, "C": 8, "F": 6},
    "adam_clip": {"n": 1000},
    "embedding": {"B": 3, "L": 5, "V": 30, "D": 8},
    **{f"gru_{n}": {"B": 3, "L": 4, "H": 8} for n in (256, 512, "512_bf16")},
    **{f"attention_{n}": {"B": 2, "h": 2, "L": 8, "D": 16} for n in (64, 128)},
    "feed_forward_gelu": {"B": 5, "D": 8, "H": 24},
    "step_mlp": {"B": 5, "dims": (12, 8, 3)},
    "step_text_cnn": {"B": 4, "L": 9, "vocab": 30, "emb": 8, "filters": 4, "dropout": 0.0},
    "step_gru": PAIRS,
    "step_transformer": PAIRS | {"heads": 2, "ff": 16, "layers": 1},
    "step_products": {"B": 8, "dims": (16, 16, 4)},
}  # fmt: skip


SPEEDS = floors.Speeds(4e12, {"fp32": 5e13, "tf32": 4e14, "bf16": 8e14})
WRONG = "cross_entropy_16"


def sizes_of(name: str) -> dict[str, Any]:
    """The row's sizes, made tiny."""
    return {**gpu_cases()[name].sizes, **TINY[name]}


def tiny(case: Any) -> Any:
    """For `Bench.sizes`: of what is timed, and of what is compared with float64."""
    return sizes_of(case.name), sizes_of(case.name)


def made_wrong() -> dict[str, Any]:
    """Rows of which one computes something else on the GPU than on the CPU."""
    right = gpu_cases()[WRONG]

    def ours(sizes: Any, store: Any) -> Any:
        work = right.ours(sizes, store)
        found = work.values
        factor = 1.0 if gp.get_device().type == "cpu" else 1.01
        work.values = lambda run, most: {n: factor * v for n, v in found(run, most).items()}
        return work

    return gpu_cases() | {WRONG: replace(right, ours=ours)}


class FakeTimer:
    """Whatever is done takes as long as it is told."""

    def __init__(self, ms: float) -> None:
        self.ms = ms

    def time(self, work: Any) -> tuple[float, float]:
        work()
        return self.ms, 2 * self.ms
