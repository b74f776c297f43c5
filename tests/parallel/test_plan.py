"""The model of scaling, against the formulas worked out by hand, and its command."""

import math
from pathlib import Path

import pytest

import gpuprop as gp
from gpuprop.cli import main
from gpuprop.parallel.plan import bucket_time, efficiency


def test_one_rank_sends_nothing():
    (one,) = efficiency(60e6, 0.02, 400e9, ranks=[1])
    assert (one.communication, one.step, one.efficiency, one.speedup) == (0.0, 0.02, 1.0, 1.0)


def test_an_all_reduce_by_hand():
    """8 ranks, 1 MB at 1 GB/s: 2 x 3 messages of 10 us, and 2 x 7/8 of a millisecond."""
    assert bucket_time(1e6, 8, 1e9, 1e-5) == pytest.approx(6e-5 + 1.75e-3)


def test_one_bucket_is_not_hidden_and_many_are():
    small = efficiency(1000, 1e-3, 1e9, latency=1e-4, ranks=[2])[0]  # one bucket, after all of backward
    assert small.step == pytest.approx(1e-3 + 2e-4 + 4e3 / 1e9)
    assert small.efficiency == pytest.approx(1e-3 / small.step)
    large = efficiency(64 * (8 << 20) / 4, 1.0, 4e10, latency=0.0, ranks=[2])[0]  # 64 buckets
    assert large.step == pytest.approx(1.0 + (8 << 20) / 4e10)  # only the last shows


def test_a_slow_network_decides_the_step():
    (plan,) = efficiency(100e6, 0.01, 1e9, latency=0.0, ranks=[4])
    first = 0.01 * (1 / 3 + 2 / 3 / 48)  # when the first of 48 buckets leaves
    assert plan.step == pytest.approx(first + 1.5 * 400e6 / 1e9)


def test_bf16_halves_the_traffic_and_more_ranks_cost_more():
    full, half = (efficiency(60e6, 0.02, 10e9, latency=0.0, gradient_bytes=n) for n in (4, 2))
    for a, b in zip(full, half, strict=True):
        assert b.communication == pytest.approx(a.communication / 2)
    assert all(math.isfinite(p.step) for p in full)
    assert [p.efficiency for p in full] == sorted((p.efficiency for p in full), reverse=True)


@pytest.mark.parametrize("bad", [{"step": 0.0}, {"bandwidth": math.nan}, {"latency": -1.0}, {"ranks": [0]}])
def test_senseless_numbers_are_refused(bad):
    with pytest.raises(gp.DataError):
        efficiency(**{"parameters": 1e6, "step": 0.1, "bandwidth": 1e9, **bad})


def test_the_command(capsys):
    assert main(["parallel", "plan", "--params", "60M", "--step", "20ms", "--bandwidth", "400GB/s"]) == 0
    out = capsys.readouterr().out
    assert [line.split()[0] for line in out.splitlines()[1:12]] == [str(2**k) for k in range(11)]
    assert "a model, not a measurement" in out
    assert main(["parallel", "plan", "--params", "60M", "--step", "20ms", "--bandwidth", "3200Gbit/s"]) == 0
    assert capsys.readouterr().out == out


@pytest.mark.parametrize("wrong", ["--step 20", "--params many", "--bandwidth 400GB", "--gradients fp8"])
def test_units_are_named(wrong, capsys):
    given = {"--params": "1M", "--step": "1ms", "--bandwidth": "1GB/s"}
    name, value = wrong.split()
    given[name] = value
    assert main(["parallel", "plan", *(x for pair in given.items() for x in pair)]) == 2
    assert f"gpuprop: {name} is " in capsys.readouterr().err


def test_the_table_of_the_guide_is_what_the_model_gives():
    guide = Path(__file__).parents[2] / "docs" / "parallel.md"
    if not guide.exists():
        pytest.skip("outside a checkout")
    rows = [line.split("|")[1:-1] for line in guide.read_text("utf-8").splitlines() if "ms |" in line]
    fast, slow = (efficiency(60e6, 0.02, rate) for rate in (400e9, 25e9))
    assert len(rows) == 11
    for row, a, b in zip(rows, fast, slow, strict=True):
        told = [f"{a.ranks}"]
        for plan in (a, b):
            told += [f"{plan.step * 1e3:.1f} ms", f"{plan.efficiency:.1%}", f"{plan.speedup:.1f}"]
        assert [cell.strip() for cell in row] == told
