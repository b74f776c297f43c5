from __future__ import annotations

import io
import json
import subprocess
import sys
from typing import Any

import pytest
import typer
from rich.console import Console
from typer.testing import CliRunner

from gpuprop.backend import cuda_setup, device, diagnose, inventory
from gpuprop.backend.diagnose import Step, usable
from gpuprop.cli import devices as cli_devices

pytestmark = pytest.mark.usefixtures("fresh_device")

GPU_STEPS = ("CUDA libraries", "CUDA headers", "array sum", "kernel launch", "matrix product")


@pytest.fixture
def steps_of(machine: Any, monkeypatch: pytest.MonkeyPatch) -> Any:
    """steps_of(boards, ...): the doctor's steps on a machine whose libraries, headers and kernels work."""

    def run(boards: Any = (), **more: Any) -> dict[str, Step]:
        machine(boards, **more)
        rows = [
            (name, (lambda: "works") if name in GPU_STEPS else attempt, needs, kind)
            for name, attempt, needs, kind in diagnose._STEPS
        ]
        monkeypatch.setattr(diagnose, "_STEPS", rows)
        return {step.name: step for step in diagnose.diagnose()}

    return run


def test_a_gpu_that_works(steps_of: Any, machine: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("platform.machine", lambda: "x86_64")
    monkeypatch.setattr("platform.system", lambda: "Linux")
    monkeypatch.setattr(cuda_setup, "cupy_packages", lambda: {"cupy-cuda13x": "14.2.0"})
    one = machine.board(0, nvmlDeviceGetName="NVIDIA H200", nvmlDeviceGetCudaComputeCapability=(9, 0))
    steps = steps_of([one])
    assert [s.name for s in steps.values() if s.device == "cuda" and not s.ok] == []
    assert usable(list(steps.values()))
    assert steps["NVIDIA driver"].detail == "libcuda.so.1, for CUDA 13.0"
    assert steps["CuPy package"].detail == "cupy-cuda13x 14.2.0"
    assert steps["CuPy import"].detail == "cupy 14.2.0, built for CUDA 13.2"
    assert steps["NVML"].detail == "driver of unknown version"
    assert steps["GPUs in NVML"].detail == "NVIDIA H200 (9.0)"
    assert steps["GPUs in CUDA"].detail == "cuda:0"


def test_nvml_is_not_needed(steps_of: Any, machine: Any) -> None:
    steps = steps_of([machine.board(0)], nvml_error="Driver Not Loaded")
    assert (steps["NVML"].ok, steps["NVML"].fix) == (False, "load the driver: `sudo modprobe nvidia`")
    assert usable(list(steps.values()))


def test_no_driver(steps_of: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    steps = steps_of(driver=None, nvml_error="NVML Shared Library Not Found")
    failed = steps["NVIDIA driver"]
    assert (failed.ok, failed.error) == (False, "no NVIDIA driver (libcuda.so.1: cannot open)")
    assert failed.fix
    assert steps["GPUs in CUDA"] == Step("GPUs in CUDA", None, "not tried: needs NVIDIA driver")
    assert not usable(list(steps.values()))


def test_hidden_gpus(steps_of: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    steps = steps_of(count_error="cudaErrorNoDevice: no CUDA-capable device is detected")
    assert steps["CUDA_VISIBLE_DEVICES"].error == "CUDA_VISIBLE_DEVICES='' hides every GPU"
    assert steps["CUDA_VISIBLE_DEVICES"].fix == "unset CUDA_VISIBLE_DEVICES"
    assert "cudaErrorNoDevice" in steps["GPUs in CUDA"].error
    assert steps["kernel launch"].ok is None


@pytest.mark.parametrize(
    ("packages", "driver", "error", "fix"),
    [
        ({}, 12040, "no CuPy package is installed", 'pip install "gpuprop[cuda12]"'),
        (
            {"cupy-cuda12x": "14.0", "cupy-cuda13x": "14.1"},
            13000,
            "several packages overwrite each other: cupy-cuda12x 14.0, cupy-cuda13x 14.1",
            'pip uninstall -y cupy-cuda12x cupy-cuda13x, then pip install "gpuprop[cuda13]"',
        ),
        (
            {"cupy-cuda13x": "14.1"},
            12040,
            "cupy-cuda13x 14.1 needs a driver for CUDA 13.0, this one is for 12.4",
            'pip uninstall -y cupy-cuda13x, then pip install "gpuprop[cuda12]"',
        ),
    ],
)
def test_cupy_packages(
    steps_of: Any, monkeypatch: pytest.MonkeyPatch, packages: Any, driver: int, error: str, fix: str
) -> None:
    monkeypatch.setattr(cuda_setup, "cupy_packages", lambda: packages)
    step = steps_of(driver=driver)["CuPy package"]
    assert (step.ok, step.error, step.fix) == (False, error, fix)


def test_a_missing_library_is_named(machine: Any) -> None:
    fakes = machine([machine.board(0)])

    def missing() -> int:
        raise RuntimeError("CuPy failed to load libcudart.so.13")

    fakes.cupy.cuda.get_local_runtime_version = missing
    steps = {step.name: step for step in diagnose.diagnose()}
    step = steps["CUDA libraries"]
    assert (step.error, step.fix) == (
        "RuntimeError: CuPy failed to load libcudart.so.13",
        'pip install "cupy-cuda13x[ctk]"',
    )
    assert steps["CUDA headers"].detail == "not tried: needs CUDA libraries"
    assert not usable(list(steps.values()))


def test_the_gpu_that_fails_is_named_and_does_not_stop_the_doctor(
    machine: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    fakes = machine([machine.board(0), machine.board(1)])

    def add(cupy: Any) -> None:
        if cupy.runtime.getDevice() == 1:
            raise RuntimeError("cudaErrorMemoryAllocation: out of memory")

    monkeypatch.setattr(diagnose, "_add", add)
    with pytest.raises(
        cuda_setup.SetupError, match=r"cuda:1: RuntimeError: cudaErrorMemoryAllocation"
    ) as caught:
        diagnose._each_gpu(add)
    assert "memory is full" in caught.value.fix
    assert fakes.cupy.runtime.getDevice() == 0


def test_nvrtc_and_headers_without_a_driver() -> None:
    pytest.importorskip("cupy")
    assert diagnose._headers().startswith("cuda_fp16.h found, kernel of ")


def test_missing_headers_give_the_compilers_words(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("cupy")
    monkeypatch.setattr(diagnose, "_KERNEL", "#include <no_such_header.h>\n")
    step = diagnose._try("CUDA headers", diagnose._headers)
    assert step.ok is False
    assert "no_such_header.h" in step.error
    assert "[ctk]" in step.fix


def test_compiler_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CXX", "no-such-compiler")
    step = diagnose._try("C++ compiler", diagnose._compiler)
    assert (step.ok, step.error) == (False, "no-such-compiler is not on the PATH")
    assert "apt install g++" in step.fix
    monkeypatch.setenv("CXX", "true")
    broken = subprocess.CompletedProcess("", 1, "", "fatal error: cstdint:\n No such file")
    monkeypatch.setattr(diagnose.subprocess, "run", lambda *_, **__: broken)
    assert diagnose._try("C++ compiler", diagnose._compiler).error == "fatal error: cstdint: No such file"
    monkeypatch.setattr(device, "emulated_reason", lambda: "shim headers missing")
    assert diagnose._try("emulated device", diagnose._emulated).error == "shim headers missing"


def test_each_step_needs_only_earlier_ones() -> None:
    names = [name for name, *_ in diagnose._STEPS]
    for position, (_, _, needs, _) in enumerate(diagnose._STEPS):
        assert set(needs) <= set(names[:position])
    assert {n for proofs in diagnose._PROOFS.values() for n in proofs} | set(diagnose._EXTRAS) <= set(names)


# --- the report and what the commands print


def test_report_lists_gpus_in_cudas_order_and_hidden_ones_last(machine: Any) -> None:
    machine([machine.board(0, free=1), machine.board(1, free=2), machine.board(2, free=3)], visible=[2, 0])
    report = inventory.devices_report()
    assert [(g["device"], g["memory_free"]) for g in report["gpus"]] == [
        ("cuda:0", 3 * 2**30),
        ("cuda:1", 1 * 2**30),
        (None, 2 * 2**30),
    ]
    assert report["devices"][:3] == ["cpu", "cuda:0", "cuda:1"]
    assert (report["cuda_runtime"], report["cuda_driver"], report["gpu_problem"]) == ("13.2", "13.0", None)
    assert report["cpu"]["cores"] >= 1
    assert report["cpu"]["memory_total"] > 2**28
    assert json.loads(json.dumps(report)) == json.loads(json.dumps(report, default=str))


def test_report_without_nvml_asks_cuda(machine: Any) -> None:
    machine([machine.board(0)], nvml_error="Driver Not Loaded")
    report = inventory.devices_report()
    (gpu,) = report["gpus"]
    assert (gpu["device"], gpu["name"], gpu["memory_total"], gpu["compute_capability"]) == (
        "cuda:0",
        "Fake",
        80 * 2**30,
        "9.0",
    )
    assert "Driver Not Loaded" in report["gpu_problem"]


def shown(what: Any, width: int = 80) -> str:
    out = io.StringIO()
    Console(width=width, file=out).print(what)
    return out.getvalue()


def test_rendered_devices_fit_80_columns(machine: Any) -> None:
    long = machine.board(
        0,
        nvmlDeviceGetName="NVIDIA A100-SXM4-80GB MIG 1g.10gb",
        nvmlDeviceGetCudaComputeCapability=(8, 0),
        nvmlDeviceGetPowerUsage=300_000,
        nvmlDeviceGetEnforcedPowerLimit=700_000,
    )
    machine([long, machine.board(1)], visible=[0])
    text = shown(cli_devices.render_devices(inventory.devices_report()))
    assert max(map(len, text.splitlines())) <= 80
    assert "10.0/80.0" in text
    assert "300/700 W" in text
    assert "hidden" in text
    assert "…" not in text


def test_rendered_steps_keep_brackets_errors_and_fixes() -> None:
    steps = [
        Step("NVML", False, error="not there", fix="x", needed=False),
        Step("CuPy package", False, error="none is installed", fix='pip install "gpuprop[cuda13]"'),
        Step("kernel launch", None, "not tried: needs CuPy package"),
        Step("matrix product", None, "not tried: needs CuPy package"),
    ]
    text = shown(cli_devices.render_steps(steps))
    assert 'fix: pip install "gpuprop[cuda13]"' in text
    assert "FAIL CuPy package" in text
    assert "Start with the fix of: CuPy package." in text
    good = [Step(name, True, "right") for name in ("kernel launch", "matrix product")]
    assert "A GPU can be used" in shown(cli_devices.render_steps(good))


@pytest.fixture
def app() -> typer.Typer:
    app = typer.Typer()
    app.command()(cli_devices.devices)
    app.command()(cli_devices.doctor)
    return app


@pytest.mark.parametrize("works", [True, False])
def test_doctor_exit_code(app: typer.Typer, monkeypatch: pytest.MonkeyPatch, works: bool) -> None:
    steps = [
        Step(name, works, error="" if works else "broken") for name in ("kernel launch", "matrix product")
    ]
    monkeypatch.setattr(
        cli_devices, "diagnose", lambda: [*steps, Step("emulated device", True, device="emulated")]
    )
    result = CliRunner().invoke(app, ["doctor", "--json"])
    answer = json.loads(result.stdout)
    assert result.exit_code == (0 if works else 1)
    assert (answer["cuda"], answer["emulated"]) == (works, True)
    assert answer["steps"][0]["name"] == "kernel launch"
    assert CliRunner().invoke(app, ["doctor"]).exit_code == result.exit_code


def test_devices_command(app: typer.Typer, machine: Any) -> None:
    machine(driver=None, nvml_error="NVML Shared Library Not Found")
    result = CliRunner().invoke(app, ["devices", "--json"])
    assert json.loads(result.stdout)["devices"][0] == "cpu"
    text = CliRunner().invoke(app, ["devices"])
    assert text.exit_code == 0
    assert "cpu" in text.stdout
    assert "no NVIDIA driver" in text.stdout


def test_the_doctor_really_runs_here() -> None:
    """Whatever this machine lacks, each step answers, and those that fail carry their error and a fix."""
    code = "import json; from gpuprop.backend.diagnose import *; print(json.dumps([*map(vars, diagnose())]))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    steps = json.loads(done.stdout)
    assert [step["name"] for step in steps] == [name for name, *_ in diagnose._STEPS]
    for step in steps:
        assert step["detail"] if step["ok"] is not False else step["error"] and step["fix"], step
