"""Module: a layer, or a model made of layers."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import partial
from typing import Any, ClassVar, TypeVar

import numpy as np

from ..backend.arrays import get_xp, to_device, to_host
from ..backend.device import Device, resolve
from ..backend.recording import depends, recording
from ..errors import CheckpointError
from ..tensors import Parameter

Self = TypeVar("Self", bound="Module")
Kind = TypeVar("Kind")
HOLDERS = (list, tuple, dict)  # attributes that may hold parameters and modules


class Module:
    """Base of layers and models.

    Subclasses set parameters and other modules as attributes (or in lists, tuples and dictionaries of them)
    and define `forward`; calling the module calls it. Parameters are found by walking the attributes in the
    order in which they were set; one that is used in two places (tied weights) counts once.
    """

    training: bool = True
    options_of_graphs: ClassVar[tuple[str, ...]] = ("training",)  # a captured step is for their values

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        raise NotImplementedError(f"{type(self).__name__} needs a forward")

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        if recording() is not None:
            self.note_mode()
        return self.forward(*args, **kwargs)

    def note_mode(self) -> None:
        """Tell a step that is being captured that it is for the mode the module is in, and the values of its
        other `options_of_graphs`; `__call__` does."""
        for name in self.options_of_graphs:
            depends((id(self), name), partial(getattr, self, name))

    def children(self) -> Iterator[tuple[str, Module]]:
        """(name, module) of each module directly inside this one."""
        for name, value in vars(self).items():
            if isinstance(value, Module):
                yield name, value
            elif isinstance(value, HOLDERS):
                yield from _inside(name, value, Module)

    def own_parameters(self) -> Iterator[tuple[str, Parameter]]:
        """(name, parameter) of each parameter directly inside this one."""
        for name, value in vars(self).items():
            if isinstance(value, Parameter):
                yield name, value
            elif isinstance(value, HOLDERS):
                yield from _inside(name, value, Parameter)

    def named_modules(self, prefix: str = "") -> Iterator[tuple[str, Module]]:
        """(dotted name, module) of this module and all inside it."""
        yield prefix, self
        for name, child in self.children():
            yield from child.named_modules(f"{prefix}.{name}" if prefix else name)

    def modules(self) -> Iterator[Module]:
        """This module and all inside it."""
        for _, module in self.named_modules():
            yield module

    def named_parameters(self) -> Iterator[tuple[str, Parameter]]:
        """(dotted name, parameter) of this module and all inside it, each parameter once."""
        seen: set[int] = set()
        for prefix, module in self.named_modules():
            for name, parameter in module.own_parameters():
                if id(parameter) not in seen:
                    seen.add(id(parameter))
                    yield f"{prefix}.{name}" if prefix else name, parameter

    def parameters(self) -> Iterator[Parameter]:
        """All parameters, each once."""
        for _, parameter in self.named_parameters():
            yield parameter

    def num_parameters(self) -> int:
        """Number of trained values."""
        return sum(p.size for p in self.parameters())

    def train(self: Self, mode: bool = True) -> Self:
        """Training behaviour (dropout on); returns self."""
        for module in self.modules():
            module.training = mode
        return self

    def eval(self: Self) -> Self:
        """Evaluation behaviour (dropout off); returns self."""
        return self.train(False)

    def zero_grad(self) -> None:
        """Forget all gradients."""
        for parameter in self.parameters():
            parameter.grad = None

    def to(self: Self, device: str | Device) -> Self:
        """Move the parameters to a device; returns self. Make the optimizer afterwards."""
        target = resolve(device)
        for parameter in self.parameters():
            moved = to_device(parameter.data.transpose(parameter.order), target)
            parameter.data = parameter.as_seen(moved)
            parameter.leaf.set_buffer(None)
        return self

    def state_dict(self) -> dict[str, np.ndarray[Any, Any]]:
        """Name -> copy on the host, shaped as users see it (`Linear.weight` is (out, in))."""
        return {name: np.array(to_host(p.data), order="C") for name, p in self.named_parameters()}

    def load_state_dict(self, state: Mapping[str, Any], strict: bool = True) -> tuple[list[str], list[str]]:
        """Copy values into the parameters. Returns (missing, unexpected) names.

        Raises CheckpointError, before anything is changed, for a wrong shape and, with strict, for names that
        are missing or unexpected.
        """
        own = dict(self.named_parameters())
        missing = [name for name in own if name not in state]
        unexpected = [name for name in state if name not in own]
        problems = [f"missing: {few(missing)}"] if strict and missing else []
        problems += [f"unexpected: {few(unexpected)}"] if strict and unexpected else []
        shapes = [
            f"{name} has shape {tuple(state[name].shape)}, the model expects {p.shape}"
            for name, p in own.items()
            if name in state and tuple(state[name].shape) != p.shape
        ]
        problems += shapes[:2] + ([f"and {len(shapes) - 2} more shapes"] if len(shapes) > 2 else [])
        if problems:
            raise CheckpointError(f"the weights do not fit {type(self).__name__}: {'; '.join(problems)}")
        for name, p in own.items():
            if name in state:
                p.data[...] = get_xp(p.data).asarray(to_host(state[name]))
        return missing, unexpected

    def extra_repr(self) -> str:
        """What stands in the parentheses of the layer's repr."""
        return ""

    def __repr__(self) -> str:
        return _describe(self, "", set())[0]


def _inside(name: str, value: Any, kind: type[Kind]) -> Iterator[tuple[str, Kind]]:
    """("name.key", entry) of the entries of this kind in a list, tuple or dictionary, at any depth."""
    for key, item in value.items() if isinstance(value, dict) else enumerate(value):
        if isinstance(item, kind):
            yield f"{name}.{key}", item
        elif isinstance(item, HOLDERS):
            yield from _inside(f"{name}.{key}", item, kind)


def few(names: list[str]) -> str:
    """The first names of a list that may be long."""
    return ", ".join(names[:5]) + (f" and {len(names) - 5} more" if len(names) > 5 else "")


def _describe(module: Module, indent: str, seen: set[int]) -> tuple[str, int]:
    """The repr of a module and how many values it trains; parameters seen before (tied) count 0."""
    own = 0
    for _, parameter in module.own_parameters():
        if id(parameter) not in seen:
            seen.add(id(parameter))
            own += parameter.size
    lines = []
    for name, child in module.children():
        text, size = _describe(child, indent + "  ", seen)
        lines.append(f"{indent}  ({name}): {text}")
        own += size
    head = f"{type(module).__name__}({module.extra_repr()}"
    count = f"  # {own:,}" if own else ""
    if not lines:
        return f"{head}){count}", own
    return "\n".join([f"{head}{count}", *lines, f"{indent})"]), own


class Sequential(Module):
    """Layers applied one after another."""

    def __init__(self, *layers: Module) -> None:
        for layer in layers:
            if not isinstance(layer, Module):
                raise TypeError(f"Sequential takes modules, not {type(layer).__name__}")
        self.layers = list(layers)

    def forward(self, x: Any) -> Any:
        for layer in self.layers:
            x = layer(x)
        return x

    def children(self) -> Iterator[tuple[str, Module]]:
        for i, layer in enumerate(self.layers):
            yield str(i), layer

    def __getitem__(self, index: int) -> Module:
        return self.layers[index]

    def __len__(self) -> int:
        return len(self.layers)


class ModuleList(Module):
    """A list of modules."""

    def __init__(self, modules: Any = ()) -> None:
        self.items: list[Module] = list(modules)

    def append(self, module: Module) -> ModuleList:
        self.items.append(module)
        return self

    def children(self) -> Iterator[tuple[str, Module]]:
        for i, module in enumerate(self.items):
            yield str(i), module

    def __getitem__(self, index: int) -> Module:
        return self.items[index]

    def __len__(self) -> int:
        return len(self.items)

    def __iter__(self) -> Iterator[Module]:
        return iter(self.items)
