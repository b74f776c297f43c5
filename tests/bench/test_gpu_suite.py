"""The GPU bench as a whole, on the fake GPU and with clocks that are told what to say: gates, time limits,
the JSON and the tables."""

from __future__ import annotations

import json
import time
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from gpu_tiny import SPEEDS, WRONG, FakeTimer, made_wrong, tiny

import gpuprop as gp
from gpuprop.bench import (
    gpu_measure,
    gpu_peers,
    gpu_row,
    gpu_suite,
    gpu_table,
    gpu_targets,
    gpu_work,
)
from gpuprop.bench.gpu_catalogue import gpu_cases
from gpuprop.cli import bench_gpu as cli_bench_gpu

CASES = gpu_cases()


class FakeClock:
    """Goes on by `step` each time somebody looks."""

    def __init__(self, step: float = 0.0) -> None:
        self.now, self.step = 0.0, step

    def __call__(self) -> float:
        self.now += self.step
        return self.now


def measured(names: list[str], cases: Any = CASES, **settings: Any) -> dict[str, Any]:
    """A suite of these rows at tiny sizes, without PyTorch."""
    given = {"timer": FakeTimer(2.0), "speeds": SPEEDS, "sizes": tiny, "torch": None, **settings}
    return gpu_suite.run([cases[n] for n in names], False, given.pop("limit", 1e9), **given)


@pytest.fixture(autouse=True)
def few(monkeypatch: pytest.MonkeyPatch) -> None:
    """Sets of inputs and samples; no search for garbage, which is long beside PyTorch."""
    monkeypatch.setattr(gpu_row.gc, "collect", lambda: 0)
    monkeypatch.setattr(gpu_work, "ROTATED", 1)
    monkeypatch.setattr(gpu_measure, "SAMPLES", 2)
    monkeypatch.setattr(gpu_measure, "MOST_SAMPLES", 3)


def test_a_row_says_what_was_measured(fake_gpu: Any) -> None:
    result = measured(["cross_entropy_16", "step_mlp"], torch=None)
    assert result["format"] == gpu_suite.FORMAT
    assert result["machine"]["gpu"] == "Fake"
    assert result["versions"]["cupy"] == "14.2.0"
    assert result["left_out"] == []
    operation, step = result["rows"]
    assert operation["bytes"] == 12 * (2 * 4 * 16 + 12)
    assert operation["floor_ms"] == pytest.approx(operation["bytes"] / 4e12 * 1e3)
    assert operation["of_floor"] == pytest.approx(operation["floor_ms"] / 2.0)
    assert operation["ours"]["captured"] == {
        "ms": 2.0, "q1": 2.0, "q3": 2.0, "wall_ms": 4.0, "samples": 3, "repeats": 1,
    }  # fmt: skip
    assert 1 <= operation["ours"]["launches"] <= 4
    assert step["ours"]["launches"] <= 12
    assert 40 < step["ours"]["python_calls"]["captured"] < 60 < step["ours"]["python_calls"]["eager"]
    assert step["error"].keys() == {"fp32", "eager", "captured"}
    assert 0 < step["error"]["fp32"] < 1e-6 < step["error"]["captured"] < 4e-3
    assert operation["peers"]["graph"] == {"missing": "no --peer torch"}
    assert operation["ratios"] == {}
    json.dumps(result, allow_nan=False)
    assert gp.get_matmul_precision() == "highest"


def test_peers_are_gated_timed_and_compared_and_those_that_fail_say_why(
    fake_gpu: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch = pytest.importorskip("torch")

    def refuse(*_: Any, **how: Any) -> Any:
        raise RuntimeError(f"no compiler\nfor {how or 'this'}")

    monkeypatch.setattr(torch, "compile", refuse)
    monkeypatch.setattr(torch.compiler, "cudagraph_mark_step_begin", lambda: None)
    monkeypatch.setattr(gpu_peers, "graphed", refuse)
    (row,) = measured(["conv1d_fb_tf32"], torch=torch, torch_device="cpu")["rows"]
    assert row["ratios"] == {"eager": 1.0, "channels_last": 1.0}
    assert row["peers"]["eager"]["samples"] == 3
    assert row["peers"]["compiled"] == {"missing": "RuntimeError: no compiler for this"}
    assert row["peers"]["reduce_overhead"]["missing"].endswith("{'mode': 'reduce-overhead'}")
    assert "missing" in row["peers"]["graph"]
    assert 0 <= row["differences"]["channels_last"] < 2e-3
    assert row["verdict"] == gpu_targets.BELOW  # 1x, not 1.3x


def test_a_peer_that_is_wrong_is_not_timed(fake_gpu: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    torch = pytest.importorskip("torch")
    monkeypatch.setattr(gpu_peers, "graphed", lambda torch, work: lambda i: None)  # does nothing
    monkeypatch.setattr(torch, "compile", lambda f, **_: lambda t: 1.01 * f(t))
    monkeypatch.setattr(torch.compiler, "cudagraph_mark_step_begin", lambda: None)
    (row,) = measured([WRONG], torch=torch, torch_device="cpu")["rows"]
    assert set(row["ratios"]) == {"eager"}
    assert row["peers"]["compiled"]["missing"].startswith("WrongError: ")
    assert "missing" in row["peers"]["graph"]


def test_a_wrong_row_has_no_time_and_the_others_go_on(fake_gpu: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    result = measured([WRONG, "embedding"], made_wrong())
    wrong, right = result["rows"]
    assert "is 0.01 from float64, more than 0.0001" in wrong["wrong"]
    assert not {"ours", "peers", "ratios", "of_floor", "failed"} & wrong.keys()
    assert "ours" in right
    assert not gpu_suite.is_right(result)
    table = gpu_table.markdown(result)
    assert next(line for line in table.splitlines() if f"| {WRONG} |" in line).endswith("| **wrong** |")
    assert cli_bench_gpu.remarks(result)[0].startswith(f"{WRONG} wrong: ")


def test_a_row_that_fails_says_why(fake_gpu: Any) -> None:
    def ours(sizes: Any, store: Any) -> Any:
        raise ValueError("no such\nkernel")

    result = measured([WRONG], {WRONG: replace(CASES[WRONG], ours=ours)})
    assert result["rows"][0]["failed"] == "ValueError: no such kernel"
    assert not gpu_suite.is_right(result)


def test_rows_share_the_time_and_those_left_out_are_named(fake_gpu: Any) -> None:
    clock = FakeClock()
    budget = gpu_suite.Budget(100.0, [1.0, 1.0, 2.0], clock)
    assert budget.next() == 25.0
    clock.now = 10.0  # the first needed less
    assert budget.next() == 10.0 + 90.0 / 3
    clock.now = 99.0
    assert budget.next() is None
    result = measured([WRONG, "embedding", "step_mlp"], clock=FakeClock(step=20.0), limit=30.0)
    assert [row["name"] for row in result["rows"]] == [WRONG]
    assert result["left_out"] == ["embedding", "step_mlp"]
    assert "No time for embedding, step_mlp." in gpu_table.markdown(result)
    assert cli_bench_gpu.remarks(result)[-1] == "no time for: embedding, step_mlp"


def test_what_has_a_target_for_compilers_has_more_time_and_what_a_target_is_about_comes_first() -> None:
    shares = {name: gpu_suite.share_of(case) for name, case in CASES.items()}
    assert shares["step_mlp"] > shares["text_cnn_block"] > shares["gru_256"] == 1.0
    assert CASES["step_mlp"].variants == ["eager", "graph", "reduce_overhead", "compiled"]
    assert CASES["text_cnn_block"].variants[-2:] == ["compiled", "reduce_overhead"]
    assert CASES["conv1d_f_bf16"].variants[:2] == ["eager", "channels_last"]


def test_a_compiler_that_does_not_start_stops_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    torch = pytest.importorskip("torch")
    gpu_peers.start_compiler(torch, 30.0)  # no CUDA
    gpu_peers.start_compiler(torch, 0.0)
    slept: list[None] = []
    monkeypatch.setattr(torch, "ones", lambda *_, **__: slept.append(time.sleep(5)))
    gpu_peers.start_compiler(torch, 0.01)
    assert not slept


def test_a_peer_without_time_says_so(fake_gpu: Any) -> None:
    torch = pytest.importorskip("torch")
    (row,) = measured([WRONG], torch=torch, torch_device="cpu", clock=FakeClock(1000.0), limit=2.5e3)["rows"]
    assert row["peers"].pop("eager")["samples"] == 2  # no more than it has to have
    assert all("out of time" in peer["missing"] for peer in row["peers"].values())
    with pytest.raises(gpu_peers.OutOfTime), gpu_peers.time_limit(0.01):
        time.sleep(5)


def test_the_table_holds_targets_until_there_is_a_result(fake_gpu: Any, tmp_path: Path) -> None:
    readme = tmp_path / "README.md"
    readme.write_text(f"a\n{gpu_table.START}\nold\n{gpu_table.END}\nb\n")
    empty = gpu_table.markdown(None)
    assert empty.count(gpu_table.NOT_YET) == len(CASES)
    assert "| 0.92 of the floor, 1.2x eager | 0.97 of the floor |" in empty
    assert gpu_table.newest(tmp_path) is None
    path = gpu_suite.default_file({"gpu": "NVIDIA H100 80GB HBM3"}, "2026-01-02", tmp_path / "results")
    assert path.name == "nvidia-h100-80gb-hbm3-2026-01-02.json"
    result = measured(["cross_entropy_16"])
    gpu_suite.save(result, path)
    gpu_suite.save(result, path.with_name("zz-2025-12-31.json"))
    assert gpu_table.newest(path.parent) == path
    assert gpu_table.main([str(path), str(readme)]) == 0
    table = readme.read_text()
    assert table == f"a\n{gpu_table.START}\n{gpu_table.markdown(result)}{gpu_table.END}\nb\n"
    of_all = path.with_name("of-make-gpu.json")
    of_all.write_text(json.dumps({"ok": True, "bench": {"returncode": 0, "results": result}}))
    assert gpu_table.main([str(of_all), str(readme)]) == 0
    assert readme.read_text() == table
    launches, calls = (result["rows"][0]["ours"][name] for name in ("launches", "python_calls"))
    assert f"| {launches} | {calls['eager']} / {calls['captured']} | - | - | - | - |" in table
    assert "Copy 4.00 TB/s, products 50 TFLOP/s fp32" in table
    assert table.count("| not measured |") == len(CASES) - 1


def test_the_readme_has_the_table_of_these_rows() -> None:
    readme = Path(__file__).parents[2] / "README.md"
    if not readme.is_file():
        pytest.skip("no checkout")
    source = gpu_table.newest()
    result = None if source is None else json.loads(source.read_text(encoding="utf-8"))
    assert f"{gpu_table.START}\n{gpu_table.markdown(result)}{gpu_table.END}" in readme.read_text(
        encoding="utf-8"
    )


def test_pytorch_is_asked_for_its_gpu_and_told_which(monkeypatch: pytest.MonkeyPatch) -> None:
    torch = pytest.importorskip("torch")
    cupy = SimpleNamespace(cuda=SimpleNamespace(runtime=SimpleNamespace(getDevice=lambda: 3)))
    chosen: list[int] = []
    monkeypatch.setattr(torch.cuda, "set_device", chosen.append)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert gpu_suite._torch(cupy) == (None, f"PyTorch {torch.__version__} sees no GPU")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert gpu_suite._torch(cupy) == (torch, "")
    assert chosen == [3]
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert gpu_suite._torch(cupy) == (None, "PyTorch is not installed")
