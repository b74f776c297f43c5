"""`gpuprop kernels list`, `compile` and `check`, and the example that the guide points at."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from gpuprop import cli
from gpuprop.backend import emulator, kernels, nvrtc
from gpuprop.cli import kernel_check as cli_kernel_check
from gpuprop.testing import unavailable

ROOT = Path(__file__).parents[2]
needs_compiler = pytest.mark.skipif(emulator.available() is not None, reason=str(emulator.available()))
needs_nvrtc = pytest.mark.skipif(not nvrtc.available(), reason="NVRTC is not installed")

SCALE = """
extern "C" __global__ void scale(const float* x, float* y, float factor, int n) {
  const int i = blockIdx.x * blockDim.x + threadIdx.x;
  if (i <= n - MARGIN) y[i] = factor * x[i];
}
template <typename T> __global__ void negate(T* x) { x[threadIdx.x] = -x[threadIdx.x]; }
"""
DRIVER = """
import numpy as np

NAMES = ["negate<double>"]
OPTIONS = ["-DMARGIN=MARGIN_HERE"]

def check_scale(kernels):
    x = np.arange(100, dtype=np.float32)
    y = np.full_like(x, np.nan)
    kernels["scale"](2, 64, (x, y, 2.0, 100))
    np.testing.assert_array_equal(y, 2 * x)

def check_negate(kernels):
    x = np.arange(10.0)
    kernels["negate<double>"](1, 10, (x,))
    np.testing.assert_equal(x[3], EXPECTED_HERE)
"""


def write(folder: Path, margin: int, expected: int) -> tuple[str, str]:
    file, driver = folder / "scale.cu", folder / "drive.py"
    file.write_text(SCALE)
    driver.write_text(DRIVER.replace("MARGIN_HERE", str(margin)).replace("EXPECTED_HERE", str(expected)))
    return str(file), str(driver)


def test_list(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["kernels", "list", "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)
    assert [row["file"] for row in rows] == sorted(path.name for path in kernels.folder().glob("*.cu"))
    assert all(row["kernels"] and row["instantiations"] for row in rows)
    assert cli.main(["kernels", "list"]) == 0
    assert "conv1d.cu" in capsys.readouterr().out


@needs_nvrtc
def test_compile_a_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file, _ = write(tmp_path, 1, -3)
    words = ["kernels", "compile", file, "--arch", "sm_80", "--arch", "sm_90", "--name", "negate<double>"]
    assert cli.main([*words, "--option", "-DMARGIN=1", "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)
    assert [(row["name"], row["arch"]) for row in rows] == [
        ("scale", "sm_80"), ("negate<double>", "sm_80"), ("scale", "sm_90"), ("negate<double>", "sm_90"),
    ]  # fmt: skip
    keys = [
        "name",
        "symbol",
        "arch",
        "registers",
        "shared_bytes",
        "stack_bytes",
        "spill_stores",
        "spill_loads",
    ]
    assert all(list(row) == [*keys, "warps"] and row["registers"] > 0 for row in rows)
    assert {row["warps"] for row in rows} == {64}
    assert cli.main([*words, "--option", "-DMARGIN=1", "--threads", "32"]) == 0
    (row,) = [
        line for line in capsys.readouterr().out.splitlines() if "negate<double>" in line and "sm_90" in line
    ]
    assert row.split()[4] == "32"
    assert cli.main([*words, "--option", "-DMARGIN=undeclared"]) == 1
    assert "scale.cu(4): error" in capsys.readouterr().err


@needs_nvrtc
@pytest.mark.parametrize("name", ["features", "patterns", "bugs"])
def test_what_the_emulator_is_tested_with_is_cuda(name: str) -> None:
    """The real compiler takes the same files: every kernel that is no template, and the templates' syntax."""
    source = (ROOT / "tests" / "emulator" / f"{name}.cu").read_text()
    folders = [f"-I{ROOT / 'tests' / 'emulator'}", *(f"-I{path / 'cccl'}" for path in nvrtc.include_dirs())]
    if "mma.h" in source and not any((path / "crt" / "mma.h").exists() for path in nvrtc.include_dirs()):
        pytest.skip("the headers of tensor cores are not installed (gpuprop[emulator])")
    plain = re.findall(r'extern "C" __global__ void (?:__launch_bounds__\(.*\) )?(\w+)', source)
    compiled = nvrtc.compile_cubin(source, "sm_90", (), folders, f"{name}.cu")
    assert {kernel.name for kernel in compiled.kernels} == set(plain)


@needs_compiler
@pytest.mark.parametrize(
    ("margin", "expected", "code", "finding"),
    [
        (1, -3, 0, ""),
        (0, -3, 1, "scale.cu:4: out of bounds: read of 4 bytes, 0 bytes past the end of argument 0 'x'"),
        (1, 3, 1, "drive.py:16: AssertionError: "),
    ],
    ids=["right", "out-of-bounds", "wrong-value"],
)
def test_check_a_file(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], margin: int, expected: int, code: int, finding: str
) -> None:
    file, driver = write(tmp_path, margin, expected)
    assert cli.main(["kernels", "check", file, "--driver", driver, "--json"]) == code
    checks = json.loads(capsys.readouterr().out)
    assert [(c["name"], c["order"]) for c in checks] == [
        (name, order) for name in ("check_scale", "check_negate") for order in emulator.ORDERS
    ]
    findings = [line for check in checks for line in check["findings"]]
    assert len(findings) == (3 if code else 0)
    assert all(finding in line for line in findings)
    assert cli.main(["kernels", "check", file, "--driver", driver, "--order", "reverse"]) == code
    shown = capsys.readouterr().out
    assert ("FAIL" in shown) == bool(code)
    assert finding in shown  # on one line, however narrow the output is


@needs_compiler
def test_check_says_what_is_missing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file, driver = write(tmp_path, 1, -3)
    (tmp_path / "empty.py").write_text("x = 1\n")
    (tmp_path / "broken.py").write_text("\ndef check(kernels)\n    pass\n")
    (tmp_path / "missing.py").write_text("import numpy\nimport nowhere_to_be_found\n")
    for words, message in (
        ([file], "say how to launch its kernels with --driver"),
        (["--driver", driver], "name their file too"),
        ([file, "--driver", str(tmp_path / "none.py")], "there is no such driver"),
        ([file, "--driver", str(tmp_path / "empty.py")], 'no function whose name begins with "check"'),
        ([file, "--driver", str(tmp_path / "broken.py")], "broken.py, line 2: SyntaxError: "),
        ([file, "--driver", str(tmp_path / "missing.py")], "missing.py, line 2: ModuleNotFoundError: "),
        ([str(tmp_path / "none.cu"), "--driver", driver], "none.cu: cannot be read"),
        (
            [file, "--driver", driver, "--order", "sideways"],
            "--order must be one of forward, reverse, random",
        ),
    ):
        assert cli.main(["kernels", "check", *words]) == 2, words
        assert message in capsys.readouterr().err


def test_every_kernel_file_has_a_check() -> None:
    assert sorted(cli_kernel_check.OURS) == sorted(path.name for path in kernels.folder().glob("*.cu"))


@needs_compiler
@pytest.mark.full
def test_check_our_kernels(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["kernels", "check", "--json"]) == 0
    checks = json.loads(capsys.readouterr().out)
    assert {c["file"] for c in checks} == set(cli_kernel_check.OURS)
    assert all(c["ok"] and c["error"] is not None for c in checks)


@pytest.mark.parametrize(
    "device",
    ["cpu", pytest.param("emulated", marks=needs_compiler), pytest.param("cuda", marks=pytest.mark.gpu)],
)
def test_the_example_trains(device: str) -> None:
    reason = unavailable(device)
    if reason is not None:
        pytest.skip(f"{device}: {reason.splitlines()[0]}")
    program = ROOT / "examples" / "custom_kernel.py"
    done = subprocess.run(
        [sys.executable, str(program), "--device", device], capture_output=True, text=True, env={**os.environ}
    )
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    losses = [float(line.split("loss ")[1]) for line in lines if "loss" in line]
    assert losses[-1] < 0.6 * losses[0]
    assert float(lines[-1].removeprefix("accuracy: ")) > 0.8
    assert sum("agree with finite differences" in line for line in lines) == (
        3 if device == "emulated" else 1
    )
