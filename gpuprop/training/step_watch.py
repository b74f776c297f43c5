"""What one training step did to each layer: norms of activations, gradients and updates, and dead units.

Everything stays on the device as numbers of one element until `values` is read.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from ..backend.arrays import Array, get_xp
from ..backend.gemm import sum_of_squares as _squares
from ..backprop import Node, Watcher
from ..nn.attribution import SHAPES, Layers
from ..optim.norm import squares as gradient_squares
from ..optim.optimizer import CHUNK
from ..tensors import Parameter

LOSS = "loss"
Values = dict[tuple[str, str], Any]


class StepWatch(Watcher):
    """Watches one step, which may have several backward passes.

    An operation counts for the layer whose parameters it uses; one that joins layers side by side (filters of
    several widths) counts for each with its columns; a ReLU counts for the operation before it.
    """

    def __init__(self, layers: Layers) -> None:
        self.layers = layers
        self._made: dict[Node, tuple[str, ...]] = {}
        self._outputs: dict[str, tuple[Any, int]] = {}  # Σ y², and how many y
        self._flows: dict[str, Any] = {}  # Σ (dL/dy)²
        self._alive: dict[str, Array] = {}
        self._before: dict[str, list[Array]] = {}
        self._behind: dict[Node, set[str]] = {}  # the layers that an output comes from
        self._edges: dict[tuple[str, str], None] = {}
        self._order: dict[str, int] = {}
        self._seeds: Any = 0.0
        self._newest = 0

    def recorded(self, node: Node, outputs: tuple[Any, ...], static: Any) -> None:
        self._record(node, outputs, static)

    def passing(self, node: Node) -> None:
        self._look_at(node)
        node.run_backward()

    def _record(self, node: Node, outputs: tuple[Any, ...], static: Any) -> None:
        name = node.op.__name__
        layers = () if name in SHAPES else self.layers.of(node)
        self._connect(node, layers)
        if layers:
            self._made[node] = layers
            for layer, y in self._columns(layers, outputs[0]):
                total, count = self._outputs.get(layer, (0.0, 0))
                self._outputs[layer] = (total + _squares(y), count + int(y.size))
        elif name == "ReLU" and node.edges[0] is not None:
            source = node.edges[0][0]
            layers = self._made.get(source, ()) if isinstance(source, Node) else ()
        if name in ("ReLU", "ConvReluMax") or static.get("relu"):
            self._count_alive(layers, outputs[0])

    def _look_at(self, node: Node) -> None:
        if node.index > self._newest:  # a new backward pass begins, with the loss
            self._seeds = self._seeds + _squares(node.grads[0])
            self._edges |= {(source, LOSS): None for source in self._behind.get(node, ())}
        self._newest = node.index
        dy = node.grads[0]
        if node in self._made and dy is not None:
            for layer, part in self._columns(self._made[node], dy):
                self._flows[layer] = self._flows.get(layer, 0.0) + _squares(part)

    def keep_parameters(self) -> None:
        """Copy what the optimizer is about to change."""
        for layer, parameters in self.layers.parameters.items():
            self._before[layer] = [_flat(p, p.data).copy() for p in parameters.values() if _trained(p)]

    def values(self) -> Values:
        """(layer, quantity) -> a number of one element, squared but for "dead"; after the update.

        "activation": mean of y²; "flow": Σ (dL/dy)² of the layer's outputs y, for a loss that is not scaled;
        "gradient", "weight" and "update": Σ over its parameters; "dead": the share of ReLU units that gave 0
        for the whole batch. Gradients are those that `gradients` saw, before clipping.
        """
        found: Values = {}
        for layer in self.layers.names:
            if layer in self._outputs:
                total, count = self._outputs[layer]
                found[layer, "activation"] = total / max(1, count)
            if layer in self._flows:
                found[layer, "flow"] = self._flows[layer] / self._seeds
            if layer in self._alive:
                found[layer, "dead"] = 1.0 - self._alive[layer].mean(dtype="float32")
            if self._before.get(layer):
                found |= self._updates(layer)
        return found

    def gradients(self) -> Values:
        """(layer, "gradient") -> Σ g² over its parameters, as it is now."""
        found: Values = {}
        for layer, parameters in self.layers.parameters.items():
            squares = [gradient_squares(p) for p in parameters.values() if _trained(p)]
            if squares:
                found[layer, "gradient"] = sum(squares)
        return found

    def graph(self) -> list[list[str]]:
        """[layer, layer that reads it] pairs, up to `LOSS`; a layer that reads later ones (in the next time
        step, say) is not shown to do so."""
        last = len(self._order)
        return [[a, b] for a, b in self._edges if self._order[a] < self._order.get(b, last)]

    def _connect(self, node: Node, layers: tuple[str, ...]) -> None:
        behind: set[str] = set()
        for edge in node.edges:
            if edge is not None and isinstance(edge[0], Node):
                behind |= self._behind.get(edge[0], set())
        for layer in layers:
            self._order.setdefault(layer, len(self._order))
            self._edges |= {(source, layer): None for source in sorted(behind) if source != layer}
        self._behind[node] = set(layers) or behind

    def _updates(self, layer: str) -> Values:
        now = [_flat(p, p.data) for p in self.layers.parameters[layer].values() if _trained(p)]
        found = [_moved(a, b) for a, b in zip(self._before[layer], now, strict=True)]
        return {
            (layer, "update"): sum(update for update, _ in found),
            (layer, "weight"): sum(weight for _, weight in found),
        }

    def _columns(self, layers: tuple[str, ...], y: Array) -> Iterator[tuple[str, Array]]:
        """The part of the last axis that belongs to each of several layers, by their first parameter."""
        if len(layers) == 1:
            yield layers[0], y
            return
        widths = [next(iter(self.layers.parameters[layer].values())).shape[0] for layer in layers]
        if sum(widths) != y.shape[-1]:
            return
        start = 0
        for layer, width in zip(layers, widths, strict=True):
            yield layer, y[..., start : start + width]
            start += width

    def _count_alive(self, layers: tuple[str, ...], y: Array) -> None:
        if not layers or y.ndim < 2:
            return
        for layer, part in self._columns(layers, y):
            alive = part.reshape(-1, part.shape[-1]).max(axis=0) > 0
            self._alive[layer] = alive | self._alive[layer] if layer in self._alive else alive


def _trained(p: Parameter) -> bool:
    return p.requires_grad and p.leaf.grad is not None


def _flat(p: Parameter, values: Any) -> Array:
    """The values of a parameter, or its gradient, one after another as they lie in memory."""
    return values.transpose(p.order).reshape(-1)


def _moved(old: Array, new: Array) -> tuple[Any, Any]:
    """Σ (new - old)² and Σ new², on a CPU by chunks that stay in its cache."""
    if get_xp(new) is not np:
        return _squares(new - old), _squares(new)
    scratch = np.empty(min(CHUNK, new.size), new.dtype)
    update = weight = 0.0
    for i in range(0, new.size, CHUNK):
        part = new[i : i + CHUNK]
        step = np.subtract(part, old[i : i + CHUNK], out=scratch[: part.size])
        update, weight = update + _squares(step), weight + _squares(part)
    return update, weight
