"""Every row of the GPU bench at tiny sizes: ours on the fake GPU and PyTorch's on the CPU pass the row's own
gate against float64."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from gpu_tiny import TINY, sizes_of

import gpuprop as gp
from gpuprop.bench import gates, gpu_peers, gpu_work
from gpuprop.bench.gpu_case import Peer
from gpuprop.bench.gpu_catalogue import gpu_cases
from gpuprop.bench.gpu_data import Normal, exactly, stored, words
from gpuprop.bench.gpu_measure import matmul_precision
from gpuprop.bench.gpu_row import ALL

CASES = gpu_cases()
STEPS = ("adam_clip", "embedding")  # of an optimizer: what is compared is how far float32 weights moved


@pytest.fixture(autouse=True)
def one_set(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpu_work, "ROTATED", 1)


def exact_values(name: str, precision: str) -> dict[str, Any]:
    with gp.use_device("cpu"):
        work = CASES[name].ours(sizes_of(name), exactly(precision))
        return work.values(work.run, ALL)


@pytest.mark.parametrize("name", CASES)
def test_ours_passes_its_gate_as_it_is_and_captured(any_gpu: str, name: str) -> None:
    case, sizes = CASES[name], sizes_of(name)
    exact = exact_values(name, case.precision)
    with matmul_precision(case.precision):
        work = case.ours(sizes, stored(case.precision))
        found = work.values(work.run, ALL)
        assert found.keys() == exact.keys()
        assert gates.check(found, exact, case.bounds) > 0.0
        work = case.ours(sizes, stored(case.precision))
        run, captured = work.captured()
        assert gates.check(work.values(run, ALL), exact, case.bounds) > 0.0
    assert captured.captured == 1
    assert captured.replayed >= 1
    assert captured.launches > 0


@pytest.mark.parametrize("name", CASES)
def test_pytorch_computes_the_same(name: str) -> None:
    torch = pytest.importorskip("torch")
    case, sizes = CASES[name], sizes_of(name)
    exact = exact_values(name, "fp32")
    for make in filter(None, (case.theirs, case.usual)):
        work = make(Peer(torch, "cpu", "fp32"), sizes)
        found = work.values(work.run, ALL)
        assert found.keys() == (exact.keys() if not case.step else found.keys() & exact.keys())
        assert max(gates.errors(found, exact).values()) < (5e-5 if name in STEPS else 1e-6)


def test_there_are_tiny_sizes_of_every_row_and_targets_of_its_variants() -> None:
    assert TINY.keys() == CASES.keys()
    for case in CASES.values():
        assert case.passing, case.name
        assert {*case.passing, *case.stretch} <= {"floor", *case.variants}, case.name
        assert case.gate.keys() <= case.sizes.keys(), case.name
        cost = case.cost(case.sizes)
        assert cost.moved > 0, case.name


def test_floors_are_those_of_the_equations() -> None:
    """Cross-entropy is two passes and Adam 28 bytes a weight, after one pass for the norm; bytes of a dense
    convolution in bfloat16 as the design has them, 0.63 GB."""

    def cost(name: str) -> Any:
        return CASES[name].cost(CASES[name].sizes)

    assert cost("cross_entropy_131072").moved == 8192 * (2 * 2 * 131072 + 12)
    assert cost("adam_clip").moved == 32e8
    rows = np.unique(words(100_000, (64, 128), 0)).size
    assert 3500 < rows < 4500
    assert cost("embedding").moved == 8192 * 8 + 4 * 256 * (2 * 8192 + (1 + 6) * rows)
    assert cost("conv1d_f_bf16").moved == pytest.approx(0.63e9, rel=5e-3)
    assert cost("depthwise_f").moved == 2 * 2 * 256 * 2048 * 512
    assert cost("step_products").flops == 2 * 8192 * (3 * (3 * 4096**2 + 4096 * 16) - 4096**2)


def test_a_graph_by_hand_reads_each_batch_where_it_is_copied_to(monkeypatch: pytest.MonkeyPatch) -> None:
    """PyTorch's graphs stood in for by their step, run again at each replay."""
    torch = pytest.importorskip("torch")

    class Graph:
        def __init__(self, step: Any) -> None:
            self.replay = step

    losses: list[Any] = []

    def capture(torch: Any, step: Any, pool: Any) -> Any:
        return Graph(lambda: losses.append(step().item())), None

    monkeypatch.setattr(gpu_peers, "_capture", capture)
    case, sizes = CASES["step_mlp"], sizes_of("step_mlp")
    peer = Peer(torch, "cpu", "fp32")
    run = gpu_peers.graphed(torch, case.theirs(peer, sizes))
    for i in range(5):
        run(i)
    work = case.theirs(peer, sizes)
    assert losses == [work.run(i).item() for i in range(5)]
    assert len(set(losses)) == 5


def test_a_graph_by_hand_for_each_set_that_stays_in_place(monkeypatch: pytest.MonkeyPatch) -> None:
    torch = pytest.importorskip("torch")
    ran: list[int] = []
    work = gpu_work.Work(ran.append, [(i,) for i in range(3)], lambda run, most: {})
    monkeypatch.setattr(torch.cuda, "graph_pool_handle", lambda: None)
    monkeypatch.setattr(
        gpu_peers, "_capture", lambda torch, step, pool: (type("G", (), {"replay": staticmethod(step)}), None)
    )
    run = gpu_peers.graphed(torch, work)
    for i in range(4):
        run(i)
    assert ran == [0, 1, 2, 0]


def test_inputs_are_rotated_over_more_than_the_cache(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpu_work, "ROTATED", 180e6)
    assert [gpu_work.sets_for(size, 64) for size in (2e9, 6.5e6, 1.0)] == [1, 28, 64]
    sizes = sizes_of("attention_64")
    assert len(CASES["attention_64"].ours(sizes, stored("bf16")).inputs) == gpu_work.MOST_SETS
    assert len(CASES["attention_64"].ours(sizes | {"sets": 1}, stored("bf16")).inputs) == 1
    assert CASES["attention_64"].gate_sizes["sets"] == 1
    seeds = [Normal((1000,), seed).block() for seed in range(3)]
    assert not any((a == b).any() for a, b in pairwise(seeds))


def test_numbers_for_tf32_have_eleven_bits() -> None:
    values = Normal((1000,)).block()
    found = stored("tf32")(values)
    assert found.dtype == np.float32
    assert (found.view(np.uint32) & 0x1FFF == 0).all()
    assert (abs(found - values) <= abs(values) * 2.0**-11).all()
    assert (exactly("tf32")(values) == found).all()
    assert (stored("fp32")(values) == values).all()
    assert (exactly("bf16")(values) == stored("bf16")(values).astype(np.float64)).all()


def test_long_random_numbers_repeat_a_block_on_every_device(monkeypatch: pytest.MonkeyPatch) -> None:
    torch = pytest.importorskip("torch")
    from gpuprop.bench import gpu_data

    monkeypatch.setattr(gpu_data, "PERIOD", 7)
    monkeypatch.setattr(gpu_data, "_block", lambda: np.arange(7, dtype=np.float32))
    values = Normal((4, 5), 2, 0.5)
    ours = values.on_device(stored("fp32"))
    assert ours.shape == (4, 5)
    assert (ours.ravel()[7:] == ours.ravel()[:13]).all()
    assert (values.in_torch(torch, "cpu", "fp32").numpy() == ours).all()
