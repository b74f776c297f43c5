"""The training steps of the GPU bench: forward, loss, backward and Adam on a new batch each time."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import numpy as np

import gpuprop as gp

from .gpu_adam import fused_adam
from .gpu_case import Peer
from .gpu_data import Normal, Sizes, Store, integers, words
from .gpu_models import build, build_torch
from .gpu_work import Run, Work, sets_for, to_host

RATE = 1e-3
MOST_BATCHES = 1 << 13
LOSSES = 4  # that are compared with float64: a captured step has been replayed twice then
PAD, BOS, EOS = 0, 1, 2
Batches = Callable[[Sizes, int], list[Any]]


def ours(batches: Batches, sizes: Sizes, store: Store) -> Work:
    """On gpuprop's current device."""
    model = build(sizes)
    for p in model.parameters():
        p.data = store(p.data)
    optimizer = gp.optim.Adam(model.parameters(), lr=RATE)

    def step(*batch: Any) -> Any:
        optimizer.zero_grad()
        loss = model(*batch)
        loss.backward()
        optimizer.step()
        return loss

    def place(values: Any) -> Any:
        return values.on_device(store) if isinstance(values, Normal) else gp.tensor(values).data

    inputs = _inputs(batches, sizes, place)
    return Work(step, inputs, lambda run, most: _values(run, most, list(model.named_parameters())))


def theirs(batches: Batches, peer: Peer, sizes: Sizes) -> Work:
    """The same step of PyTorch's; `peer.wrap` compiles the model with its loss."""
    torch = peer.torch
    model = build_torch(torch, sizes, peer.precision).to(peer.device).train()
    optimizer = fused_adam(torch, model.parameters(), peer.device, RATE)
    forward = peer.wrap(model)

    def step(*batch: Any) -> Any:
        optimizer.zero_grad()
        loss = forward(*batch)
        loss.backward()
        optimizer.step()
        return loss

    def place(values: Any) -> Any:
        if isinstance(values, Normal):
            return values.in_torch(torch, peer.device, peer.precision)
        return torch.from_numpy(values).to(peer.device)

    return Work(step, _inputs(batches, sizes, place), lambda run, most: _values(run, most, []))


def _inputs(batches: Batches, sizes: Sizes, place: Callable[[Any], Any]) -> list[tuple[Any, ...]]:
    """Batches on the device: parts of long arrays that are copied there at once."""
    size = sum(values.size * (4 if isinstance(values, Normal) else 8) for values in batches(sizes, 1))
    count = max(LOSSES, sets_for(size, sizes.get("sets", MOST_BATCHES)))
    whole = [place(values) for values in _drawn(batches, tuple(sizes.items()), count)]
    return [tuple(part[i] for part in whole) for i in range(len(whole[0]))]


@functools.lru_cache(maxsize=1)
def _drawn(batches: Batches, sizes: tuple[tuple[str, Any], ...], count: int) -> list[Any]:
    """What all works of a row take, drawn once."""
    return batches(dict(sizes), count)


def _values(run: Run, most: int, parameters: list[tuple[str, Any]]) -> dict[str, Any]:
    """The losses of the first steps, and the gradients of the very first."""
    found = {"loss 0": to_host(run(0), most)}
    found |= {f"d {name}": to_host(p.grad, most) for name, p in parameters}
    return found | {f"loss {i}": to_host(run(i), most) for i in range(1, LOSSES)}


def pictures(s: Sizes, count: int) -> list[Any]:
    """x (count, B, inputs) and classes (count, B)."""
    b, dims = s["B"], s["dims"]
    return [Normal((count, b, dims[0])), integers(dims[-1], (count, b), 1)]


def sentences(s: Sizes, count: int) -> list[Any]:
    """Ids (count, B, L) of texts of 8 words up to L, and classes (count, B)."""
    shape = (count, s["B"], s["L"])
    lengths = integers(s["L"] + 1, (*shape[:2], 1), 1, low=min(8, s["L"]))
    ids = np.where(np.arange(s["L"]) < lengths, words(s["vocab"], shape, 2), PAD)
    return [ids, integers(s["classes"], shape[:2], 3)]


def pairs(s: Sizes, count: int) -> list[Any]:
    """src, tgt_in and tgt_out (count, B, length), from half the length to all of it."""
    shape, length, place = (count, s["B"], s["length"]), s["length"], np.arange(s["length"])
    src, tgt = (words(s[f"{side}_vocab"], shape, i) for i, side in enumerate(("src", "tgt")))
    src_len, tgt_len = (integers(length + 1, (*shape[:2], 1), i, low=length // 2) for i in (2, 3))
    tgt_in = np.concatenate([np.full((*shape[:2], 1), BOS), tgt[..., :-1]], axis=2)
    tgt_out = np.where(place == tgt_len - 1, EOS, tgt)
    src[place >= src_len] = tgt_in[place >= tgt_len] = tgt_out[place >= tgt_len] = PAD
    return [src, tgt_in, tgt_out]
