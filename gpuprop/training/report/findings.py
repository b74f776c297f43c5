"""What stands out in the records of a training, in words."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from .charts import layer_names, share_of

FEW = 5  # records that say too little
HUGE, GROWN, EXPLODED = 1e3, 1e2, 1e3  # activations; how often those, and the gradient, of the first record
DEAD, CLIPPED, LEARNS_TOO_FAST, HARDLY_LEARNS, ENCODER, VANISHED = 0.5, 0.5, 0.1, 1e-6, 0.01, 1e-5

Record = Mapping[str, Any]


def findings_of(gradients: Sequence[Record], failure: Record | None = None) -> list[str]:
    """One sentence each, about the last quarter of the records; [] where nothing stands out. failure: see
    `failure_after`."""
    usable = sound(gradients, failure)
    found = [] if failure is not None else _not_finite(gradients)
    late = usable[-max(1, len(usable) // 4) :]
    if not late:
        return found
    strongest = _strongest(late)
    exploded = _exploded(usable[0], late)
    if exploded:  # saturated and dead units, and gradients that vanish, are what it left
        return found + exploded
    found += [sentence for name in layer_names(late) for sentence in _of_layer(name, late, strongest)]
    clipped = _mean([r.get("clipped") for r in late])
    if clipped is not None and clipped > CLIPPED:
        found.append(
            f"{100 * clipped:.0f} % of the steps were clipped: a larger clip norm or a lower learning rate "
            "would let the gradient set the step."
        )
    return found + _encoder(late)


def sound(gradients: Sequence[Record], failure: Record | None) -> list[Record]:
    """The records of steps that changed the weights: before the one that failed, and not those that float16
    skipped."""
    before = [r for r in gradients if failure is None or r["step"] < failure["step"]]
    return [r for r in before if r.get("gradient") is not None]


def _not_finite(gradients: Sequence[Record]) -> list[str]:
    """Where the records end with gradients that are not finite; single ones are skipped steps of float16."""
    first = None
    for record in reversed(gradients):
        if record.get("gradient") is not None:
            break
        first = record["step"]
    return [] if first is None else [f"At step {first} the gradient was not finite: lower the learning rate."]


def seen(gradients: Sequence[Record], metrics: Sequence[Record]) -> str:
    """How much of the training was recorded: "10 of 30 steps, from 1 to 26"."""
    last = gradients[-1]["step"]
    steps = max([last, *(record["step"] for record in metrics)])
    return f"{len(gradients):,} of {steps:,} steps, from {gradients[0]['step']:,} to {last:,}"


def verdict(gradients: Sequence[Record], metrics: Sequence[Record]) -> str:
    """What to say where nothing stands out."""
    recorded = seen(gradients, metrics)
    if len(gradients) < FEW:
        return f"Too little was recorded to tell: {recorded}."
    return f"Nothing in what was recorded ({recorded}): gradients, updates and units look healthy."


def _of_layer(name: str, late: Sequence[Record], strongest: float) -> list[str]:
    values = [r["layers"].get(name, {}) for r in late]
    found = []
    dead = _mean([v.get("dead") for v in values])
    if dead is not None and dead > DEAD:
        found.append(
            f"{name}: {100 * dead:.0f} % of its ReLU units are dead; a lower learning rate or another "
            "initialisation keeps them alive."
        )
    moved = _mean(
        [v["update"] / v["weight"] for v in values if v.get("update") is not None and v.get("weight")]
    )
    if moved is not None and moved > LEARNS_TOO_FAST:
        found.append(f"{name}: a step moves it by {moved:.2g} of its size; lower the learning rate.")
    if moved is not None and moved < HARDLY_LEARNS:
        found.append(f"{name}: a step moves it by {moved:.1g} of its size: it hardly learns.")
    flow = _mean([v.get("flow") for v in values])
    if flow is not None and strongest and flow < VANISHED * strongest:
        found.append(
            f"{name}: the gradient that arrives is {flow / strongest:.1g} of the strongest: it vanishes on "
            "its way."
        )
    return found


def _exploded(first: Record, late: Sequence[Record]) -> list[str]:
    """The layer whose outputs, or else the gradient that, have become huge."""
    grown: dict[str, tuple[float, float]] = {}
    for name in layer_names(late):
        before = first["layers"].get(name, {}).get("activation")
        after = _mean([r["layers"].get(name, {}).get("activation") for r in late])
        if before and after and after > HUGE and after > GROWN * before:
            grown[name] = before, after
    if grown:
        name = max(grown, key=lambda layer: grown[layer][1] / grown[layer][0])
        before, after = grown[name]
        return [
            f"{name}: what it puts out has grown from {before:.2g} to {after:.2g}: training has exploded; "
            "lower the learning rate."
        ]
    norm, now = first.get("gradient"), _mean([r.get("gradient") for r in late])
    if norm and now and now > EXPLODED * norm:
        return [
            f"The gradient has grown from {norm:.2g} to {now:.2g}: it explodes; lower the learning rate or "
            "clip gradients."
        ]
    return []


def _strongest(late: Sequence[Record]) -> float:
    means = (_mean([r["layers"].get(name, {}).get("flow") for r in late]) for name in layer_names(late))
    return max((m for m in means if m is not None), default=0.0)


def _encoder(late: Sequence[Record]) -> list[str]:
    if "decoder" not in {name.split(".")[0] for name in layer_names(late)}:
        return []
    share = _mean([share_of(record, "encoder") for record in late])
    if share is None or share >= ENCODER:
        return []
    return [
        f"Only {100 * share:.2g} % of the gradient reaches the encoder: the decoder works without the source."
    ]


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known else None
