"""Whether all ranks are about to do the same: compared by digests before training, refused by name."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import numpy as np

from .. import errors
from ..backend import random
from ..errors import DataError, GpupropError
from ..nn.module import Module
from .group import Group

Result = TypeVar("Result")


def check_alike(group: Group, facts: Mapping[str, str]) -> None:
    """Raise DataError on every rank, naming the first fact that differs and the rank, unless all ranks have
    the same."""
    gathered = [json.loads(text) for text in group.gather_texts(json.dumps(dict(facts)))]
    first = gathered[0]
    for rank, theirs in enumerate(gathered):
        for name in [*first, *theirs]:
            if first.get(name) != theirs.get(name):
                raise DataError(
                    f"the ranks differ: rank {rank} has {name} {theirs.get(name, 'nothing')}, rank 0 has "
                    f"{first.get(name, 'nothing')}. Give every rank the same program, options and files"
                )


def parameter_facts(model: Module) -> dict[str, str]:
    """A digest of each array of the model, and of the random streams."""
    facts = {f"the parameter {name}": digest(array) for name, array in model.state_dict().items()}
    return facts | {"the random state": json.dumps(random.state.state_dict(), sort_keys=True)}


def digest(array: np.ndarray[Any, Any]) -> str:
    """The first half of the SHA-256 of an array's type, shape and values."""
    content = np.ascontiguousarray(array)
    head = f"{array.dtype} {array.shape} ".encode()
    return hashlib.sha256(head + content.tobytes()).hexdigest()[:32]


def on_first(group: Group, work: Callable[[], Result]) -> Result | None:
    """Let rank 0 alone do `work`; returns what it gives, None on the others. An error of ours that it raises
    is raised on every rank."""
    result, told = None, ""
    if group.rank == 0:
        try:
            result = work()
        except GpupropError as error:
            told = json.dumps([type(error).__name__, str(error)])
    told = group.gather_texts(told)[0]
    if told:
        kind, message = json.loads(told)
        found = getattr(errors, kind, GpupropError)
        raise found(message)
    return result
