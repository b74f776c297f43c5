"""How cost grows with rows: the exponent that is fitted, and that of our steps."""

import numpy as np
import pytest
import typer
from typer.testing import CliRunner

import gpuprop as gp
from gpuprop.bench import growth
from gpuprop.cli.bench import bench

app = typer.Typer()
app.command()(bench)


@pytest.mark.parametrize("power", [0.5, 1.0, 2.0])
def test_the_exponent_is_that_of_the_power(power):
    rows = [16, 32, 64, 128, 256]
    assert growth.exponent(rows, [3.0 * n**power for n in rows]) == pytest.approx(power)
    noise = [1.02, 0.98, 1.01, 0.99, 1.0]
    costs = [3.0 * n**power * k for n, k in zip(rows, noise, strict=True)]
    assert growth.exponent(rows, costs) == pytest.approx(power, abs=0.02)


def test_work_that_is_worse_than_linear_is_seen():
    def quadratic(rows):
        x = np.ones((rows, 1 << 12))
        return lambda: [np.add(x, row, out=x) for row in x[: rows // 2]]

    found = growth.growth("quadratic", quadratic, (16, 32, 64, 128), rounds=5)
    assert found["rows"] == [16, 32, 64, 128]
    assert found["exponent"] > 1.5


def test_the_command_prints_the_exponent(monkeypatch):
    def step(rows):
        return lambda: np.ones(rows << 12).sum()

    monkeypatch.setattr(growth, "STEPS", {"mine": (step, (16, 32, 64))})
    result = CliRunner().invoke(app, ["--growth", "--rounds", "1"], catch_exceptions=False)
    assert result.exit_code == 0
    assert "exponent" in result.stdout
    assert "64: " in result.stdout
    with pytest.raises(gp.DataError, match="no other; there is mine"):
        CliRunner().invoke(app, ["other", "--growth"], catch_exceptions=False)


@pytest.fixture
def one_thread():
    before = gp.num_threads()
    gp.set_num_threads(1)
    yield
    gp.set_num_threads(before)


@pytest.mark.full
@pytest.mark.parametrize("name", growth.STEPS)
def test_steps_cost_no_more_than_in_proportion_to_their_rows(name, one_thread):
    assert growth.growth(name, *growth.STEPS[name], rounds=4)["exponent"] < 1.15
