"""What looks on while a model trains, between the parts of a step."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ..nn.module import Module
from ..tensors import Tensor


class Observer:
    """Is told of every optimizer step, in this order; what it does not define does nothing.

    Nothing here may wait for the device at every step.
    """

    def looks(self) -> bool:
        """Whether this step, which has begun, is looked at between its parts: it then is not one launch on a
        GPU, after which `after_backward` comes too late."""
        return type(self).after_backward is not Observer.after_backward

    def before_step(self, model: Module, step: int) -> None:
        """Step number `step`, from 1, begins; the gradients are still those of the step before (in float16 on
        a GPU times its loss scale)."""

    def after_backward(self) -> None:
        """The parameters have the gradients of this step, not clipped."""

    def after_step(self, norm: Tensor | None) -> None:
        """The parameters are updated. norm: of all gradients before clipping, where it was computed."""

    def state_dict(self) -> dict[str, Any]:
        """JSON values that a training which goes on needs, taken between two steps; {} for none."""
        return {}

    def load_state_dict(self, saved: Mapping[str, Any]) -> None:
        """Go on where `state_dict` was taken. Raises CheckpointError, before anything changes, for another
        state."""

    def finish(self) -> None:
        """Training is over, or has failed, perhaps in the middle of a step."""
