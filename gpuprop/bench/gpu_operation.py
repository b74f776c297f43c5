"""An operation as work for the GPU bench, forward and backward, in either library."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

import gpuprop as gp

from .gpu_case import Peer
from .gpu_data import Normal, Sizes, Store, torch_dtype
from .gpu_work import MOST_SETS, Run, Work, sets_for, to_host

Named = dict[str, Any]
Axes = Mapping[str, tuple[int, ...]]
GRADIENT = "dy"  # of the result: not an input
CALLS = 3  # of a captured step: as it is, written down, replayed


@dataclass(frozen=True)
class Form:
    """make(torch, weights) gives what computes y from named tensors. layouts: the order of the axes, where
    PyTorch wants another, of an input or of "y"."""

    make: Callable[[Any, Named], Callable[[Named], Any]]
    layouts: Axes = field(default_factory=dict)


@dataclass(frozen=True)
class Operation:
    """inputs(sizes, seed): one set of named inputs, `Normal` or integers, "dy" among them where y is not one
    number; weights(sizes): what all sets share. ours: from named tensors to y. orders: of the axes of our
    weights in memory."""

    inputs: Callable[[Sizes, int], Named]
    ours: Callable[[Named], Any]
    theirs: Form
    usual: Form | None = None
    weights: Callable[[Sizes], Named] = field(default=lambda sizes: {})
    orders: Axes = field(default_factory=dict)
    backward: bool = True

    def our_work(self, sizes: Sizes, store: Store) -> Work:
        """On gpuprop's current device, numbers as `store` makes them."""
        weights = {
            name: gp.Parameter(values.on_device(store), self.orders.get(name))
            for name, values in self.weights(sizes).items()
        }
        for weight in weights.values():
            weight.requires_grad = self.backward

        def leaf(name: str, values: Any) -> Any:
            if not isinstance(values, Normal):
                return gp.tensor(values)
            return gp.tensor(values.on_device(store), requires_grad=self.backward and name != GRADIENT)

        itemsize = store(np.zeros(1, np.float32)).itemsize
        return self._work(sizes, itemsize, weights, leaf, self.ours, {})

    def their_work(self, peer: Peer, sizes: Sizes) -> Work:
        """The fastest that PyTorch has."""
        return self._torch(self.theirs, peer, sizes)

    def usual_work(self, peer: Peer, sizes: Sizes) -> Work:
        """As most write it for PyTorch."""
        return self._torch(self.usual or self.theirs, peer, sizes)

    def _torch(self, form: Form, peer: Peer, sizes: Sizes) -> Work:
        torch = peer.torch

        def leaf(name: str, values: Any) -> Any:
            if not isinstance(values, Normal):
                return torch.from_numpy(values).to(peer.device)
            tensor = values.in_torch(torch, peer.device, peer.precision)
            if name in form.layouts:
                tensor = tensor.permute(form.layouts[name]).contiguous()
            return tensor.requires_grad_(self.backward and name != GRADIENT)

        weights = {n: torch.nn.Parameter(leaf(n, v).detach()) for n, v in self.weights(sizes).items()}
        for weight in weights.values():
            weight.requires_grad_(self.backward)
        call = peer.wrap(form.make(torch, weights))
        itemsize = torch_dtype(torch, peer.precision).itemsize
        return self._work(sizes, itemsize, weights, leaf, call, form.layouts)

    def _work(
        self, sizes: Sizes, itemsize: int, weights: Named, leaf: Callable[[str, Any], Any],
        call: Callable[[Named], Any], layouts: Axes,
    ) -> Work:  # fmt: skip
        """Of either library: its tensors have the same methods."""
        first = self.inputs(sizes, 0)
        size = sum(v.size * (itemsize if isinstance(v, Normal) else v.itemsize) for v in first.values())
        sets: list[Named] = [
            {name: leaf(name, values) for name, values in self.inputs(sizes, seed).items()}
            for seed in range(sets_for(size, sizes.get("sets", MOST_SETS)))
        ]
        kept: Named = {}

        def step(i: int) -> None:
            leaves = {**sets[i], **weights}
            for tensor in leaves.values():
                if tensor.requires_grad:
                    tensor.grad = None
            y = call(leaves)
            if self.backward:
                y.backward(leaves.get(GRADIENT))
            if i == 0:
                kept["y"] = y

        def values(run: Run, most: int) -> Named:
            for _ in range(CALLS):
                run(0)
            found = {"y": kept["y"]}
            for name, tensor in {**sets[0], **weights}.items():
                if tensor.requires_grad:
                    found[f"d {name}"] = tensor.grad
            return {n: to_host(_back(x, layouts.get(n.removeprefix("d "))), most) for n, x in found.items()}

        return Work(step, [(i,) for i in range(len(sets))], values)


def _back(x: Any, axes: tuple[int, ...] | None) -> Any:
    """PyTorch's x with the axes in our order."""
    return x if axes is None else x.permute(tuple(np.argsort(axes).tolist()))
