from __future__ import annotations

import asyncio
import contextvars
import logging
import os
import subprocess
import sys
import threading
from typing import Any

import pytest

from gpuprop.backend import cuda_setup, device, nvml
from gpuprop.backend.device import Device, available_devices, get_device, resolve, set_device, use_device
from gpuprop.errors import DeviceError

pytestmark = pytest.mark.usefixtures("fresh_device")


def in_thread(work: Any) -> Any:
    answer: list[Any] = []
    thread = threading.Thread(target=lambda: answer.append(work()))
    thread.start()
    thread.join()
    return answer[0]


def run_python(code: str, **env: str) -> subprocess.CompletedProcess[str]:
    clean = {k: v for k, v in os.environ.items() if k not in ("GPUPROP_DEVICE", "CUDA_VISIBLE_DEVICES")}
    done = [sys.executable, "-W", "error", "-c", code]
    return subprocess.run(done, env=clean | env, capture_output=True, text=True, check=False)


def test_names_and_fields() -> None:
    assert [str(Device("cpu")), str(Device("cuda", 3)), str(Device("emulated"))] == [
        "cpu",
        "cuda:3",
        "emulated",
    ]
    assert get_device() == Device("cpu") == resolve("cpu") == resolve(Device("cpu"))
    with pytest.raises(AttributeError):
        Device("cpu").index = 1  # type: ignore[misc]


@pytest.mark.parametrize("name", ["gpu", "", "cuda:", "cuda:-1", "cuda:x", "CPU", "cuda:0 ", None, 0])
def test_malformed_names_list_the_valid_forms(name: Any) -> None:
    with pytest.raises(DeviceError, match=r'"auto", "cpu", "cuda", "cuda:N" .* or "emulated"') as caught:
        set_device(name)
    assert repr(name) in str(caught.value)
    assert get_device() == Device("cpu")


def test_import_touches_neither_cupy_nor_nvml() -> None:
    code = (
        "import sys, gpuprop.backend.arrays, gpuprop.backend.device, gpuprop.training.monitor\n"
        "assert not {'cupy', 'pynvml', 'ml_dtypes'} & set(sys.modules), 'imported'\n"
        "from gpuprop.backend.device import get_device\n"
        "print(get_device(), 'cupy' in sys.modules)"
    )
    done = run_python(code)
    assert (done.stdout, done.stderr) == ("cpu False\n", "")


def test_auto_without_a_gpu_says_why_in_one_line_once() -> None:
    code = (
        "from gpuprop.backend import cuda_setup, device\n"
        "cuda_setup.driver_cuda_version = lambda: None\n"
        "print(device.set_device('auto'), device.set_device('auto'))"
    )
    done = run_python(code)
    assert done.stdout == "cpu cpu\n"
    assert done.stderr.startswith("gpuprop: using the CPU: no NVIDIA driver (")
    assert "Fix: " in done.stderr
    assert done.stderr.count("\n") == 1


def test_auto_message_goes_through_logging(machine: Any, caplog: pytest.LogCaptureFixture) -> None:
    machine(driver=None)
    with caplog.at_level(logging.WARNING, "gpuprop"):
        assert resolve("auto") == resolve("auto") == Device("cpu")
    assert len(caplog.records) == 1


def test_auto_takes_the_gpu_with_most_free_memory(machine: Any) -> None:
    machine([machine.board(0, free=5), machine.board(1, free=70), machine.board(2, free=30)])
    assert set_device("auto") == Device("cuda", 1)


def test_auto_matches_by_uuid_when_cuda_counts_otherwise(machine: Any) -> None:
    boards = [machine.board(0, free=70), machine.board(1, free=5), machine.board(2, free=30)]
    for one in boards:
        one.bus = ""  # so that only the UUID can tell
    machine(boards, visible=[2, 1, 0])  # CUDA_VISIBLE_DEVICES=2,1,0
    assert resolve("auto") == Device("cuda", 2)
    machine(boards, visible=[1, 2])  # the emptiest board is hidden
    assert resolve("auto") == Device("cuda", 1)


def test_auto_matches_by_pci_bus_when_a_zero_byte_cuts_the_uuid(machine: Any) -> None:
    boards = [machine.board(0, free=5), machine.board(1, free=70)]
    for one in boards:
        one.cuda_uuid = b""
    machine(boards)
    assert resolve("auto") == Device("cuda", 1)
    machine(boards, visible=[1, 0])
    assert resolve("auto") == Device("cuda", 0)
    boards[0].uuid = "GPU-a1b20011-1111-2222-3333-444455556601"  # CUDA's copy ends before the zero byte
    boards[0].cuda_uuid, boards[0].bus = b"\xa1\xb2", ""
    assert device.match_gpu(1, nvml_gpus()).uuid == boards[0].uuid  # type: ignore[union-attr]
    boards[0].cuda_uuid = None  # all 16 bytes
    assert device.match_gpu(1, nvml_gpus()).uuid == boards[0].uuid  # type: ignore[union-attr]


def nvml_gpus() -> Any:
    return nvml.gpus()[0]


def test_auto_without_nvml_takes_the_first_gpu(machine: Any) -> None:
    machine([machine.board(0, free=5), machine.board(1, free=70)], nvml_error="Driver Not Loaded")
    assert resolve("auto") == Device("cuda", 0)


def test_auto_finds_a_mig_instance(machine: Any) -> None:
    parent = machine.board(0)
    for n, free in ((1, 4), (2, 9)):
        part = machine.board(n, free=free)
        part.uuid = part.uuid.replace("GPU", "MIG")
        parent.instances.append(part)
    machine([parent])
    infos = nvml_gpus()
    assert [info.uuid[:3] for info in infos] == ["MIG", "MIG"]
    parent.cuda_uuid = parent.instances[1].uuid_for_cuda()
    assert device.match_gpu(0, infos) == infos[1]


# --- a GPU that cannot be had: the original cause, and the fix


def message(name: str = "cuda") -> str:
    with pytest.raises(DeviceError) as caught:
        set_device(name)
    assert get_device() == Device("cpu")
    return str(caught.value)


def test_no_driver(machine: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    machine(driver=None)
    monkeypatch.setattr(cuda_setup, "cupy_packages", dict)
    monkeypatch.setattr("os.path.exists", lambda path: False)
    text = message()
    assert "device 'cuda' cannot be used: no NVIDIA driver (libcuda.so.1: cannot open)" in text
    assert "https://www.nvidia.com/drivers" in text
    monkeypatch.setattr("os.path.exists", lambda path: path == "/.dockerenv")
    assert "docker run --gpus all" in message()


@pytest.mark.parametrize(
    ("driver", "fix"),
    [
        (13000, 'pip install "gpuprop[cuda13]"'),
        (12040, 'pip install "gpuprop[cuda12]"'),
        (11080, "supports CUDA 11.8 and 12.0 is needed: update it"),
    ],
)
def test_no_cupy(machine: Any, monkeypatch: pytest.MonkeyPatch, driver: int, fix: str) -> None:
    machine(driver=driver)
    monkeypatch.setitem(sys.modules, "cupy", None)
    text = message("cuda:0")
    assert "CuPy is not installed (import of cupy halted" in text
    assert fix in text


def test_broken_and_duplicate_cupy(machine: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    machine(driver=12040)

    def broken(name: str) -> Any:
        raise ImportError("libnvrtc.so.12: cannot open\nshared object file")

    monkeypatch.setattr(cuda_setup.importlib, "import_module", broken)
    monkeypatch.setattr(cuda_setup, "cupy_packages", lambda: {"cupy-cuda12x": "14.0"})
    text = message()
    assert "CuPy does not import: libnvrtc.so.12: cannot open shared object file" in text
    assert "pip install --force-reinstall cupy-cuda12x" in text
    monkeypatch.setattr(cuda_setup, "cupy_packages", lambda: {"cupy-cuda12x": "14.0", "cupy-cuda13x": "14.0"})
    assert 'pip uninstall -y cupy-cuda12x cupy-cuda13x, then pip install "gpuprop[cuda12]"' in message()


def test_driver_too_old(machine: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cuda_setup, "cupy_packages", lambda: {"cupy-cuda13x": "14.0"})
    machine(driver=12040, count_error="cudaErrorInsufficientDriver: CUDA driver version is insufficient")
    text = message()
    assert "cudaErrorInsufficientDriver: CUDA driver version is insufficient" in text
    assert "supports CUDA 12.4, which is older than cupy-cuda13x needs" in text
    assert '`pip uninstall -y cupy-cuda13x`, then `pip install "gpuprop[cuda12]"`' in text


def test_hidden_gpus(machine: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    machine(count_error="cudaErrorNoDevice: no CUDA-capable device is detected")
    assert "nvidia-smi" in message()
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "-1")
    text = message()
    assert "cudaErrorNoDevice: no CUDA-capable device is detected" in text
    assert "CUDA_VISIBLE_DEVICES='-1' hides the GPUs: `unset CUDA_VISIBLE_DEVICES`" in text
    machine([])
    assert "CUDA sees no GPU" in message()


def test_forked_process(machine: Any) -> None:
    machine(count_error="cudaErrorInitializationError: initialization error")
    assert "spawn" in message()


def test_index_out_of_range(machine: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    machine([machine.board(0)])
    assert "device 'cuda:1' does not exist: only cuda:0 is there." in message("cuda:1")
    machine([machine.board(0), machine.board(1), machine.board(2)], visible=[2, 0])
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "2,0")
    text = message("cuda:2")
    assert "cuda:0 to cuda:1 are there; CUDA_VISIBLE_DEVICES='2,0' may hide others" in text


def test_the_original_error_is_the_cause(machine: Any) -> None:
    machine(count_error="cudaErrorUnknown: unknown error")
    with pytest.raises(DeviceError, match="nvidia_uvm") as caught:
        set_device("cuda")
    assert str(caught.value.__cause__) == "cudaErrorUnknown: unknown error"


def test_emulated_gives_the_emulators_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(device, "emulated_reason", lambda: "g++ not found")
    with pytest.raises(DeviceError, match="'emulated' cannot be used: g\\+\\+ not found"):
        resolve("emulated")
    assert Device("emulated") not in available_devices()
    monkeypatch.setattr(device, "emulated_reason", lambda: None)
    assert resolve("emulated") == Device("emulated") == available_devices()[-1]


def test_available_devices(machine: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    machine([machine.board(0), machine.board(1)])
    assert [str(d) for d in available_devices()] == ["cpu", "cuda:0", "cuda:1"]
    monkeypatch.setattr(device, "emulated_reason", lambda: None)
    assert [str(d) for d in available_devices()] == ["cpu", "cuda:0", "cuda:1", "emulated"]
    machine(driver=None)
    assert available_devices() == [Device("cpu")]


# --- which device is current, and CuPy with it


def test_set_device_holds_in_threads_and_cupy_follows(machine: Any) -> None:
    cupy = machine([machine.board(0), machine.board(1)]).cupy
    set_device("cuda:1")
    assert cupy.runtime.getDevice() == 1
    assert in_thread(lambda: (get_device(), cupy.runtime.getDevice())) == (Device("cuda", 1), 1)


def test_use_device_is_local_to_the_thread(machine: Any) -> None:
    cupy = machine([machine.board(0), machine.board(1)]).cupy
    with use_device("cuda:1"):
        assert in_thread(get_device) == Device("cpu")
        copied = contextvars.copy_context()
        assert in_thread(lambda: copied.run(get_device)) == Device("cuda", 1)
        assert in_thread(lambda: copied.run(lambda: (get_device(), cupy.runtime.getDevice()))[1]) == 1


def test_use_device_nests_and_restores_on_errors(machine: Any) -> None:
    cupy = machine([machine.board(0), machine.board(1), machine.board(2)]).cupy

    def fail_inside() -> None:
        with use_device("cuda:1"):
            assert (get_device(), cupy.runtime.getDevice()) == (Device("cuda", 1), 1)
            with use_device("cuda:0"):
                assert cupy.runtime.getDevice() == 0
            assert cupy.runtime.getDevice() == 1
            raise ZeroDivisionError

    set_device("cuda:2")
    with use_device("cpu") as outer:
        assert get_device() == outer == Device("cpu")
        with pytest.raises(ZeroDivisionError):
            fail_inside()
        assert get_device() == Device("cpu")
    assert (get_device(), cupy.runtime.getDevice()) == (Device("cuda", 2), 2)


def test_use_device_leaves_a_users_own_cupy_device_alone(machine: Any) -> None:
    cupy = machine([machine.board(0), machine.board(1), machine.board(2)]).cupy
    cupy.cuda.Device(2).use()
    with use_device("cuda:1"):
        assert cupy.runtime.getDevice() == 1
    assert cupy.runtime.getDevice() == 2
    assert get_device() == Device("cpu")


def test_set_device_inside_use_device_holds_after_it(machine: Any) -> None:
    cupy = machine([machine.board(0), machine.board(1), machine.board(2)]).cupy
    set_device("cuda:0")
    with use_device("cuda:1"):
        set_device("cuda:2")
        assert (get_device(), cupy.runtime.getDevice()) == (Device("cuda", 1), 1)
    assert cupy.runtime.getDevice() == 2
    assert get_device() == Device("cuda", 2)


def test_tasks_that_take_turns_keep_their_devices(machine: Any) -> None:
    cupy = machine([machine.board(0), machine.board(1)]).cupy

    async def work(name: str) -> list[str]:
        seen = []
        with use_device(name):
            for _ in range(3):
                seen.append(f"{get_device()} {cupy.runtime.getDevice()}")
                await asyncio.sleep(0)
        return seen

    async def both() -> list[list[str]]:
        return list(await asyncio.gather(work("cuda:0"), work("cuda:1")))

    assert asyncio.run(both()) == [["cuda:0 0"] * 3, ["cuda:1 1"] * 3]


def test_a_failed_set_device_changes_nothing(machine: Any) -> None:
    cupy = machine([machine.board(0), machine.board(1)]).cupy
    set_device("cuda:1")

    class Full(cupy.cuda.Device):  # type: ignore[name-defined,misc]
        def use(self) -> None:
            raise RuntimeError("cudaErrorMemoryAllocation: out of memory")

    cupy.cuda.Device = Full
    with pytest.raises(DeviceError, match=r"out of memory\. Fix: the GPU's memory is full"):
        set_device("cuda:0")
    assert get_device() == Device("cuda", 1)


def test_environment_variable_is_the_default(machine: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    cupy = machine([machine.board(0), machine.board(1)]).cupy
    monkeypatch.setenv("GPUPROP_DEVICE", "cuda:1")
    assert (get_device(), cupy.runtime.getDevice()) == (Device("cuda", 1), 1)
    assert set_device("cpu") == get_device() == Device("cpu")


def test_bad_environment_variable_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GPUPROP_DEVICE", "gpu0")
    with pytest.raises(DeviceError, match="GPUPROP_DEVICE='gpu0': unknown device 'gpu0'"):
        get_device()
    with use_device("cpu"):
        assert get_device() == Device("cpu")
