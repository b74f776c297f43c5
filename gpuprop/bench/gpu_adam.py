"""Clipping to a norm and Adam over one long parameter: a row of the GPU bench."""

from __future__ import annotations

from typing import Any

import gpuprop as gp

from .floors import Cost
from .gpu_case import FLOOR, GpuCase, Peer
from .gpu_data import Normal, Sizes, Store
from .gpu_work import Run, Work, to_host

RATE, LARGEST = 1e-3, 1.0
BYTES = 28 + 4  # a parameter: Adam reads four numbers and writes three; the norm reads the gradient before


def _data(sizes: Sizes) -> tuple[Normal, Normal]:
    return Normal((sizes["n"],)), Normal((sizes["n"],), 1)


def ours(sizes: Sizes, store: Store) -> Work:
    """With the optimizer's own clipping, which leaves the norm on the device."""
    parameter, gradient = (values.on_device(store) for values in _data(sizes))
    p = gp.Parameter(parameter)
    optimizer = gp.optim.Adam([p], lr=RATE)
    p.grad = gradient

    def step() -> None:
        optimizer.clip_grad_norm(LARGEST)
        optimizer.step()

    return Work(step, [()], lambda run, most: change(p, run, most))


def theirs(peer: Peer, sizes: Sizes) -> Work:
    """The fused update, which a graph can repeat."""
    torch = peer.torch
    parameter, gradient = (values.in_torch(torch, peer.device, peer.precision) for values in _data(sizes))
    p = torch.nn.Parameter(parameter)
    p.grad = gradient
    optimizer = fused_adam(torch, [p], peer.device, RATE)

    def update() -> None:
        torch.nn.utils.clip_grad_norm_([p], LARGEST)
        optimizer.step()

    step = peer.wrap(update)
    return Work(step, [()], lambda run, most: change(p, run, most))


def fused_adam(torch: Any, parameters: Any, device: str, rate: float) -> Any:
    """PyTorch's fastest Adam: one kernel, and on a GPU with its count of steps there."""
    on_gpu = device.startswith("cuda")
    return torch.optim.Adam(parameters, lr=rate, fused=True, capturable=on_gpu)


def change(p: Any, run: Run, most: int) -> dict[str, Any]:
    """How far three steps move the weights."""
    before = to_host(p, most)
    for i in range(3):
        run(i)
    return {"change": to_host(p, most) - before}


def adam_case(count: int = 100_000_000) -> GpuCase:
    """The row of the table."""
    return GpuCase(
        "adam_clip", "Adam + clip, 100 M parameters", f"{count:,} weights fp32, clipped to a norm of 1",
        "fp32", {"n": count}, {"n": 1 << 20}, lambda s: Cost(float(BYTES) * s["n"]), ours, theirs, None,
        {FLOOR: 0.92, "eager": 1.2}, {FLOOR: 0.97}, repeatable=False,
    )  # fmt: skip
