"""PyTorch at its best, for the GPU bench: as it is, compiled, and as a CUDA graph captured by hand."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

from .gpu_case import GpuCase, Peer, as_it_is
from .gpu_data import Sizes
from .gpu_work import Run, Work

WARM_UPS = 3  # before a capture, as PyTorch asks for


class OutOfTime(BaseException):
    """Raised inside `time_limit`. No Exception, which a compiler would catch and wrap."""


@contextlib.contextmanager
def time_limit(seconds: float) -> Iterator[None]:
    """Raise OutOfTime inside after so many seconds, in the main thread; in others nothing happens."""
    if seconds <= 0:
        raise OutOfTime
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def ring(*_: object) -> None:
        raise OutOfTime

    before = signal.signal(signal.SIGALRM, ring)
    timer = signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
        signal.setitimer(signal.ITIMER_REAL, *timer)


@contextlib.contextmanager
def settings(torch: Any, precision: str) -> Iterator[None]:
    """Inside, PyTorch tries all of cuDNN's algorithms, and has TF32 where we have it."""
    cudnn = torch.backends.cudnn
    before = cudnn.benchmark, cudnn.allow_tf32, torch.get_float32_matmul_precision()
    try:
        cudnn.benchmark, cudnn.allow_tf32 = True, precision == "tf32"
        torch.set_float32_matmul_precision("high" if precision == "tf32" else "highest")
        yield
    finally:
        cudnn.benchmark, cudnn.allow_tf32 = before[:2]
        torch.set_float32_matmul_precision(before[2])


def make(
    torch: Any, device: str, case: GpuCase, sizes: Sizes, variant: str, warm: bool = True
) -> tuple[Work, Run]:
    """(the work of a variant, what does it), compiled or captured. warm: it has run."""
    wrap = {
        "compiled": lambda f: torch.compile(f),
        "reduce_overhead": lambda f: torch.compile(f, mode="reduce-overhead"),
    }.get(variant, as_it_is)
    work = case.maker(variant)(Peer(torch, device, case.precision, wrap), sizes)
    if variant == "graph":
        return work, graphed(torch, work)
    run = _marked(torch, work.run) if variant == "reduce_overhead" else work.run
    for i in range(work.warm_up if warm else 0):
        run(i)
    if device.startswith("cuda"):
        torch.cuda.synchronize()
    return work, run


def start_compiler(torch: Any, limit: float) -> None:
    """Compile something small, so that no row waits for the start. Where it fails, the rows say so."""
    with contextlib.suppress(Exception, OutOfTime), time_limit(limit):
        x = torch.ones(64, device="cuda", requires_grad=True)
        torch.compile(lambda x: (x.sin() * 2).sum())(x).backward()


def _marked(torch: Any, run: Run) -> Run:
    """Says where a step begins, so that its graphs may use the memory of the one before."""

    def step(i: int) -> Any:
        torch.compiler.cudagraph_mark_step_begin()
        return run(i)

    return step


def graphed(torch: Any, work: Work) -> Run:
    """The step as a graph: one for each set of inputs that stays in place, or one that reads where batches
    are copied to."""
    if not any(isinstance(x, torch.Tensor) for x in work.inputs[0]):
        pool = torch.cuda.graph_pool_handle()
        graphs = [_capture(torch, partial(work.step, *at), pool)[0] for at in work.inputs]
        return lambda i: graphs[i % len(graphs)].replay()
    places = [x.clone() for x in work.inputs[0]]
    graph, loss = _capture(torch, lambda: work.step(*places), None)

    def run(i: int) -> Any:
        for place, x in zip(places, work.inputs[i % len(work.inputs)], strict=True):
            place.copy_(x)
        graph.replay()
        return loss

    return run


def _capture(torch: Any, step: Callable[[], Any], pool: Any) -> tuple[Any, Any]:
    """(the graph, what the step returned)."""
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(WARM_UPS):
            step()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph, pool=pool):
        result = step()
    graph.replay()
    torch.cuda.synchronize()
    return graph, result
