"""Names of layers in few letters that still tell them apart."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

SHORTEST = 5  # letters that are left of a part of a name


def parts_of(names: Sequence[str], most: int) -> dict[str, str]:
    """The part of the model that each layer belongs to: its path, cut after as many names as leave at most
    `most` parts, or after the first."""
    longest = max((name.count(".") + 1 for name in names), default=1)
    for depth in range(longest, 0, -1):
        found = {name: ".".join(name.split(".")[:depth]) for name in names}
        if len(set(found.values())) <= most:
            return found
    return found


def short_names(names: Iterable[str], most: int) -> dict[str, str]:
    """Each name in at most `most` letters where that leaves them distinct: where one is longer, containers of
    numbered layers are left out ("encoder.layers.0.norm" is "encoder.0.norm"), then letters of long parts."""
    whole = list(dict.fromkeys(names))
    found = {name: name for name in whole}
    if max(map(len, whole), default=0) > most:
        found = _distinct({name: _without_containers(name) for name in whole}, found)
    return _distinct({name: _fitted(short, most) for name, short in found.items()}, found)


def _distinct(shorter: Mapping[str, str], before: Mapping[str, str]) -> dict[str, str]:
    """The shorter names, but those before of names that would be the same."""
    meant = list(shorter.values())
    return {name: short if meant.count(short) == 1 else before[name] for name, short in shorter.items()}


def _without_containers(name: str) -> str:
    parts = name.split(".")
    kept = [part for part, after in zip(parts, [*parts[1:], ""], strict=True) if not after.isdigit()]
    return ".".join(kept) if parts[0] in kept else name


def _fitted(name: str, most: int) -> str:
    """With letters taken from the longest part, rather one in the middle, until the name fits."""
    parts, kept = name.split("."), [len(part) for part in name.split(".")]
    while sum(kept) + len(parts) - 1 > most and max(kept) > SHORTEST:
        spare = [float(length - SHORTEST) for length in kept]
        spare[0], spare[-1] = spare[0] / 2, spare[-1] / 2
        kept[spare.index(max(spare))] -= 1
    return ".".join(_cut(part, letters) for part, letters in zip(parts, kept, strict=True))


def _cut(part: str, letters: int) -> str:
    """ "linear1" in 6 letters is "line…1"."""
    if len(part) <= letters:
        return part
    end = part[-1] if part[-1].isdigit() else ""
    return f"{part[: letters - 1 - len(end)]}…{end}"
