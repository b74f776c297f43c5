"""Weights to and from PyTorch, as dictionaries of arrays. PyTorch itself is never imported.

gp.interop.from_torch(torch_model.state_dict(), model)

arrays = gp.interop.to_torch(model)
torch_model.load_state_dict({name: torch.from_numpy(array) for name, array in arrays.items()})

Layers here have PyTorch's parameter names, gate order and shapes, except for what `LAYOUTS` lists. What a
model calls its layers is its own affair: `names` says which of PyTorch's names is which of the model's.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from .backend.arrays import get_xp, to_host
from .errors import CheckpointError
from .nn.conv import Conv1d
from .nn.module import Module, few
from .tensors import Parameter

LAYOUTS: dict[tuple[type[Module], str], tuple[int, ...]] = {
    (Conv1d, "weight"): (0, 2, 1),  # (out, kernel, in) here, (out, in, kernel) in PyTorch
}
"""For a kind of layer and the name of its parameter: our axes in PyTorch's order."""

Names = Mapping[str, str | None]


def from_torch(
    state_dict: Mapping[str, Any], model: Module, names: Names | None = None, strict: bool = True
) -> tuple[list[str], list[str]]:
    """Copy what a PyTorch model's `state_dict()` holds into `model`. Returns the names that are missing, the
    model's, and those that are unexpected, PyTorch's.

    state_dict: name -> PyTorch tensor on any device, or an array (of `gp.load`, say), in PyTorch's layout.
    The model keeps its device and its type of numbers.

    names: PyTorch's name -> the model's name, for what is called differently; each stands for all that begins
    with it, up to a dot ("" for everything), and the longest that fits counts. None: leave it out.

    A parameter that the model has under several names (tied weights) may come under any of them.

    Raises CheckpointError, before anything is changed, for a wrong shape, for values that differ where the
    model has one parameter, and, with strict, for names that are missing or unexpected.
    """
    given, problems = _ours(state_dict, names or {})
    slots = _slots(model)
    had = {id(slots[name].parameter) for name in given if name in slots}
    missing = [name for name, p in model.named_parameters() if id(p) not in had]
    unexpected = [entry.name for name, entry in given.items() if name not in slots]
    fitting = [(slots[name], entry) for name, entry in given.items() if name in slots]
    problems += [
        f"{entry.name} has shape {entry.values.shape}, the model expects {slot.shape} in PyTorch's layout"
        for slot, entry in fitting
        if entry.values.shape != slot.shape
    ]
    problems += [] if problems else _contradictions(fitting)
    if strict and (missing or unexpected):
        problems += [f"missing: {few(missing)}"] if missing else []
        problems += [f"unexpected: {few(unexpected)}"] if unexpected else []
        problems += ["say in `names` which of PyTorch's names is which of the model's"]
    if problems:
        raise CheckpointError(f"the weights do not fit {type(model).__name__}: {'; '.join(problems)}")
    for slot, entry in fitting:
        slot.put(entry.values)
    return missing, unexpected


def to_torch(model: Module, names: Names | None = None) -> dict[str, np.ndarray[Any, Any]]:
    """The model's weights under PyTorch's names in PyTorch's layout: copies on the host, as NumPy arrays.

    A tied parameter comes under each of its names, as in PyTorch's `state_dict()`. names: as for
    `from_torch`; the same dictionary serves for both. Raises ValueError for one that cannot be followed
    backwards.
    """
    return {
        theirs: np.array(slot.values(), order="C")
        for ours, slot in _slots(model).items()
        for theirs in _originals(ours, names or {})
    }


@dataclass(frozen=True)
class _Entry:
    """What PyTorch has: its name, and the values on the host in its layout."""

    name: str
    values: np.ndarray[Any, Any]


@dataclass(frozen=True)
class _Slot:
    """A parameter here, and its axes in PyTorch's order."""

    parameter: Parameter
    axes: tuple[int, ...]

    @property
    def shape(self) -> tuple[int, ...]:
        """In PyTorch's layout."""
        return tuple(self.parameter.shape[axis] for axis in self.axes)

    def values(self) -> np.ndarray[Any, Any]:
        return to_host(self.parameter.data).transpose(self.axes)

    def put(self, values: np.ndarray[Any, Any]) -> None:
        data = self.parameter.data
        data.transpose(self.axes)[...] = get_xp(data).asarray(values)


def _slots(model: Module) -> dict[str, _Slot]:
    """All names of all parameters; a tied one has several."""
    slots = {}
    for prefix, module in model.named_modules():
        for name, parameter in module.own_parameters():
            slots[_under(prefix, name)] = _Slot(parameter, _axes(module, name, parameter.ndim))
    return slots


def _axes(module: Module, name: str, count: int) -> tuple[int, ...]:
    for (kind, parameter), axes in LAYOUTS.items():
        if isinstance(module, kind) and name == parameter:
            return axes
    return tuple(range(count))


def _ours(state_dict: Mapping[str, Any], names: Names) -> tuple[dict[str, _Entry], list[str]]:
    """The entries by the model's names, and what is wrong with them."""
    if not isinstance(state_dict, Mapping):
        raise TypeError(
            f"from_torch takes a dictionary of arrays, not {type(state_dict).__name__}: call .state_dict()"
        )
    entries: dict[str, _Entry] = {}
    problems = []
    for theirs, value in state_dict.items():
        ours = _renamed(theirs, names)
        if ours is None:
            continue
        if ours in entries:
            problems.append(f"{entries[ours].name} and {theirs} both are {ours}")
        entries[ours] = _Entry(theirs, _host(theirs, value))
    return entries, problems


def _host(name: str, value: Any) -> np.ndarray[Any, Any]:
    """The values of a PyTorch tensor, or of any array, on the host."""
    if not hasattr(value, "shape"):
        raise CheckpointError(
            f"{name} is of type {type(value).__name__}, not an array. A training checkpoint often holds the "
            'weights inside: checkpoint["model"], say'
        )
    if not (hasattr(value, "detach") and hasattr(value, "cpu")):
        return to_host(value)
    value = value.detach().cpu()
    try:
        values: np.ndarray[Any, Any] = value.numpy()
    except TypeError:  # bfloat16, which NumPy does not have
        values = value.float().numpy()
    return values


def _contradictions(fitting: list[tuple[_Slot, _Entry]]) -> list[str]:
    """Where one parameter would get different values."""
    first: dict[int, _Entry] = {}
    problems = []
    for slot, entry in fitting:
        other = first.setdefault(id(slot.parameter), entry)
        if not np.array_equal(other.values, entry.values):
            problems.append(f"{other.name} and {entry.name} differ, but the model has them tied")
    return problems


def _renamed(theirs: str, names: Names) -> str | None:
    """The model's name for one of PyTorch's; None for what is left out."""
    prefix = max((p for p in names if _begins(theirs, p)), key=len, default=None)
    if prefix is None:
        return theirs
    target = names[prefix]
    return None if target is None else _moved(theirs, prefix, target)


def _originals(ours: str, names: Names) -> list[str]:
    """PyTorch's names for one of the model's: those that `_renamed` leads back from."""
    fits = [(p, target) for p, target in names.items() if target is not None and _begins(ours, target)]
    longest = max((len(target) for _, target in fits), default=0)
    found = [_moved(ours, target, p) for p, target in fits if len(target) == longest] or [ours]
    for theirs in found:
        back = _renamed(theirs, names)
        if back != ours:
            raise ValueError(f"names leads from {ours} to {theirs}, and from there to {back}")
    return found


def _begins(name: str, prefix: str) -> bool:
    return not prefix or name == prefix or name.startswith(prefix + ".")


def _moved(name: str, old: str, new: str) -> str:
    """`name` with its beginning `old` replaced."""
    return _under(new, name[len(old) :].removeprefix("."))


def _under(prefix: str, name: str) -> str:
    return f"{prefix}.{name}" if prefix and name else prefix or name
