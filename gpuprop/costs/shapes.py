"""Whether the shapes that `gp.cost` is given fit each other, as the operations themselves want them."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

from ..errors import ShapeError
from .measure import Spec

# Each input as errors of operations write it. A letter is one size throughout, 3H three times H, "..." any
# axes, the same throughout, * any axes, first or last.
CELL = "x (B, T, I)", "weight_ih ({n}H, I)", "weight_hh ({n}H, H)", "bias_ih ({n}H,)", "bias_hh ({n}H,)"
FORMS: dict[str, tuple[str, ...]] = {
    "additive_attention_weights": ("query (B, T, H)", "key (B, S, H)", "v (H,)"),
    "attention": ("query (..., T, D)", "key (..., S, D)", "value (..., S, Dv)"),
    "attention_weights": ("query (..., T, D)", "key (..., S, D)"),
    "embedding": ("ids (*)", "table (V, D)"),
    "glu": ("x (..., 2C)",),
    "gru": (*(form.format(n=3) for form in CELL), "h0 (B, H)"),
    "layer_norm": ("x (..., D)", "weight (D,)", "bias (D,)"),
    "linear": ("x (..., I)", "weight (O, I)", "bias (O,)"),
    "linear_cross_entropy": ("x (..., D)", "linear_weight (C, D)", "targets (...)"),
    "lstm": (*(form.format(n=4) for form in CELL), "h0 (B, H)", "c0 (B, H)"),
    "matmul": ("a (*, M, K)", "b (*, K, N)"),
    "max_over_time": ("x (B, L, C)", "mask (B, L)"),
    "mean_over_time": ("x (B, L, C)", "mask (B, L)"),
    "pack": ("x (B, L, *)", "mask (B, L)"),
    "pack_labels": ("labels (B, L)", "mask (B, L)"),
    "packing_of": ("mask (B, L)",),
    "residual_layer_norm": ("x (..., D)", "residual (..., D)", "weight (D,)", "bias (D,)"),
    "scaled_dot_product_attention": ("query (..., T, D)", "key (..., S, D)", "value (..., S, Dv)"),
    "softmax_cross_entropy": ("logits (..., C)", "targets (...)"),
    "unpack": ("x (N, *)", "mask (B, L)"),
}
SIZE = re.compile(r"(\d*)(\w+)")


def fit(name: str, inputs: Sequence[Any]) -> None:
    """Raise ShapeError unless the inputs of operation `name` fit each other; those that are no arrays count
    for nothing."""
    forms = _layers(len(inputs)) if name == "feed_forward" else FORMS.get(name, ())
    given = [(form, x) for form, x in zip(forms, inputs, strict=False) if isinstance(x, Spec)]
    known: dict[str, Any] = {}
    for form, x in given:
        if not _bind(form.partition("(")[2].rstrip("),").replace(" ", ""), x.shape, known):
            raise ShapeError(
                f"{name} expects {', '.join(form.replace('*', '...') for form, _ in given)} but got "
                f"{', '.join(str(x.shape) for _, x in given)}"
            )


def _layers(count: int) -> tuple[str, ...]:
    """Of x and `count` - 1 weights and biases one after another."""
    sizes = range(1, (count - 1) // 2 + 1)
    pairs = [(f"weight{i} (O{i}, O{i - 1})", f"bias{i} (O{i},)") for i in sizes]
    return "x (..., O0)", *(form for pair in pairs for form in pair)


def _bind(form: str, shape: tuple[int, ...], known: dict[str, Any]) -> bool:
    """Whether a shape is of this form, such as "...,T,D", by what is known of the letters; adds what they are
    to it."""
    axes = form.split(",")
    if axes[0] in ("...", "*"):
        lead, axes = axes[0], axes[1:]
        if len(shape) < len(axes):
            return False
        rest, shape = shape[: len(shape) - len(axes)], shape[len(shape) - len(axes) :]
        if lead == "..." and known.setdefault(lead, rest) != rest:
            return False
    if axes and axes[-1] == "*":
        axes = axes[:-1]
        shape = shape[: len(axes)]
    if len(axes) != len(shape):
        return False
    for axis, size in zip(axes, shape, strict=True):
        times, letter = SIZE.fullmatch(axis).groups()  # type: ignore[union-attr]
        one, left = divmod(size, int(times or 1))
        if left or known.setdefault(letter, one) != one:
            return False
    return True
