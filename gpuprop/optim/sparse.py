"""SparseAdam: Adam of the rows of tables that occur in a batch."""

from __future__ import annotations

import math
from collections.abc import Mapping
from functools import partial
from typing import Any, ClassVar

import numpy as np

from ..backend.arrays import Array
from ..backend.threads import over_rows
from ..errors import CheckpointError
from ..row_gradient import RowGradient
from .adam import Adam
from .arena import Table
from .optimizer import CHUNK, PASSES

TYPES = ("float32", "float64")


class SparseAdam(Adam):
    """Adam in which a row of a table is updated, moments and all, only when it occurs in the gradient; as
    torch.optim.SparseAdam, with one count of steps for all. For tables of `nn.Embedding(sparse=True)`.

        p ← p - lr √(1 - β₂ᵗ) / (1 - β₁ᵗ) m / (√v + ε)     in those rows, m and v as Adam's

    which differs from Adam in ε, too (Kingma and Ba 2015, end of section 2). A step costs what its rows cost,
    not what the table does. A row that does not occur keeps its moments, where Adam would let them fade and
    go on moving the row: results differ from Adam's.

    Of one optimizer for a whole model, groups with "sparse": False are updated as by AdamW; only those can
    have a weight_decay, which is 0 unless it is given.

        optim.SparseAdam([{"params": tables}, {"params": others, "sparse": False, "weight_decay": 0.01}])

    All parameters are of one type, float32 or float64. `step` raises RuntimeError where the gradient of a
    table is not one of rows; making it ValueError for what is no table (rows, columns).
    """

    decoupled = True
    more_options: ClassVar[dict[str, Any]] = {"sparse": True}

    def __init__(
        self,
        parameters: Any,
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
    ) -> None:
        super().__init__(parameters, lr, betas, eps)

    def check_group(self, group: dict[str, Any]) -> None:
        if group["sparse"] and group["weight_decay"]:
            raise ValueError(
                f"a weight_decay of {group['weight_decay']} would change rows that are not in the gradient: "
                'only groups with "sparse": False take one'
            )
        for p in group["params"] if group["sparse"] else ():
            if p.ndim != 2 or p.order != (0, 1):
                raise ValueError(
                    f"SparseAdam updates rows of tables, and a parameter of shape {p.shape} is none: put "
                    'what is not of an nn.Embedding into a group with "sparse": False'
                )
        types = {p.dtype.name for g in (*self.param_groups, group) for p in g["params"]}
        if len(types) > 1 or types - set(TYPES):
            raise ValueError(
                f"SparseAdam takes parameters of one type, {' or '.join(TYPES)}, not "
                f"{', '.join(sorted(types))}; mixed precision keeps weights in float32"
            )

    def root_beside_eps(self, group: dict[str, Any], root: float) -> float:
        return math.sqrt(1.0 - group["betas"][1]) if group["sparse"] else root

    def _step_tables(self, group: dict[str, Any], state: dict[str, Array], tables: list[Table]) -> None:
        for p, grad, start in tables:
            rows = grad.coalesce()
            moments = [state[slot][start : start + p.size].reshape(p.shape) for slot in self.slots]
            work = partial(self._update_rows, group, rows, [p.data, *moments])
            over_rows(work, len(rows.ids), rows.values.size * PASSES)

    def _update_rows(
        self, group: dict[str, Any], rows: RowGradient, tables: list[Array], start: int, stop: int
    ) -> None:
        """Of the rows in the gradient those numbered start..stop, some at a time. tables: weights and both
        moments."""
        size = max(1, CHUNK // rows.shape[1])
        for i in range(start, stop, size):
            part = slice(i, min(i + size, stop))
            ids, g = rows.ids[part], rows.values[part].reshape(-1)
            p, *moments = (table[ids].reshape(-1) for table in tables)
            self.update(group, p, g, moments, np.empty_like(p))
            for table, new in zip(tables, (p, *moments), strict=True):
                table[ids] = new.reshape(len(ids), rows.shape[1])

    def load_state_dict(self, saved: Mapping[str, Any]) -> None:
        for k, (group, arena) in enumerate(zip(saved["groups"], self.arenas, strict=False)):
            if arena.sparse and group.get("weight_decay"):
                raise CheckpointError(
                    f"the saved state has a weight_decay of {group['weight_decay']} for tables (group "
                    f"{k}), which SparseAdam does not decay: it is of another optimizer"
                )
        super().load_state_dict(saved)
        for group, arena in zip(self.param_groups, self.arenas, strict=True):
            group["sparse"] = arena.sparse
