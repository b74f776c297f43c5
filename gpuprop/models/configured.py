"""Models that can be written down as a small dictionary and built again from it."""

from __future__ import annotations

import inspect
import math
from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

from ..errors import CheckpointError, DataError
from ..nn.module import Module

Self = TypeVar("Self", bound="ConfiguredModel")

MOST_ROWS = 1 << 24  # of an embedding: more than any vocabulary needs, small enough to refuse a damaged file
MOST_UNITS = 1 << 16
MOST_LAYERS = 64
MOST_VALUES = 1 << 32  # in one weight


class ConfiguredModel(Module):
    """A model whose constructor arguments are JSON values, checked when it is made.

    `config()` gives them; `from_config` builds an untrained model of the same form. Subclasses set `_config`.
    """

    _config: dict[str, Any]

    def config(self) -> dict[str, Any]:
        """The constructor's arguments by name, as JSON values."""
        return {name: list(v) if isinstance(v, tuple) else v for name, v in self._config.items()}

    @classmethod
    def from_config(cls: type[Self], config: Mapping[str, Any]) -> Self:
        """A new model from what `config()` gave. Raises CheckpointError for anything else: unknown or missing
        names, wrong types, sizes out of range. Nothing in the dictionary is run or trusted."""
        if not isinstance(config, Mapping):
            kind = type(config).__name__
            raise CheckpointError(f"a {cls.__name__} is described by a dictionary, not {kind}")
        parameters = inspect.signature(cls).parameters
        unknown = [str(name) for name in config if name not in parameters]
        missing = [n for n, p in parameters.items() if p.default is p.empty and n not in config]
        if unknown or missing:
            wrong = [f"unknown: {name}" for name in unknown] + [f"missing: {name}" for name in missing]
            raise CheckpointError(f"this does not describe a {cls.__name__}; {', '.join(wrong)}")
        try:
            return cls(**config)
        except DataError as error:
            raise CheckpointError(f"this does not describe a {cls.__name__}; {error}") from error
        except MemoryError as error:
            raise CheckpointError(f"a {cls.__name__} of these sizes does not fit in memory") from error


def whole(name: str, value: Any, most: int, least: int = 1) -> int:
    """`value` as an int from `least` to `most`, or DataError."""
    if isinstance(value, bool) or not hasattr(value, "__index__") or not least <= value.__index__() <= most:
        raise DataError(f"{name} must be a whole number from {least} to {most}, not {value!r}")
    return int(value)


def wholes(name: str, values: Any, most: int, longest: int = MOST_LAYERS) -> tuple[int, ...]:
    """A sequence of at most `longest` whole numbers from 1 to `most`, as a tuple, or DataError."""
    if isinstance(values, (str, bytes)) or not isinstance(values, Sequence) or len(values) > longest:
        shown = repr(values)[:80]
        raise DataError(f"{name} must be a list of at most {longest} whole numbers, not {shown}")
    return tuple(whole(f"each of {name}", value, most) for value in values)


def probability(name: str, value: Any) -> float:
    """`value` as a float from 0 to below 1, or DataError."""
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0.0 <= value < 1.0:
        raise DataError(f"{name} must be a number of at least 0 and below 1, not {value!r}")
    return float(value)


def positive_or_none(name: str, value: Any) -> float | None:
    """None, or `value` as a finite float above 0, or DataError."""
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0.0 < value < math.inf:
        raise DataError(f"{name} must be a number above 0 or None, not {value!r}")
    return float(value)


def choice(name: str, value: Any, choices: Sequence[str]) -> str:
    """`value` if it is one of `choices`, or DataError."""
    if not isinstance(value, str) or value not in choices:
        raise DataError(f"{name} must be one of {', '.join(choices)}, not {value!r}")
    return value


def truth(name: str, value: Any) -> bool:
    """`value` if it is True or False, or DataError."""
    if not isinstance(value, bool):
        raise DataError(f"{name} must be true or false, not {value!r}")
    return value


def check_table(name: str, rows: int, columns: int) -> None:
    """Raise DataError for a weight of absurdly many values."""
    if rows * columns > MOST_VALUES:
        raise DataError(f"{name} of {rows} x {columns} values is more than {MOST_VALUES}")
