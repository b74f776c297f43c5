"""What `gp.cost` says of packed rows is what the fake GPU counts, captured or not; and of indices."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from typing import Any

import numpy as np
import pytest
from test_predicted_costs import NUMBERS, counted

import gpuprop as gp
from gpuprop import ops
from gpuprop.backend.recording import Recording
from gpuprop.costs import Cost

SHAPE = (4, 9)
REAL = np.arange(9) < np.array([9, 5, 1, 7])[:, None]
COUNT = int(REAL.sum())
ALL = np.ones(SHAPE, bool)


def captured(on: bool) -> AbstractContextManager[None]:
    """Inside, a step is recorded, if `on`."""
    return Recording(gp.get_xp(gp.tensor([1.0]).data)).current() if on else nullcontext()


def compare(
    machine: Any, found: Cost, act: Callable[[], Any], recorded: bool, unread: tuple[int, int] = (0, 0)
) -> None:
    """unread: bytes forward and backward that the fake GPU counts of arrays from which rows are taken, and
    that are not read."""
    with captured(recorded):
        machine.costs.clear()
        y = act()
        forward = counted(machine)
        backward = 0, 0
        if isinstance(y, gp.Tensor):
            dy = gp.get_xp(y.data).ones(y.shape, y.dtype)
            machine.costs.clear()
            y.backward(dy)
            backward = counted(machine)
    for part, (launches, moved), more in zip(
        (found.forward, found.backward), (forward, backward), unread, strict=True
    ):
        assert part.launches == launches
        assert 0 <= moved - more - part.bytes <= NUMBERS * launches


@pytest.mark.parametrize("rows", [None, COUNT, REAL.size])
@pytest.mark.parametrize("rest", [(64,), (3, 40), ()], ids=str)
@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_rows_are_packed_and_put_back(
    fake_gpu: Any, dtype: str, rest: tuple[int, ...], rows: int | None
) -> None:
    x = gp.tensor(np.ones((*SHAPE, *rest), dtype), requires_grad=True)
    packed = gp.tensor(np.ones((rows or REAL.size, *rest), dtype), requires_grad=True)
    with captured(rows is None):  # made once, before
        mask = gp.tensor(REAL).data if rows is None else ALL if rows == REAL.size else REAL
        packing = ops.packing_of(mask, x)
    padding = (REAL.size - (rows or REAL.size)) * int(np.prod(rest)) * np.dtype(dtype).itemsize
    count = {} if rows is None else {"rows": rows}
    for op, given, unread in ((ops.pack, x, (padding, 0)), (ops.unpack, packed, (0, padding))):
        found = gp.cost(op, given, SHAPE, **count)
        compare(fake_gpu, found, partial(op, given, packing), rows is None, unread)
        row = next(r for r in gp.explain(op(given, packing).sum()).rows if r.operation in ("Pack", "Unpack"))
        assert found.backward.flops == row.flops == given.size
        moved = op is ops.unpack or rows is not None
        assert found.forward.flops == moved * (x.size if op is ops.unpack else packed.size)


def test_a_packing(fake_gpu: Any) -> None:
    x, mask = gp.tensor(np.ones((*SHAPE, 64), np.float32)), gp.tensor(REAL).data
    found = gp.cost(ops.packing_of, SHAPE, x)
    assert (found.forward.launches, found.forward.bytes) == (1, 8 * REAL.size)
    compare(fake_gpu, found, lambda: ops.packing_of(mask, x), True)
    compare(fake_gpu, gp.cost(ops.packing_of, SHAPE, x, rows=COUNT), lambda: ops.packing_of(REAL, x), False)


def test_packed_labels(fake_gpu: Any) -> None:
    labels = np.arange(REAL.size).reshape(SHAPE)
    on_device, mask = gp.tensor(labels).data, gp.tensor(REAL).data
    found = gp.cost(ops.pack_labels, SHAPE, SHAPE, -100)
    assert (found.forward.launches, found.forward.bytes) == (1, 17 * REAL.size)
    compare(fake_gpu, found, lambda: ops.pack_labels(on_device, mask, -100), True)
    on_host = gp.cost(ops.pack_labels, SHAPE, SHAPE, -100, rows=COUNT)
    compare(fake_gpu, on_host, lambda: ops.pack_labels(labels, REAL, -100), False)


@pytest.mark.parametrize("rows", [-1, REAL.size + 1])
def test_more_rows_than_there_are(rows: int) -> None:
    with pytest.raises(
        gp.ShapeError, match=rf"pack: a mask \(4, 9\) has from 0 to 36 real tokens, not {rows}"
    ):
        gp.cost(ops.pack, (*SHAPE, 64), SHAPE, rows=rows)


def test_an_index_reads_what_it_asks_for() -> None:
    found = gp.cost(ops.getitem, (1 << 20, 64), (5,))
    assert found.forward.bytes == 2 * 5 * 64 * 4 + 5 * 8
    assert gp.cost(ops.getitem, (1 << 20, 64), (slice(9), 2)).forward.launches == 0


def test_an_index_of_bools_hangs_on_its_values() -> None:
    with pytest.raises(ValueError, match="an index of bools hangs on how many are True"):
        gp.cost(ops.getitem, (*SHAPE, 64), REAL)
