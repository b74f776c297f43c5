"""Where the first value that is not finite comes from: which operation of which layer, and on which way."""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..backend.arrays import Array, get_xp, is_cupy, to_host
from ..backprop import Leaf, Node, Watcher, watching
from ..nn.attribution import Layers, joined
from ..nn.module import Module
from ..row_gradient import RowGradient
from ..tensors import Parameter


@dataclass(frozen=True)
class Finding:
    """What was not finite first. operation and layer are "" where none made it; text says it in words.
    overflow: gradients are finite, but the sum of their squares is not. known: whether anything was found.
    given: "batch" or "parameter" where it was there before the step."""

    text: str
    operation: str = ""
    layer: str = ""
    overflow: bool = False
    known: bool = True
    given: str = ""


class Found(Exception):
    """Ends the pass that is watched."""

    def __init__(self, finding: Finding) -> None:
        super().__init__(finding.text)
        self.finding = finding


@dataclass(frozen=True)
class _Seen:
    """A recorded operation: in which layer (that of its parameters, or else the module that called it),
    whether all its outputs are finite, and between which values."""

    layer: str
    finite: bool
    bounds: str


class Finder(Watcher):
    """Looks at every operation on both ways. Reading each array waits for the device: for one step only."""

    def __init__(self, model: Module) -> None:
        self.model, self.layers = model, Layers(model)
        self.inside: list[str] = []
        self.seen: dict[Node, _Seen] = {}

    def recorded(self, node: Node, outputs: tuple[Any, ...], static: Mapping[str, Any]) -> None:
        finite = all(is_finite(y) for y in outputs)
        layer = joined(self.layers.of(node)) or (self.inside[-1] if self.inside else "")
        self.seen[node] = _Seen(layer, finite, _bounds(outputs))

    def passing(self, node: Node) -> None:
        """The first gradient that is not finite although those it came from are."""
        before = all(g is None or is_finite(g) for g in node.grads)
        edges = [edge for edge in node.edges if edge is not None]
        node.run_backward()
        after = [t.grad if isinstance(t, Leaf) else t.grads[i] for t, i in edges]
        if before and not all(g is None or is_finite(g) for g in after):
            layer = self._layer(node)
            text = f"the gradient that {node.op.__name__} hands back{_in(layer)}"
            raise Found(Finding(text, node.op.__name__, layer))

    def check_loss(self, root: Any) -> None:
        """Raise Found for the operation that began it, if what the edge points at is not finite."""
        if root is None or not isinstance(root[0], Node) or self._finite(root[0]):
            return
        todo, reached, sources = [root[0]], {root[0]}, []
        while todo:
            node = todo.pop()
            inputs = [e[0] for e in node.edges if e is not None and isinstance(e[0], Node)]
            bad = [n for n in inputs if not self._finite(n)]
            if not bad:
                sources.append(node)
            todo += [n for n in bad if n not in reached]
            reached |= set(bad)
        first = min(sources, key=lambda node: node.index)
        name, layer = first.op.__name__, self._layer(first)
        bounds = [self.seen[e[0]].bounds for e in first.edges if e is not None and e[0] in self.seen]
        given = f", whose inputs are {', '.join(bounds)}" if bounds else ""
        raise Found(Finding(f"the output of {name}{_in(layer)}{given}", name, layer))

    @contextlib.contextmanager
    def looking(self) -> Iterator[None]:
        """Inside, recorded operations are looked at, and the layers they belong to are known."""
        wrapped = []
        for name, module in self.model.named_modules():
            if "forward" not in vars(module):
                vars(module)["forward"] = self._noting(name or type(module).__name__, module.forward)
                wrapped.append(module)
        try:
            with watching(self):
                yield
        finally:
            for module in wrapped:
                del vars(module)["forward"]

    def _noting(self, name: str, forward: Callable[..., Any]) -> Callable[..., Any]:
        def run(*args: Any, **kwargs: Any) -> Any:
            self.inside.append(name)
            try:
                return forward(*args, **kwargs)
            finally:
                self.inside.pop()

        return run

    def _finite(self, node: Node) -> bool:
        return node not in self.seen or self.seen[node].finite

    def _layer(self, node: Node) -> str:
        return self.seen[node].layer if node in self.seen else ""


def find_first(model: Module, run: Callable[[Finder], None], values: Mapping[str, Any]) -> Finding:
    """What is not finite first: one of `values` (the batch's arrays by name), a parameter, or what comes up
    in run(finder), which computes losses and gradients and calls finder.check_loss(loss.edge) between."""
    for name, value in values.items():
        if not is_finite(value):
            return Finding(f"the batch itself: {name}", given="batch")
    for name, parameter in model.named_parameters():
        if not is_finite(parameter.data):
            layer = name.rpartition(".")[0]
            return Finding(f"the parameter {name}, before the step", layer=layer, given="parameter")
    finder = Finder(model)
    _forget_gradients(model)  # the new ones would be added to those of the failed step
    try:
        with finder.looking():
            run(finder)
        found = _overflow(model)
    except Found as stopped:
        return stopped.finding
    finally:
        _forget_gradients(model)
    return found or Finding("nothing: the batch, computed once more, gives finite values", known=False)


def _forget_gradients(model: Module) -> None:
    for parameter in model.parameters():
        parameter.grad = None


def _overflow(model: Module) -> Finding | None:
    """The layer with the largest gradient, where the sum of the squares of all is beyond their type."""
    norms: dict[str, float] = {}
    limit = math.inf
    for name, parameter in model.named_parameters():
        if parameter.leaf.grad is not None:
            layer = name.rpartition(".")[0]
            norms[layer] = math.hypot(norms.get(layer, 0.0), _norm(to_host(parameter.leaf.grad)))
            limit = min(limit, math.sqrt(float(np.finfo(parameter.leaf.grad.dtype).max)))
    if math.hypot(*norms.values()) < limit * (1 - 1e-3):  # the device adds up with errors of rounding
        return None
    layer = max(norms, key=lambda name: norms[name])
    text = f"the sum of the squares of all gradients. The largest is that{_in(layer)}: its norm is "
    return Finding(f"{text}{norms[layer]:.3g}, and its square overflows", layer=layer, overflow=True)


def _norm(array: np.ndarray[Any, Any]) -> float:
    """2-norm, without overflow on the way: of parts of the largest value."""
    largest = float(np.abs(array).max(initial=0.0))
    if largest == 0.0:
        return 0.0
    parts = array.astype(np.float64).reshape(-1) / largest
    return largest * math.sqrt(float(parts.dot(parts)))


def is_finite(array: Any) -> bool:
    """Whether an array of any type on any device holds no NaN or infinity; other things are finite."""
    dtype = getattr(array, "dtype", None)
    if dtype is None or dtype.kind in "biuUSO":
        return True
    data = array.data if isinstance(array, Parameter) else array
    data = data.values if isinstance(data, RowGradient) else data
    return bool(get_xp(data).isfinite(data).all())


def _bounds(outputs: tuple[Array, ...]) -> str:
    """ "0 to 3.2" for the values of an operation."""
    arrays = [to_host(y) if is_cupy(y) else y for y in outputs if y.size and y.dtype.kind not in "b"]
    if not arrays:
        return "empty"
    return f"{min(float(y.min()) for y in arrays):.3g} to {max(float(y.max()) for y in arrays):.3g}"


def _in(layer: str) -> str:
    return f" in layer {layer}" if layer else ""
