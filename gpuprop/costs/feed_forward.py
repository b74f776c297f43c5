"""Affine maps with activations between them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np

from ..backend.cublaslt import aux_ld
from ..ops.activation_kernels import draws_whole_blocks
from ..ops.feed_forward import FeedForward
from .layers import affine, dropout, linear, weight_gradients
from .measure import Cost, Pass, Spec, both, gradient_flops, launch
from .simple import ELEMENTWISE, elementwise

Layer = tuple[Spec, Spec | None]


def feed_forward(
    x: Spec, *parameters: Any, activation: str = "relu", approximate: str = "tanh", dropout: float = 0.0,
    **_: Any,
) -> Cost:  # fmt: skip
    """A product each way for each layer, and one more for each weight, and with dropout a kernel forward; in
    float64, and for the exact GELU, kernels stand between. Dropout is a kernel of its own for the exact GELU
    and hidden layers of less than whole blocks of random numbers."""
    layers: list[Layer] = list(zip(parameters[::2], parameters[1::2], strict=True))
    relu, tanh = activation == "relu", approximate == "tanh"
    drops = dropout > 0.0
    if drops and not ((relu or tanh) and draws_whole_blocks(*(len(weight) for weight, _ in layers[:-1]))):
        return _apart(x, layers, relu, dropout)
    inside = x.dtype != np.float64 and (relu or tanh)
    inputs, kept, forward, own = [x.rows()], [], Pass(), 0
    for i, (weight, bias) in enumerate(layers):
        h, hidden = inputs[-1], i < len(layers) - 1
        y = h.like(len(h), weight.shape[0])
        beside = _beside(y, relu) if hidden and (inside or drops) else None
        forward += affine(h, weight, bias, y, hidden and relu, None if drops else beside)
        if hidden and drops:
            forward += launch(y, y, beside)
        elif hidden and not inside and not relu:
            forward, beside = forward + launch(y, y), y
        own += y.size * (2 * weight.shape[1] + (bias is not None) + hidden * (1 + drops))
        inputs.append(y)
        kept.append(beside)
    y = inputs.pop()
    saved = ("", 2.0 if drops else 1.0, x.shape, *inputs, *kept[:-1], *(weight for weight, _ in layers))
    flops = gradient_flops(FeedForward, saved, y, x, *parameters)
    backward = _backward(x, layers, inputs, kept, y, inside, drops)
    wanted = any(p is not None and p.needs_grad for p in (x, *parameters))
    return Cost(both([forward], own), both([backward], flops) if wanted else Pass())


def _beside(y: Spec, relu: bool) -> Spec:
    """What cublasLt keeps of y (N, C): a bit an element, or what went into GELU."""
    ld = aux_ld("relu" if relu else "gelu", y.shape[1])
    return y.like(len(y), ld // 8, dtype=np.uint8) if relu else y.like(len(y), ld)


def _backward(
    x: Spec, layers: list[Layer], inputs: list[Spec], kept: list[Spec | None], dz: Spec, inside: bool,
    drops: bool,
) -> Pass:  # fmt: skip
    found, summed = Pass(), False
    wanted = [any(p is not None and p.needs_grad for p in layer) for layer in layers]
    for i, (weight, bias) in reversed(list(enumerate(layers))):
        found += weight_gradients(inputs[i], weight, None if summed else bias, dz)
        before = inputs[i]
        if not x.needs_grad and not any(wanted[:i]):
            break
        if i and inside and len(weight) > 1:
            below = layers[i - 1][1]
            summed = below is not None and below.needs_grad
            found += launch(dz, weight, kept[i - 1], below if summed else None, before)
        else:
            found += launch(dz, weight, before) + (launch(before, before, before) if i else Pass())
            found += launch(before, before) if i and drops else Pass()
            summed = False
        dz = before
    return found


def _apart(x: Spec, layers: list[Layer], relu: bool, p: float) -> Cost:
    """The operations one after another."""
    costs: list[Cost] = []
    for i, (weight, bias) in enumerate(layers):
        hidden = i < len(layers) - 1
        costs.append(linear(x, weight, bias, activation="relu" if hidden and relu else None))
        needs = x.needs_grad or any(q is not None and q.needs_grad for q in (weight, bias))
        x = replace(x, shape=(*x.shape[:-1], len(weight)), needs_grad=needs)
        if hidden:
            costs += [] if relu else [elementwise(ELEMENTWISE["gelu"], x)]
            costs.append(dropout(x, p))
    return Cost(both(cost.forward for cost in costs), both(cost.backward for cost in costs))


FORMULAS: dict[str, Callable[..., Cost]] = {"feed_forward": feed_forward}
