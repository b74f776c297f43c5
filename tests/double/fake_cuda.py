"""A machine with a GPU that is none: the fake CuPy, our kernels run by the emulator, and the fake cuBLAS.

The fixture `fake_gpu`: inside, device "cuda" is there and current.
"""

from __future__ import annotations

import contextlib
import functools
import math
import sys
import types
from collections.abc import Iterator, Sequence
from typing import Any

import fake_cublas
import fake_cupy
import numpy as np
import pytest
from fake_array import places_of
from fake_machine import bytes_of

from gpuprop import testing
from gpuprop.backend import cublas, cublaslt, cuda_setup, device, emulator, graph_nodes, kernels, random
from gpuprop.testing import unavailable

reason = emulator.available()
# Arguments that a kernel reads and writes.
IN_PLACE = {
    "adam": (0, 2, 3), "sparse_adam": (3, 4, 5), "sparse_adam_finish": (1, 2, 3),
    "embedding_backward": (3,), "embedding_backward_finish": (2,),
    "gru_forward": (0,), "gru_backward": (0, 5), "lstm_forward": (0,), "lstm_backward": (0, 5, 6),
    **{
        f"{cell}_{by}_{way}": (0,)
        for cell in ("gru", "lstm")
        for by in ("sequence", "cluster")
        for way in ("forward", "backward")
    },
}  # fmt: skip
# Arguments of which a kernel of one time touches that time alone; the number of times is the last but one.
OF_A_TIME = {"gru_forward": (7, 8), "gru_backward": (3, 4), "lstm_forward": (9, 10), "lstm_backward": (3, 4)}


class FakeCudaModule:
    """`CudaModule` whose kernels run in the emulator, unchecked."""

    def __init__(
        self, source: str, filename: str, names: Sequence[str], options: Sequence[str], _: Any
    ) -> None:
        self.module = _emulated(source, filename, tuple(names), tuple(options))

    def launch(self, name: str, grid: Any, block: Any, args: list[Any], shared_mem: int = 0) -> None:
        hosts = [a.host if isinstance(a, fake_cupy.ndarray) else a for a in args]

        def work() -> None:
            with emulator.options(mode="fast"):
                self.module.launch(name, grid, block, hosts, shared_mem=shared_mem)

        kernel = name.partition("<")[0]
        moved = bytes_of(*hosts) + bytes_of(*(hosts[i] for i in IN_PLACE.get(kernel, ())))
        if kernel == "softmax_cross_entropy_backward" and hosts[-1]:
            moved = 0  # where the gradient is there already, and dy as expected
        for i in OF_A_TIME.get(kernel, ()):
            moved -= bytes_of(hosts[i]) - bytes_of(hosts[i]) // int(hosts[-2])
        fake_cupy.machine_now().launch(kernel, work, moved, places=places_of(*args))


@functools.cache
def _emulated(source: str, filename: str, names: tuple[str, ...], options: tuple[str, ...]) -> Any:
    with emulator.options(mode="fast"):
        return emulator.load(source, filename, names, options)


def forget() -> None:
    """Drop what is kept for the real devices of a process."""
    kernels.project.cache_clear()
    kernels._project_module.cache_clear()
    getattr(cublas.library, "cache_clear", lambda: None)()
    random.state.known.clear()
    cublas._handles.of.clear()
    cublaslt._cache.handles.clear()
    cublaslt._cache.prepared.clear()


@pytest.fixture
def fake_gpu(monkeypatch: pytest.MonkeyPatch) -> Iterator[fake_cupy.Machine]:
    """The fake machine's `Machine`: launches, waits, reads, allocations."""
    if reason is not None:
        pytest.skip(reason)
    random.manual_seed(0)
    with installed(monkeypatch) as found:
        yield found


@contextlib.contextmanager
def installed(monkeypatch: pytest.MonkeyPatch) -> Iterator[fake_cupy.Machine]:
    """The fake machine inside, for programs that tests start too."""
    cupy = fake_cupy.FakeCupy()
    forget()
    monkeypatch.setitem(sys.modules, "cupy", cupy)
    special = types.SimpleNamespace(erf=lambda x: fake_cupy.run("erf", np.vectorize(math.erf), x))
    monkeypatch.setitem(sys.modules, "cupyx.scipy.special", special)  # type: ignore[arg-type]
    monkeypatch.setattr(kernels, "CudaModule", FakeCudaModule)
    library = fake_cublas.FakeCublas()
    monkeypatch.setattr(cublas, "library", lambda name: library)
    monkeypatch.setattr(cublaslt, "library", lambda name: library)
    monkeypatch.setattr(device, "_default", device._default)  # what a command sets does not outlive it
    monkeypatch.setattr(device, "_followed", device._Followed())
    monkeypatch.setattr(cuda_setup, "count", lambda: 1)
    monkeypatch.setattr(graph_nodes, "count", lambda graph: len(graph.names))
    monkeypatch.setattr(cuda_setup, "import_cupy", lambda: cupy)
    with np.errstate(all="ignore"), device.use_device("cuda"):
        yield cupy.machine
    monkeypatch.undo()
    forget()


@pytest.fixture(params=["fake", pytest.param("cuda", marks=pytest.mark.gpu)])
def any_gpu(request: pytest.FixtureRequest) -> Iterator[str]:
    """The fake GPU, and a real one where there is one."""
    if request.param == "fake":
        request.getfixturevalue("fake_gpu")
        yield "fake"
        return
    why = unavailable("cuda")
    if why is not None:
        pytest.skip(why.splitlines()[0])
    random.manual_seed(0)
    with testing.use_device("cuda"):  # which fake_device.py puts the fake one behind
        yield "cuda"
