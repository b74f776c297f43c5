"""Which layer of a model an operation belongs to, by the parameters it uses."""

from __future__ import annotations

from ..backprop import Edge, Leaf, Node
from ..tensors import Parameter
from .module import Module

SHAPES = ("Cast", "GetItem", "Reshape", "Transpose")  # of a parameter: still that parameter


class Layers:
    """The layers of a model that hold parameters.

    names: their dotted paths ("" for parameters of the model itself), in the model's order. parameters: those
    of each, every parameter once, with its own name.
    """

    def __init__(self, model: Module) -> None:
        self.parameters: dict[str, dict[str, Parameter]] = {}
        self._owners: dict[int, list[str]] = {}
        self._kinds: dict[str, str] = {}
        self._leaves: list[Leaf] = []  # keeps the ids above theirs
        for path, module in model.named_modules():
            self._kinds[path] = type(module).__name__
            for name, parameter in module.own_parameters():
                if id(parameter.leaf) not in self._owners:
                    self.parameters.setdefault(path, {})[name] = parameter
                    self._leaves.append(parameter.leaf)
                self._owners.setdefault(id(parameter.leaf), []).append(path)
        self.names = tuple(self.parameters)

    def of(self, node: Node) -> tuple[str, ...]:
        """The layer whose parameters the operation uses; several, in order, for one that joins layers side by
        side; () for one without parameters. A table that layers share counts where its kind fits, or first.
        """
        owners = [self._owners_of(edge) for edge in node.edges]
        found = [paths for paths in owners if paths]
        if not found:
            return ()
        common = [path for path in found[0] if all(path in paths for paths in found)]
        if common:
            return (self._best(common, node),)
        return tuple(dict.fromkeys(self._best(paths, node) for paths in found))

    def _best(self, paths: list[str], node: Node) -> str:
        kind = getattr(node.op, "__name__", "")
        return next((path for path in paths if self._kinds[path] == kind), paths[0])

    def _owners_of(self, edge: Edge | None) -> list[str]:
        while edge is not None and isinstance(edge[0], Node):
            if edge[0].op.__name__ not in SHAPES:
                return []
            edge = edge[0].edges[0]
        return [] if edge is None else self._owners.get(id(edge[0]), [])


def joined(layers: tuple[str, ...]) -> str:
    """Layers side by side in few letters: "convolutions.0 .1 .2"."""
    parents = {path.rpartition(".")[0] for path in layers}
    if len(layers) < 2 or len(parents) > 1:
        return ", ".join(layers)
    return " ".join([layers[0], *("." + path.rpartition(".")[2] for path in layers[1:])])
