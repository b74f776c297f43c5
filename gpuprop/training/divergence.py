"""Tells once of gradients that vanish or explode, and of a training whose loss and weights run away.

Every step of the first ten and every tenth after them leaves its norms in device memory; they are judged when
the host looks. A saturated network (tanh of huge weights, dead ReLUs) has no large gradients any more, so
that after an explosion the weights and the loss tell what happened, and the gradients only what followed.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from ..backend.arrays import Array, get_xp, to_host
from ..backend.gemm import sum_of_squares
from ..errors import CheckpointError
from ..nn.module import Module
from ..optim import Optimizer
from ..optim.norm import squares as gradient_squares
from ..tensors import Parameter, Tensor

NORMS_EVERY = 10  # steps between two looks, after the first so many
VANISHED, EXPLODED = 1e-8, 1e6  # of the first layer's gradient, relative to the last layer's
JUMP = 1e3  # how often the usual norm is an explosion
ABOVE_START = 10.0  # how often the first step's norm or loss belongs to one
GROWN = 2.0  # how often the first step's weights belong to one
USUAL = 5  # looks after which a norm is usual in a training whose first step was not seen
KEPT = 51  # norms that say what is usual


@dataclass(frozen=True)
class Look:
    """The norms of one step's gradients (of the first layer, the last one, all) and weights, and its loss."""

    step: int
    first: str
    last: str
    begin: float
    end: float
    whole: float
    weights: float
    loss: float

    @property
    def finite(self) -> bool:
        """False for a step of float16 that was skipped."""
        return all(map(math.isfinite, (self.begin, self.end, self.whole)))

    @property
    def norms(self) -> str:
        """In words."""
        return f"{self.begin:.1e} in layer {self.first} and {self.end:.1e} in layer {self.last}"


class Divergence:
    """See the file's text. warn is told."""

    def __init__(self, model: Module, optimizer: Optimizer, warn: Callable[[str], None]) -> None:
        self.model, self.optimizer, self.warn = model, optimizer, warn
        self._waiting: list[tuple[int, str, str, Array]] = []
        self._start: Look | None = None  # of step 1
        self._usual: list[float] = []
        self._vanished = 0  # looks in a row: at the first step a layer before weights of 0 has no gradient
        self._told: set[str] = set()

    def measure(self, step: int, losses: Sequence[Tensor], scale: Array | None = None) -> None:
        """Take the gradients of step `step`, before clipping and update, if it is to be looked at. scale:
        what they are multiplied with, float32 () in device memory."""
        if step > NORMS_EVERY and step % NORMS_EVERY != 1:
            return
        layers = list(_layers(self.model).items())
        if not layers:
            return
        (first, parts), (last, others) = layers[0], layers[-1]
        xp = get_xp(parts[0].data)
        groups = (parts, others, [p for _, layer in layers for p in layer])
        values: list[Any] = [sum(gradient_squares(p) for p in group) for group in groups]
        values = values if scale is None else [value / (scale * scale) for value in values]
        values.append(sum(sum_of_squares(arena.data) for arena in self.optimizer.arenas))
        values.append(sum(loss.data.astype("float32") for loss in losses) / len(losses))
        self._waiting.append((step, first, last, xp.stack([xp.asarray(v).reshape(()) for v in values])))

    def judge(self, clipped: bool) -> None:
        """Look at what was measured since the last time (waits for the device). clipped: gradients are, so
        that a large one does no harm by itself."""
        waiting, self._waiting = self._waiting, []
        for step, first, last, values in waiting:
            *squares, loss = to_host(values).tolist()
            begin, end, whole, weights = map(math.sqrt, squares)
            look = Look(step, first, last, begin, end, whole, weights, loss)
            if look.finite:
                self._judge(look, clipped)

    def state_dict(self) -> dict[str, Any]:
        """What a training that goes on is compared with, and what was told. Steps that were not judged yet
        are left out."""
        start = None if self._start is None else asdict(self._start)
        return {
            "start": start, "usual": self._usual, "vanished": self._vanished, "told": sorted(self._told),
        }  # fmt: skip

    def load_state_dict(self, saved: Mapping[str, Any]) -> None:
        """Go on where `state_dict` was taken."""
        check_divergence(saved)
        start = saved["start"]
        self._start = None if start is None else Look(**start)
        self._usual, self._vanished = list(saved["usual"]), saved["vanished"]
        self._waiting, self._told = [], set(saved["told"])

    def _judge(self, look: Look, clipped: bool) -> None:
        if look.step == 1 and math.isfinite(look.weights) and math.isfinite(look.loss):
            self._start = look
        ran_away = self._ran_away(look, clipped)
        if ran_away or self._exploded(look, clipped):
            self._tell("exploding", ran_away or self._explosion(look))
        self._vanished = self._vanished + 1 if look.end > 0 and look.begin < VANISHED * look.end else 0
        if self._vanished == 2 and "exploding" not in self._told:
            self._tell(
                "vanishing",
                f"gradients vanish: their norm is {look.norms}, so that the first layers hardly learn. Use "
                "fewer layers or shorter texts, other initial weights, layer normalisation, or gates (GRU, "
                "LSTM)",
            )
        self._usual = [*self._usual, look.whole][-KEPT:]

    def _ran_away(self, look: Look, clipped: bool) -> str:
        """What to say where loss and weights have left those of the first step far behind, else ""."""
        start = self._start
        if start is None or not look.loss > ABOVE_START * start.loss > 0:
            return ""
        if look.weights < GROWN * start.weights:
            return ""
        lr = self.optimizer.param_groups[0]["lr"]
        advice = " or warm it up" if clipped else ", warm it up, or clip gradients (clip norm 1, say)"
        return (
            f"training explodes: from step 1 to {look.step} the loss went from {start.loss:.3g} to "
            f"{look.loss:.3g} and the norm of the weights from {start.weights:.3g} to {look.weights:.3g}. "
            f"Lower the learning rate (now {lr:.3g}){advice}"
        )

    def _exploded(self, look: Look, clipped: bool) -> bool:
        if look.begin > EXPLODED * look.end > 0:
            return True
        usual = self._usual_norm()
        above_start = self._start is None or look.whole > ABOVE_START * self._start.whole
        return look.whole > JUMP * usual > 0 and above_start and not clipped

    def _explosion(self, look: Look) -> str:
        usual = self._usual_norm()
        before = f"; it was {usual:.1e} in all, now {look.whole:.1e}" if usual < math.inf else ""
        return (
            f"gradients explode: their norm is {look.norms}{before}. Clip gradients (clip norm 1, say) or "
            "lower the learning rate"
        )

    def _usual_norm(self) -> float:
        enough = 1 if self._start is not None else USUAL
        return statistics.median(self._usual) if len(self._usual) >= enough else math.inf

    def _tell(self, kind: str, text: str) -> None:
        if kind not in self._told:
            self._told.add(kind)
            self.warn(text)


def check_divergence(saved: Any) -> None:
    """Raise CheckpointError unless `saved` is what `Divergence.state_dict` gives."""
    if not (
        isinstance(saved, Mapping)
        and set(saved) == {"start", "usual", "vanished", "told"}
        and (saved["start"] is None or _is_look(saved["start"]))
        and isinstance(saved["usual"], list)
        and len(saved["usual"]) <= KEPT
        and all(map(_is_norm, saved["usual"]))
        and type(saved["vanished"]) is int
        and saved["vanished"] >= 0
        and isinstance(saved["told"], list)
        and all(type(kind) is str for kind in saved["told"])
    ):
        raise CheckpointError(f"the state of the guard is {str(saved)[:80]}")


def _is_look(saved: Any) -> bool:
    """Whether `Look(**saved)` is one."""
    norms, names = ("begin", "end", "whole", "weights"), ("first", "last")
    return (
        isinstance(saved, Mapping)
        and set(saved) == {"step", *names, *norms, "loss"}
        and type(saved["step"]) is int
        and all(type(saved[name]) is str for name in names)
        and all(_is_norm(saved[name]) for name in norms)
        and type(saved["loss"]) is float
    )


def _is_norm(value: Any) -> bool:
    return type(value) is float and 0.0 <= value < math.inf


def _layers(model: Module) -> dict[str, list[Parameter]]:
    """Layer -> its parameters that have a gradient, in the model's order."""
    layers: dict[str, list[Parameter]] = {}
    for name, parameter in model.named_parameters():
        if parameter.leaf.grad is not None:
            layers.setdefault(name.rpartition(".")[0], []).append(parameter)
    return layers
