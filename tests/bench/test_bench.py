"""The bench: every case runs, the table says what was measured, wrong names are refused."""

import json
import re

import pytest
import typer
from typer.testing import CliRunner

import gpuprop as gp
from gpuprop.bench import cases, catalogue, measure, readme_table, seq2seq_cases
from gpuprop.cli.bench import bench

app = typer.Typer()
app.command()(bench)

RESULT = {
    "machine": {"processor": "A CPU", "cores": 2, "system": "Linux x86_64"},
    "versions": {"gpuprop": "1", "numpy": "2"},
    "threads": 2,
    "rows": [
        {"name": "gelu", "shape": "2 x 3", "gpuprop": {"wall_ms": 1.0}, "torch": {"wall_ms": 4.0}},
        {"name": "adam", "shape": "9", "gpuprop": {"wall_ms": 2.5}},
    ],
}


@pytest.mark.parametrize("name", [n for n in catalogue.all_cases() if n not in seq2seq_cases.SPECS])
def test_every_case_runs(name):  # test_allocations.py runs the others
    work = catalogue.all_cases()[name].ours()
    first = work()
    assert first == pytest.approx(first) if isinstance(first, float) else first is None


def test_measuring_counts_wall_and_cpu_time():
    calls = []
    case = cases.Case("sleep", "nothing", lambda: lambda: calls.append(1), lambda torch: None)
    row = measure.measure(case, None, rounds=2, seconds=0.0)
    assert len(calls) == measure.WARM_UP + 2 * 5
    assert row["name"] == "sleep"
    assert row["gpuprop"].keys() == {"wall_ms", "cpu_ms"}
    assert row["gpuprop"]["wall_ms"] < 10


def test_pytorch_does_the_same_in_turns_with_us(tmp_path):
    pytest.importorskip("torch")
    out = tmp_path / "bench.json"
    args = ["adam", "--peer", "torch", "--threads", "1", "--rounds", "1", "--seconds", "0"]
    result = CliRunner().invoke(app, [*args, "--json", str(out)], catch_exceptions=False)
    assert result.exit_code == 0
    (row,) = json.loads(out.read_text())["rows"]
    ours, theirs = (row[name]["cpu_ms"] for name in ("gpuprop", "torch"))
    assert "PyTorch" in result.stdout
    assert re.search(rf"adam .* {ours:.2f} +{theirs:.2f} +{ours / theirs:.2f} ", result.stdout)


def test_the_command_prints_a_table_and_writes_json(tmp_path):
    out = tmp_path / "bench.json"
    args = ["adam", "--rounds", "1", "--seconds", "0", "--json", str(out)]
    result = CliRunner().invoke(app, args, catch_exceptions=False)
    assert result.exit_code == 0
    assert "adam" in result.stdout
    written = json.loads(out.read_text())
    assert [row["name"] for row in written["rows"]] == ["adam"]
    assert written["versions"]["gpuprop"] == gp.__version__


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["nothing"], "no nothing; there is mlp64.*adam$"),
        (["gru_256"], "no gru_256; there is mlp64.*measured on a GPU: --device cuda"),
        (["--device", "emulated"], "measures cpu, cuda and cuda:N, not 'emulated'"),
        (["--peer", "jax"], "torch or none"),
    ],
)
def test_what_it_cannot_measure_is_refused(args, message):
    with pytest.raises(gp.DataError, match=message):
        CliRunner().invoke(app, args, catch_exceptions=False)


def test_the_readme_table_is_written_between_its_marks(tmp_path):
    table = readme_table.markdown(RESULT)
    assert "| gelu | 2 x 3 | 1.00 | 4.00 | 0.25 |" in table
    assert "| adam | 9 | 2.50 |  |  |" in table
    assert "A CPU, Linux x86_64; gpuprop 1, numpy 2." in table
    source, readme = tmp_path / "r.json", tmp_path / "README.md"
    source.write_text(json.dumps(RESULT))
    readme.write_text(f"before\n{readme_table.START}\nold\n{readme_table.END}\nafter\n")
    for _ in range(2):
        assert readme_table.main([str(source), str(readme)]) == 0
    text = readme.read_text()
    assert text == f"before\n{readme_table.START}\n{table}{readme_table.END}\nafter\n"
    with pytest.raises(gp.DataError, match="needs the lines"):
        readme_table.put("no marks", table)


def test_each_number_of_threads_has_its_columns_and_exponents_stand_below():
    row = {"name": "gelu", "shape": "2 x 3"}
    row |= {"gpuprop": {"wall_ms": 9.0, "cpu_ms": 3.0}, "torch": {"wall_ms": 9.0, "cpu_ms": 6.0}}
    growth = {"growth": [{"name": "mlp", "exponent": 0.912}]}
    table = readme_table.markdown(RESULT, RESULT | {"threads": 1, "rows": [row]}, growth)
    assert "| 2 threads: gpuprop ms | PyTorch ms | ratio | 1 thread: gpuprop ms | PyTorch ms |" in table
    assert "| gelu | 2 x 3 | 1.00 | 4.00 | 0.25 | 3.00 | 6.00 | 0.50 |" in table
    assert "| adam | 9 | 2.50 |  |  |  |  |  |" in table
    assert "to the power of: mlp 0.91." in table
