"""What all optimizers share: groups, the arena, the walk over it, state."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from functools import partial
from typing import Any, ClassVar

import numpy as np

from ..backend import random
from ..backend.arrays import Array, get_xp, to_host
from ..backend.buffers import empty, lasting_zeros
from ..backend.floats import CAN_FLUSH, flushed, keep_freed_pages
from ..backend.recording import before, depends, number, recording
from ..backend.threads import over_rows
from ..errors import CheckpointError
from ..tensors import Parameter, Tensor
from .arena import Arena, Table
from .clip import check_max_norm, scale_gradients
from .fused import FusedAdam
from .norm import gradient_norm, in_kernels

PASSES = 4  # an update costs about as much as this many element-wise operations
CLEAR_EVERY, TINY = 64, 1e-31  # where subnormals cannot be flushed: steps, and what counts as zero
CHUNK = 1 << 17  # elements updated at a time on a CPU: what stays in cache, and enough to outweigh ten calls


class Optimizer:
    """Base of the optimizers. A subclass names its moments in `slots` and defines `update`.

    parameters: parameters, or groups `{"params": [...], "lr": ...}` with options of their own.
    Making an optimizer moves the parameters into one block of memory (their values do not change).
    Parameters without a gradient are left alone by `step`, moments included.

    Three things may be said before each `step`, which forgets them again. All are in device memory, so that
    no GPU is waited for:
    skip: a bool; where it is True, parameters, moments and `steps` stay as they are.
    grad_scale: a float32 (); the gradients were multiplied with it, and the step divides them again.
    norm: what `gradient_norm` gave for these gradients, so that `clip_grad_norm` need not compute it.
    """

    slots: ClassVar[tuple[str, ...]] = ()

    def __init__(
        self, parameters: Iterable[Parameter] | Iterable[dict[str, Any]], defaults: dict[str, Any]
    ) -> None:
        self.param_groups: list[dict[str, Any]] = []
        self.skip: Array | None = None
        self.grad_scale: Array | None = None
        self.norm: Array | None = None
        self._clip: tuple[Array | None, float] = (None, 1.0)  # norm of the gradients, and its limit
        entries = list(parameters)
        if not entries:
            raise ValueError("an optimizer needs at least one parameter")
        groups: list[dict[str, Any]] = [e for e in entries if isinstance(e, dict)] or [{"params": entries}]
        seen: set[int] = set()
        for group in groups:
            if "params" not in group:
                raise ValueError(
                    f"a parameter group is a dict with 'params'; got {', '.join(group) or 'nothing'}"
                )
            unknown = set(group) - set(defaults) - {"params"}
            if unknown:
                raise ValueError(f"{type(self).__name__} has no option {', '.join(sorted(unknown))}")
            full = {**defaults, **group, "params": _distinct(group["params"], seen)}
            for name, value in full.items():
                _check_option(type(self).__name__, name, value)
            self.check_group(full)
            self.param_groups.append(full)
        if any(get_xp(p.data) is np for group in self.param_groups for p in group["params"]):
            keep_freed_pages()
        self.arenas = [Arena(g["params"], g.get("sparse", False)) for g in self.param_groups]
        self.state: list[dict[str, Array]] = [
            {slot: lasting_zeros(get_xp(a.data), a.size, a.data.dtype) for slot in self.slots}
            for a in self.arenas
        ]
        self._count = get_xp(self.arenas[0].data).zeros(1, np.int64)

    def check_group(self, group: dict[str, Any]) -> None:
        """ValueError for a group that this optimizer cannot update, before anything changes."""

    def zero_grad(self) -> None:
        """Forget all gradients: the next backward overwrites them."""
        self.norm = None
        for group in self.param_groups:
            for p in group["params"]:
                p.grad = None

    @property
    def steps(self) -> int:
        """Steps taken (reading it waits for a GPU)."""
        return int(to_host(self._count)[0])

    @steps.setter
    def steps(self, count: int) -> None:
        self._count[...] = count

    def fused(self) -> FusedAdam | None:
        """The update as a kernel, where there is one and it can run."""
        return None

    def refresh(self) -> None:
        """Bring options that changed, such as the learning rate, to the device: before a captured step is
        replayed. `step` does it too."""
        fused = self.fused()
        if fused is not None:
            fused.refresh(self.param_groups)

    def clip_grad_norm(self, max_norm: float) -> Tensor:
        """Scale all gradients so that their joint 2-norm is at most max_norm, as `clip_grad_norm_` does.

        Returns the norm before. A kernel that updates scales on its way: `grad` then stays as it was.
        """
        check_max_norm(max_norm)
        norm = self.gradient_norm() if self.norm is None else self.norm
        if self.fused() is not None:
            self._clip = (norm, max_norm)
        else:
            self.unscale()
            scale_gradients((p for arena in self.arenas for p in arena.parameters), norm[1], max_norm)
        return Tensor(norm[1:].reshape(()))

    def gradient_norm(self) -> Array:
        """[Σ g², √(Σ g²)] (2,), of all gradients as they are and of those without `grad_scale`: neither is
        finite where a gradient is not."""
        if not in_kernels(self.arenas):
            self.unscale()
        return gradient_norm(self.arenas, self.grad_scale)

    def step(self) -> None:
        """Update every parameter that has a gradient, unless `skip` is set and True."""
        skip, self.skip, self.norm = self.skip, None, None
        fused = self.fused()
        if fused is not None:
            clip, self._clip = self._clip, (None, 1.0)
            scale, self.grad_scale = self.grad_scale, None
            before(id(self), self.refresh)
            fused.refresh(self.param_groups)
            fused.step(self.state, clip, scale, skip if skip is None else get_xp(skip).asarray(skip))
        else:
            self.unscale()
            self._step_arrays(skip)
        random.advance_step()

    def unscale(self) -> None:
        """Divide the gradients by `grad_scale`, where it is set, which `step` does otherwise."""
        scale, self.grad_scale = self.grad_scale, None
        if scale is None:
            return
        for arena in self.arenas:
            for start, stop in arena.spans():
                arena.grads[start:stop] /= scale.astype(arena.grads.dtype)
            for p, grad, _ in arena.tables():
                p.leaf.keep(grad.scaled(1 / scale))

    def _step_arrays(self, skip: Array | None) -> None:
        if skip is not None and get_xp(skip) is np:
            if skip:
                return
            skip = None
        tables = [list(arena.tables()) for arena in self.arenas]  # an error comes before anything changes
        self._count += 1
        with flushed():
            for group, arena, state, rows in zip(
                self.param_groups, self.arenas, self.state, tables, strict=True
            ):
                group = self._replayable(group, arena.data)
                for start, stop in arena.spans():
                    work = partial(self._update_range, group, arena, state, skip, start)
                    if get_xp(arena.data) is np:
                        over_rows(work, stop - start, (stop - start) * PASSES)
                    else:
                        work(0, stop - start)
                self._step_tables(group, state, rows)
        if skip is not None:
            self._count -= skip

    def _step_tables(self, group: dict[str, Any], state: dict[str, Array], tables: list[Table]) -> None:
        """Update the tables of a sparse arena, on a CPU; `SparseAdam` has such."""

    def _replayable(self, group: dict[str, Any], like: Array) -> dict[str, Any]:
        """The options of a group; the learning rate in device memory where a step is captured."""
        if recording() is None:
            return group
        name = f"{id(self)} {id(group)}"
        depends(f"options {name}", lambda: [v for n, v in group.items() if n not in ("params", "lr")])
        return {**group, "lr": number(f"lr {name}", lambda: group["lr"], like)}

    def _update_range(
        self,
        group: dict[str, Any],
        arena: Arena,
        state: dict[str, Array],
        skip: Array | None,
        base: int,
        start: int,
        stop: int,
    ) -> None:
        """Update elements base + start .. base + stop, on a CPU in chunks."""
        xp = get_xp(arena.data)
        chunk = CHUNK if xp is np else max(stop - start, 1)
        scratch = empty(xp, min(chunk, stop - start), arena.data.dtype)
        clear = xp is np and not CAN_FLUSH and self.steps % CLEAR_EVERY == 0
        for i in range(base + start, base + stop, chunk):
            j = min(i + chunk, base + stop)
            moments = [state[slot][i:j] for slot in self.slots]
            changed = [arena.data[i:j], *moments]
            before = [] if skip is None else [array.copy() for array in changed]
            self.update(group, arena.data[i:j], arena.grads[i:j], moments, scratch[: j - i])
            for array, old in zip(changed, before, strict=False):
                xp.copyto(array, old, where=skip)
            for moment in moments if clear else ():
                moment *= abs(moment) > TINY

    def update(self, group: dict[str, Any], p: Array, g: Array, moments: list[Array], t: Array) -> None:
        """Change p (n,) and the moments in place. g: gradient, not to be changed; t: scratch of p's size."""
        raise NotImplementedError

    def state_dict(self) -> dict[str, Any]:
        """{"steps": int, "groups": options, "arrays": name -> host array}, the moments one a parameter."""
        arrays = {
            f"{k}.{slot}.{i}": np.array(to_host(view), order="C")
            for k, (arena, state) in enumerate(zip(self.arenas, self.state, strict=True))
            for slot in self.slots
            for i, view in enumerate(arena.views(state[slot]))
        }
        groups = [{n: v for n, v in g.items() if n != "params"} for g in self.param_groups]
        return {"steps": self.steps, "groups": groups, "arrays": arrays}

    def load_state_dict(self, saved: Mapping[str, Any]) -> None:
        """Take over what `state_dict` gave. CheckpointError when it is of other parameters."""
        own = self.state_dict()
        theirs = saved["arrays"]
        shapes = {n: a.shape for n, a in own["arrays"].items()}
        if len(saved["groups"]) != len(self.param_groups) or shapes != {
            n: a.shape for n, a in theirs.items()
        }:
            raise CheckpointError(f"the saved {type(self).__name__} state is of other parameters")
        self.steps = int(saved["steps"])
        for k, (group, arena, state) in enumerate(
            zip(self.param_groups, self.arenas, self.state, strict=True)
        ):
            options = saved["groups"][k].items()  # JSON made lists of tuples
            group.update({n: tuple(v) if isinstance(v, list) else v for n, v in options})
            for slot in self.slots:
                for i, view in enumerate(arena.views(state[slot])):
                    view[...] = get_xp(view).asarray(theirs[f"{k}.{slot}.{i}"])

    def __repr__(self) -> str:
        options = ({n: v for n, v in g.items() if n != "params"} for g in self.param_groups)
        return f"{type(self).__name__}({'; '.join(str(o) for o in options)})"


def _distinct(parameters: Any, seen: set[int]) -> list[Parameter]:
    """The group's parameters, checked: each a Parameter and in one group once."""
    result = [parameters] if isinstance(parameters, Parameter) else list(parameters)
    for p in result:
        if not isinstance(p, Parameter):
            raise TypeError(f"an optimizer takes parameters, not {type(p).__name__}")
        if id(p) in seen:
            raise ValueError("a parameter appears twice")
        seen.add(id(p))
    if not result:
        raise ValueError("a parameter group is empty")
    return result


def _check_option(optimizer: str, name: str, value: Any) -> None:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return
    if not math.isfinite(value) or value < 0:
        raise ValueError(f"{optimizer}: {name} must be a finite number of at least 0, not {value!r}")


def seen_by(dtype: Any, eps: float) -> float:
    """ε as this type sees it: in float16 1e-8 would be zero, and a weight without gradient 0 / 0."""
    return max(eps, float(np.finfo(dtype).smallest_subnormal)) if dtype == np.float16 and eps else eps
