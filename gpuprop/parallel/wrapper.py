"""DataParallel: a model whose gradients are averaged over the ranks, for training loops of one's own."""

from __future__ import annotations

from typing import Any

import numpy as np

from ..backend import random
from ..backend.arrays import get_xp
from ..errors import DataError
from ..nn.module import Module
from ..optim import Optimizer
from ..tensors import Tensor
from .agreement import check_alike, parameter_facts
from .current import current
from .data_parallel import GradientReducer
from .step_plan import exchange


class DataParallel(Module):
    """A model that all ranks train together.

        model = gp.parallel.DataParallel(model, optimizer)
        optimizer.zero_grad()
        loss = model.backward(lambda: criterion(model(x), y), rows=len(x))
        optimizer.step()

    Raises DataError where the ranks do not begin with the same weights and random state. gradient_type:
    "fp32", or "bf16" for half the traffic. Weights have the names that they have in `model`.
    """

    def __init__(self, model: Module, optimizer: Optimizer, gradient_type: str = "fp32") -> None:
        self.model = model
        group = current()
        self._reducer = GradientReducer(group, optimizer.arenas, gradient_type=gradient_type)
        self._group = group
        if group.size > 1:
            check_alike(group, parameter_facts(model))

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        return self.model(*args, **kwargs)

    def backward(self, loss: Any, rows: int, weight: float | None = None) -> Tensor:
        """Add the gradient of the mean loss over the rows of all ranks; returns that mean.

        loss: a function that computes the mean loss of this rank's `rows` rows; it is not called where there
        are none. weight: how much they count (default: rows; the number of target tokens, say). Dropout draws
        what one process would for all rows in the order of the ranks. Every rank calls it in every step.
        """
        if self._group.size == 1:
            value: Tensor = loss()
            value.backward()
            return value
        plan = exchange(self._group, [_Rows(rows)], lambda _: rows if weight is None else weight, 1)
        if not plan.weight > 0:
            raise DataError(f"the weights of all ranks add up to {plan.weight}; they must be above 0")
        self._reducer.begin()
        part: Any = 0.0
        if rows:
            share = float(plan.weights[plan.rank, 0]) / plan.weight
            with random.rows_from(plan.first_row(0)):
                value = loss()
                with self._reducer.overlapping():
                    value.backward(get_xp(value.data).full_like(value.data, share))
            part = value.data.astype(np.float64) * share
        return Tensor(self._reducer.finish(part))

    def state_dict(self) -> dict[str, np.ndarray[Any, Any]]:
        return self.model.state_dict()

    def load_state_dict(self, state: Any, strict: bool = True) -> tuple[list[str], list[str]]:
        return self.model.load_state_dict(state, strict)


class _Rows:
    """What `exchange` asks of a batch."""

    def __init__(self, size: int) -> None:
        self.size = size
