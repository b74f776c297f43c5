"""The operations of the GPU bench, in the order of the table of targets.

Sizes: B sequences or rows, L positions, C channels or classes, F filters, k taps, d positions from a tap to
the next, H hidden, D a vector.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable
from typing import Any

import gpuprop as gp

from ..ops import conv1d_ways
from .floors import Cost
from .gpu_adam import adam_case
from .gpu_case import FLOOR, GpuCase, Target
from .gpu_data import Normal, Sizes, integers
from .gpu_embedding import embedding_case
from .gpu_feed_forward import feed_forward_case
from .gpu_operation import Form, Named, Operation

CHANNELS_FIRST = (0, 2, 1)
BYTES = {"fp32": 4, "tf32": 4, "bf16": 2}


def _case(
    name: str, row: str, work: str, precision: str, operation: Operation, sizes: Sizes, gate: Sizes,
    cost: Callable[[Sizes, int], Cost], passing: Target, stretch: Target,
) -> GpuCase:  # fmt: skip
    return GpuCase(
        name, row, work, precision, sizes, gate, lambda s: cost(s, BYTES[precision]), operation.our_work,
        operation.their_work, None if operation.usual is None else operation.usual_work, passing, stretch,
    )  # fmt: skip


def _plain(call: Callable[[Any, Named], Any]) -> Form:
    """PyTorch's call(torch, tensors), in our layout."""
    return Form(lambda torch, weights: lambda t: call(torch, t))


def cross_entropy_cases() -> list[GpuCase]:
    """Forward and backward: the logits read once, their gradient written once."""
    operation = Operation(
        lambda s, seed: {
            "logits": Normal((s["B"], s["C"]), seed), "labels": integers(s["C"], (s["B"],), seed),
        },
        lambda t: gp.ops.softmax_cross_entropy(t["logits"], t["labels"]),
        _plain(lambda torch, t: torch.nn.functional.cross_entropy(t["logits"], t["labels"])),
    )  # fmt: skip

    def case(classes: int, rows: int, precision: str, large: bool) -> GpuCase:
        row = f"cross-entropy f+b, V {'32k-256k' if large else '2-64'}"
        work = f"{rows:,} x {classes:,} {precision}"
        passing = {FLOOR: 0.90, "eager": 3.0, "compiled": 1.4} if large else {FLOOR: 0.80, "eager": 4.0}
        stretch = {FLOOR: 0.97 if large else 0.90}
        gate = {"B": min(rows, max(64, (1 << 22) // classes))}
        return _case(
            f"cross_entropy_{classes}", row, work, precision, operation, {"B": rows, "C": classes}, gate,
            lambda s, b: Cost(s["B"] * (2.0 * b * s["C"] + 12)), passing, stretch,
        )  # fmt: skip

    large = ((32000, 16384, "fp32"), (131072, 8192, "bf16"), (262144, 4096, "bf16"))
    small = ((2, 1 << 20, "fp32"), (16, 1 << 20, "fp32"), (64, 1 << 20, "fp32"))
    return [case(*s, True) for s in large] + [case(*s, False) for s in small]


def convolution(depthwise: bool, backward: bool, dilation: int = 1, way: str | None = None) -> Operation:
    """Without padding. PyTorch's fastest is conv2d of one row, channels last; many write conv1d. way: ours,
    of `conv1d_ways.WAYS`, else the one that is taken for these sizes."""

    def inputs(s: Sizes, seed: int) -> Named:
        b, length, channels, filters, k = (s[n] for n in ("B", "L", "C", "F", "k"))
        inner = 1 if depthwise else channels
        found = {
            "x": Normal((b, length, channels), seed),
            "weight": Normal((filters, k, inner), seed + 1, 1 / math.sqrt(k * inner)),
            "bias": Normal((filters,), seed + 2),
        }
        places = length - (k - 1) * dilation
        return found | ({"dy": Normal((b, places, filters), seed + 3)} if backward else {})

    def options(t: Named, axis: int) -> dict[str, Any]:
        return {"groups": int(t["x"].shape[axis]) if depthwise else 1, "dilation": dilation}

    def ours(t: Named) -> Any:
        with contextlib.nullcontext() if way is None else conv1d_ways.using(way):
            return gp.ops.conv1d(t["x"], t["weight"], t["bias"], **options(t, 2))

    def channels_last(torch: Any, t: Named) -> Any:
        x, w = (t[n].permute(CHANNELS_FIRST).unsqueeze(2) for n in ("x", "weight"))
        known = options(t, 2) | {"dilation": (1, dilation)}
        y = torch.nn.functional.conv2d(x, w, t["bias"], **known)
        return y.squeeze(2).permute(CHANNELS_FIRST)

    def conv1d(torch: Any, t: Named) -> Any:
        return torch.nn.functional.conv1d(t["x"], t["weight"], t["bias"], **options(t, 1))

    layouts = dict.fromkeys(("x", "weight", "dy", "y"), CHANNELS_FIRST)
    return Operation(
        inputs, ours, _plain(channels_last), Form(_plain(conv1d).make, layouts), backward=backward
    )  # fmt: skip


def convolution_cases() -> list[GpuCase]:
    """Dense, forward alone and with backward, also by our kernel on tensor cores where cuBLAS is taken, and
    with dilation; then a text classifier's block; then depthwise."""
    passing, stretch = {"eager": 1.3, "channels_last": 1.0}, {"eager": 1.8, "channels_last": 1.2}
    large = {"B": 3072, "L": 202, "C": 128, "F": 384, "k": 3}
    deep = {"B": 64, "L": 128, "C": 512, "F": 1024, "k": 5}
    wide = {"B": 64, "L": 512, "C": 512, "F": 512, "k": 3, "d": 4}
    dense = [
        _case(
            f"conv1d_{'fb' if back else 'f'}_{precision}", "conv1d dense f / b",
            f"{'forward and backward' if back else 'forward'}, {_shape(sizes)} {precision}", precision,
            convolution(False, back), sizes, {"B": 16}, _dense_cost(back), passing, stretch,
        )
        for sizes, precision, back in ((large, "bf16", False), (large, "bf16", True), (deep, "tf32", True))
    ]  # fmt: skip
    dense += [
        _case(
            name, "conv1d dense f / b", f"forward and backward, {_shape(sizes)}{more}", "bf16",
            convolution(False, True, sizes.get("d", 1), "tensor_cores"), sizes, {"B": 16}, _dense_cost(True),
            passing, stretch,
        )
        for name, sizes, more in (
            ("conv1d_own_fb_bf16", large, " bf16, our kernel on tensor cores"),
            ("conv1d_dilated_bf16", wide, ", dilation 4 bf16"),
        )
    ]  # fmt: skip
    sizes = {"B": 256, "L": 2048, "C": 512, "F": 512, "k": 4}
    depthwise = [
        _case(
            f"depthwise_{'fb' if back else 'f'}", "depthwise f, b",
            f"{'forward and backward' if back else 'forward'}, {_shape(sizes)} bf16", "bf16",
            convolution(True, back), sizes, {"B": 4, "L": 512}, _depthwise_cost(back), {FLOOR: 0.85}, {},
        )
        for back in (False, True)
    ]  # fmt: skip
    return [*dense, block_case(), *depthwise]


def _shape(s: Sizes) -> str:
    return f"{s['B']} x {s['L']} x {s['C']} -> {s['F']}, k {s['k']}"


def _dense_cost(backward: bool) -> Callable[[Sizes, int], Cost]:
    """Forward x and y; backward x, dy and dx; and the weights."""

    def cost(s: Sizes, b: int) -> Cost:
        places = s["B"] * (s["L"] - (s["k"] - 1) * s.get("d", 1))
        x, y, w = s["B"] * s["L"] * s["C"], places * s["F"], s["k"] * s["C"] * s["F"]
        moved = x + y + w + (2 * x + y + 2 * w if backward else 0)
        return Cost(float(b * moved), 2.0 * places * w * (3 if backward else 1))

    return cost


def _depthwise_cost(backward: bool) -> Callable[[Sizes, int], Cost]:
    """2 B L C numbers forward, 3 B L C backward. What is multiplied is no matrix."""
    return lambda s, b: Cost(float(b * s["B"] * s["L"] * s["C"] * (5 if backward else 2)))


def block_case() -> GpuCase:
    """relu(convolution) and its maximum over time, for three widths."""
    widths = (3, 4, 5)

    def inputs(s: Sizes, seed: int) -> Named:
        filters, channels = s["F"], s["C"]
        found = {"x": Normal((s["B"], s["L"], channels), seed), "dy": Normal((s["B"], 3 * filters), seed + 1)}
        for k in widths:
            found[f"w{k}"] = Normal((filters, k, channels), seed + k, 1 / math.sqrt(k * channels))
            found[f"b{k}"] = Normal((filters,), seed + 2 * k, 0.1)
        return found

    def channels_last(torch: Any, t: Named) -> Any:
        x, f = t["x"].permute(CHANNELS_FIRST).unsqueeze(2), torch.nn.functional
        weights = [t[f"w{k}"].permute(CHANNELS_FIRST).unsqueeze(2) for k in widths]
        parts = [f.conv2d(x, w, t[f"b{k}"]) for w, k in zip(weights, widths, strict=True)]
        return torch.cat([torch.relu(y).amax((2, 3)) for y in parts], 1)

    def conv1d(torch: Any, t: Named) -> Any:
        parts = [torch.nn.functional.conv1d(t["x"], t[f"w{k}"], t[f"b{k}"]) for k in widths]
        return torch.cat([torch.relu(y).amax(2) for y in parts], 1)

    def cost(s: Sizes, b: int) -> Cost:
        """x read in both passes and dx written; the products forward, as the backward pass is sparse."""
        taps = sum((s["L"] - k + 1) * k for k in widths)
        return Cost(3.0 * b * s["B"] * s["L"] * s["C"], 2.0 * s["B"] * taps * s["C"] * s["F"])

    operation = Operation(
        inputs, lambda t: gp.ops.conv1d_relu_max(t["x"], [(t[f"w{k}"], t[f"b{k}"]) for k in widths]),
        _plain(channels_last),
        Form(_plain(conv1d).make, dict.fromkeys(("x", *(f"w{k}" for k in widths)), CHANNELS_FIRST)),
    )  # fmt: skip
    sizes = {"B": 2048, "L": 56, "C": 300, "F": 100}
    return _case(
        "text_cnn_block", "text-CNN block f+b, large batch", "2048 x 56 x 300, widths 3, 4, 5 x 100 tf32",
        "tf32", operation, sizes, {"B": 64}, cost, {"eager": 4.0, "compiled": 2.5}, {"eager": 7.0},
    )  # fmt: skip


def gru_case(hidden: int, precision: str = "tf32") -> GpuCase:
    """One layer, one direction, over all time steps."""
    names = {"w": "weight_ih_l0", "u": "weight_hh_l0", "b": "bias_ih_l0", "c": "bias_hh_l0"}

    def weights(s: Sizes) -> Named:
        size, scale = s["H"], 1 / math.sqrt(s["H"])
        square = {n: Normal((3 * size, size), i, scale) for i, n in enumerate("wu")}
        return square | {n: Normal((3 * size,), i, scale) for i, n in enumerate("bc", 2)}

    def cudnn(torch: Any, known: Named) -> Callable[[Named], Any]:
        size = known["u"].shape[1]
        layer = torch.nn.GRU(size, size, batch_first=True).to(known["u"])
        for ours, theirs in names.items():
            setattr(layer, theirs, known[ours])
        layer.flatten_parameters()
        return lambda t: layer(t["x"])[0]

    def cost(s: Sizes, b: int) -> Cost:
        rows, size = s["B"] * s["L"], s["H"]
        return Cost(float(b * (5 * rows * size + 18 * size * size)), 3.0 * 2 * rows * 3 * size * 2 * size)

    operation = Operation(
        lambda s, seed: {n: Normal((s["B"], s["L"], s["H"]), seed + i) for i, n in enumerate(("x", "dy"))},
        lambda t: gp.ops.gru(t["x"], t["w"], t["u"], t["b"], t["c"])[0],
        Form(cudnn), weights=weights, orders={"w": (1, 0), "u": (1, 0)},
    )  # fmt: skip
    return _case(
        f"gru_{hidden}" + ("" if precision == "tf32" else f"_{precision}"), "GRU H <= 512 f+b",
        f"64 x 50 x {hidden} -> {hidden} {precision}", precision, operation,
        {"B": 64, "L": 50, "H": hidden}, {"B": 16}, cost, {"eager": 1.5}, {"eager": 3.0},
    )  # fmt: skip


def attention_case(length: int) -> GpuCase:
    """Scaled dot-product attention of 8 heads of 64."""
    operation = Operation(
        lambda s, seed: {
            n: Normal((s["B"], s["h"], s["L"], s["D"]), 4 * seed + i)
            for i, n in enumerate(("q", "k", "v", "dy"))
        },
        lambda t: gp.ops.scaled_dot_product_attention(t["q"], t["k"], t["v"]),
        _plain(
            lambda torch, t: torch.nn.functional.scaled_dot_product_attention(t["q"], t["k"], t["v"])
        ),
    )  # fmt: skip

    def cost(s: Sizes, b: int) -> Cost:
        rows = s["B"] * s["h"] * s["L"] * s["D"]
        return Cost(11.0 * b * rows, 14.0 * rows * s["L"])

    return _case(
        f"attention_{length}", "attention L <= 128 f+b", f"128 x 8 heads x {length} x 64 bf16", "bf16",
        operation, {"B": 128, "h": 8, "L": length, "D": 64}, {"B": 16}, cost, {"eager": 1.2}, {"eager": 1.8},
    )  # fmt: skip


def operation_cases() -> list[GpuCase]:
    """All rows of the first table, and one beside."""
    return [
        *cross_entropy_cases(), *convolution_cases(), adam_case(), embedding_case(),
        gru_case(256), gru_case(512), gru_case(512, "bf16"), attention_case(64), attention_case(128),
        feed_forward_case(),
    ]  # fmt: skip
