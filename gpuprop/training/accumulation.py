"""One optimizer step over several batches: their gradients are added up before the weights change."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import islice
from typing import Any

from ..backend import random
from ..backend.half import is_half
from ..errors import DataError
from ..ops import cast
from ..tensors import Tensor
from .precision import Precision


def groups_of(batches: Iterable[Any], size: int) -> Iterator[list[Any]]:
    """The batches in lists of `size`, the last of which may be shorter. Takes none before it is needed."""
    iterator = iter(batches)
    while group := list(islice(iterator, size)):
        yield group


def backward_of_mean(
    loss: Callable[[Any], Tensor],
    count: Callable[[Any], float],
    batches: Sequence[Any],
    precision: Precision | None = None,
) -> list[tuple[Tensor, float]]:
    """Add the gradient of the mean loss over all of `batches`,   L = Σ_k n_k L_k / Σ_k n_k,   to the
    parameters; returns (L_k, n_k) of each batch k.

    loss(batch) is the mean L_k over n_k = count(batch) rows or tokens, so that L and its gradient are those
    of one large batch. Dropout draws the masks of that batch where the parts are padded to its length.
    precision: scales the gradient, where it has a scale.
    """
    precision = precision or Precision()
    if len(batches) == 1:
        value = float_loss(loss(batches[0]))
        value.backward(precision.scaled(value))
        return [(value, count(batches[0]))]
    counts = [count(batch) for batch in batches]
    total = sum(counts)
    if not total > 0:
        raise DataError(f"count gives {total} for the {len(batches)} batches of a step; it must be above 0")
    done, row = [], random.state.row_offset
    for batch, share in zip(batches, counts, strict=True):
        with random.rows_from(row):
            value = float_loss(loss(batch))
            value.backward(precision.scaled(value, share / total))
        row += getattr(batch, "size", 1)
        done.append((value, share))
    return done


def backward_of_shares(
    loss: Callable[[Any], Tensor], batches: Sequence[Any], shares: Any, precision: Precision
) -> list[Tensor]:
    """`backward_of_mean`, with what each batch counts of the step in device memory: shares (k,), or None for
    one batch. Returns the losses."""
    done, row = [], random.state.row_offset
    for k, batch in enumerate(batches):
        with random.rows_from(row):
            value = float_loss(loss(batch))
            start = precision.scaled(value)
            value.backward(start if shares is None else start * shares[k].astype(start.dtype, copy=False))
        row += getattr(batch, "size", 1)
        done.append(value)
    return done


def float_loss(loss: Tensor) -> Tensor:
    """A loss of a half type as float32: the scale of mixed precision is beyond float16."""
    return cast(loss, "float32") if is_half(loss.dtype) else loss
