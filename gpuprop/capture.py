"""`gp.capture(step)`: a training step as one CUDA graph, launched at once instead of operation by operation.

The first call with inputs of new shapes runs the step as it is, which compiles kernels and fills the pool of
memory; the second writes its launches down, and from then on they are repeated on inputs that are copied to
where the first ones were. What a step may not do is in docs/devices.md.
"""

from __future__ import annotations

import contextlib
import functools
import gc
from collections import OrderedDict
from collections.abc import Callable, Iterator
from typing import Any

from .backend import cublas, cuda_setup, graph_nodes, random
from .backend.determinism import are_deterministic_algorithms_enabled
from .backend.device import Device, get_device, resolve
from .backend.gemm import get_matmul_precision
from .backend.memory import give_up, pool_of_graphs, release_memory
from .backend.recording import Recording
from .backend.staging import PinnedRing, Staged
from .backend.static import Inputs, Outputs, signature
from .backend.where import place_of
from .backprop import is_grad_enabled
from .errors import CaptureError

GRAPHS = 32


class _Graph:
    """The graph of one signature, or so far only what its warm-up left."""

    def __init__(self, xp: Any, inputs: tuple[Any, ...], pinned: PinnedRing) -> None:
        self.recording = Recording(xp)
        self.inputs = Inputs(xp, inputs, pinned)
        self.outputs: Outputs | None = None
        self.graph: Any = None

    def launch(self) -> Any:
        assert self.outputs is not None
        self.graph.launch()
        return self.outputs.copied()


@contextlib.contextmanager
def _collector_paused() -> Iterator[None]:
    """Inside, Python's collector does not run: what it may find, graphs and pools of somebody else, is given
    back to the driver, and a capture must not see that."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


class Captured:
    """What `capture` returns. graphs: how many signatures are kept, those used last.

    captured, replayed, ran: calls that wrote a graph down, that launched one, and that ran the step as it is.
    """

    def __init__(self, step: Callable[..., Any], device: str | Device | None, graphs: int) -> None:
        if graphs < 1:
            raise ValueError(f"graphs is a number of at least 1, not {graphs}")
        functools.update_wrapper(self, step)
        self.step, self.graphs = step, graphs
        self.device = None if device is None else resolve(device)
        self.captured = self.replayed = self.ran = 0
        self._graphs: OrderedDict[Any, _Graph] = OrderedDict()
        self._pool: Any = None
        self._stream: Any = None
        self._pinned: PinnedRing | None = None

    def __call__(self, *inputs: Any) -> Any:
        return self.call(inputs)

    def call(self, inputs: tuple[Any, ...], staged: Staged | None = None) -> Any:
        """The step of these inputs. staged: the first of them, where it is on its way to the device."""
        device = get_device() if self.device is None else self.device
        if device.type != "cuda":
            return self.step(*inputs)
        xp = cuda_setup.import_cupy()
        with xp.cuda.Device(device.index):
            return self._run(xp, (device, *_state(), *signature(inputs)), inputs, staged)

    @property
    def launches(self) -> int | None:
        """Nodes of the graph that was used last: kernels, copies and fills. None before there is one, and
        where the driver does not say."""
        graph = next(reversed(self._graphs.values())).graph if self._graphs else None
        return None if graph is None else graph_nodes.count(graph)

    def clear(self) -> None:
        """Forget all graphs, and give their memory back to the driver."""
        if self._pinned is not None:
            self._pinned.close()
        self._graphs.clear()
        pool, stream = self._pool, self._stream
        self._pool = self._stream = self._pinned = None
        if pool is not None:
            cublas.forget(stream.ptr)
            give_up(pool)

    def __del__(self) -> None:
        with contextlib.suppress(Exception):  # of a process that ends
            self.clear()

    def _run(self, xp: Any, key: Any, inputs: tuple[Any, ...], staged: Staged | None) -> Any:
        found = self._graphs.get(key)
        if found is not None and not found.recording.holds():
            found = None
        if found is None:
            self._pinned = self._pinned or PinnedRing(xp)
            found = self._graphs[key] = _Graph(xp, inputs, self._pinned)
            while len(self._graphs) > self.graphs:
                self._graphs.popitem(last=False)
        self._graphs.move_to_end(key)
        found.inputs.fill(inputs, staged)
        found.recording.refresh()
        if found.graph is not None:
            self.replayed += 1
            result = found.launch()
            for action in found.recording.again:
                action()
            return result
        if found.outputs is None:
            return self._warm_up(xp, found)
        return self._capture(xp, key, found)

    def _warm_up(self, xp: Any, graph: _Graph) -> Any:
        """Run the step as it is. What it keeps for later steps (moments, tables) comes from the usual pool,
        as memory that is free in the pool of graphs is written to by replays."""
        with graph.recording.current():
            graph.outputs = Outputs(xp, self.step(*graph.inputs.values))
        self.ran += 1
        return graph.outputs.copied()

    def _capture(self, xp: Any, key: Any, graph: _Graph) -> Any:
        recording, before = graph.recording, random.state.state_dict()
        release_memory(key[0])  # what the warm-up had: the graph needs as much, from a pool of its own
        try:
            with self._aside(xp) as stream, recording.current(), _collector_paused():
                recording.capturing = True
                stream.begin_capture()
                try:
                    graph.outputs = Outputs(xp, self.step(*graph.inputs.values))
                except BaseException as error:
                    with contextlib.suppress(Exception):  # of a capture that is no longer valid
                        stream.end_capture()
                    if isinstance(error, CaptureError) or not isinstance(error, Exception):
                        raise
                    raise CaptureError(f"{type(error).__name__}: {error}") from error
                finally:
                    recording.capturing = False
                graph.graph = stream.end_capture()
        except CaptureError as error:
            self._graphs.pop(key, None)
            random.state.load_state_dict(before)
            raise CaptureError(
                f"the step cannot be captured: {error}. It happened in {place_of(error)}. docs/devices.md "
                "says what a captured step may do; or run it without gp.capture"
            ) from error
        self.captured += 1
        return graph.launch()

    @contextlib.contextmanager
    def _aside(self, xp: Any) -> Iterator[Any]:
        """Inside, launches go to a stream of our own, between what came before and what comes after, and
        memory comes from a pool of our own, which all graphs share, as they run one after the other."""
        if self._pool is None:
            self._pool, self._stream = pool_of_graphs(xp), xp.cuda.Stream(non_blocking=True)
        cublas.prepare(xp.cuda.runtime.getDevice(), self._stream.ptr)
        outside, stream = xp.cuda.get_current_stream(), self._stream
        stream.wait_event(outside.record())
        try:
            with stream, xp.cuda.using_allocator(self._pool.malloc):
                yield stream
        finally:
            outside.wait_event(stream.record())


def _state() -> tuple[Any, ...]:
    """What else a graph holds for."""
    calls = tuple(sorted(random.state.calls.items()))
    modes = is_grad_enabled(), get_matmul_precision(), are_deterministic_algorithms_enabled()
    return *modes, random.state.seed, random.state.row_offset, calls


def capture(
    step: Callable[..., Any], *, device: str | Device | None = None, graphs: int = GRAPHS
) -> Captured:
    """`step` as one CUDA graph for each signature of its inputs; on "cpu" and "emulated" the step itself.

        step = gp.capture(train_step)
        loss = step(ids, mask, labels)          # twice as it is, then as one launch

    step(*inputs): inputs and results are tensors, arrays (also of the host), numbers, text, None, and tuples,
    lists, dicts and dataclasses of these. Results are new arrays each time. device: where the step computes
    (default: the current one at each call). graphs: how many are kept. Raises CaptureError, naming the
    operation, when the step waits for the device, or uses arrays it makes on the host.
    """
    return Captured(step, device, graphs)
