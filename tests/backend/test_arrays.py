from __future__ import annotations

import sys
from typing import Any

import numpy as np
import pytest

from gpuprop.backend import arrays, device
from gpuprop.backend.arrays import (
    asarray,
    device_of,
    from_dlpack,
    get_xp,
    is_cupy,
    to_device,
    to_dlpack,
    to_host,
)
from gpuprop.backend.device import Device, use_device
from gpuprop.errors import DataError, DeviceError

pytestmark = pytest.mark.usefixtures("fresh_device")


def gpu_array(cupy: Any, host: np.ndarray[Any, Any], index: int = 0) -> Any:
    with cupy.cuda.Device(index):
        return cupy.asarray(host)


def test_get_xp_by_type(machine: Any) -> None:
    cupy = machine([machine.board(0)]).cupy
    x, y = np.ones(2), gpu_array(cupy, np.ones(2))
    assert get_xp() is get_xp(x, 2.0, None) is np
    assert get_xp(y, np.float32(1), 3, None) is get_xp(None, y) is cupy
    assert (is_cupy(y), is_cupy(x), is_cupy(1.0)) == (True, False, False)


def test_mixing_names_both_arrays(machine: Any) -> None:
    cupy = machine([machine.board(0), machine.board(1)]).cupy
    with pytest.raises(DeviceError) as caught:
        get_xp(np.ones((2, 3), np.float32), gpu_array(cupy, np.ones(4), 1))
    assert "a NumPy array float32 (2, 3) on cpu and a CuPy array float64 (4,) on cuda:1" in str(caught.value)


def test_get_xp_without_cupy_does_not_import_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "cupy", raising=False)
    assert get_xp(np.ones(1)) is np
    assert not is_cupy(np.ones(1))
    assert "cupy" not in sys.modules


def test_no_copy_where_the_array_is_already(machine: Any) -> None:
    cupy = machine([machine.board(0), machine.board(1)]).cupy
    x, y = np.ones(3), gpu_array(cupy, np.ones(3), 1)
    assert to_device(x) is to_device(x, "cpu") is to_host(x) is x
    assert to_device(y, "cuda:1") is to_device(y, Device("cuda", 1)) is y


def test_moves_between_devices(machine: Any) -> None:
    cupy = machine([machine.board(0), machine.board(1)]).cupy
    x = np.arange(3.0)
    on_one = to_device(x, "cuda:1")
    on_zero = to_device(on_one, "cuda:0")
    with use_device("cuda:1"):
        assert device_of(to_device(x)) == Device("cuda", 1)
    assert [device_of(on_one), device_of(on_zero), device_of(x)] == [
        Device("cuda", 1),
        Device("cuda", 0),
        Device("cpu"),
    ]
    assert cupy.runtime.getDevice() == 0
    back = to_device(on_zero, "cpu")
    assert isinstance(back, np.ndarray)
    np.testing.assert_array_equal(back, x)


@pytest.mark.parametrize("axes", [(0, 1, 2), (2, 1, 0), (2, 0, 1), (1, 0, 2)])
def test_moves_keep_the_memory_order(machine: Any, axes: tuple[int, ...]) -> None:
    machine([machine.board(0), machine.board(1)])
    x = np.arange(24.0).reshape(2, 3, 4).transpose(axes)
    there = to_device(x, "cuda:0")
    further = to_device(there, "cuda:1")
    back = to_host(further)
    assert there.strides == further.strides == back.strides == x.strides
    np.testing.assert_array_equal(back, x)


def test_arrays_with_gaps_or_repeats_arrive_whole(machine: Any) -> None:
    machine([machine.board(0)])
    for x in (
        np.arange(24.0).reshape(4, 6)[:, ::2],
        np.broadcast_to(np.arange(3.0), (2, 3)),
        np.float32(2)[...],
    ):
        np.testing.assert_array_equal(to_host(to_device(x, "cuda")), x)


def test_full_gpu_gives_the_cause_and_a_fix(machine: Any) -> None:
    cupy = machine([machine.board(0)]).cupy

    def full(a: Any) -> Any:
        raise cupy.cuda.memory.OutOfMemoryError(
            "Out of memory allocating 8,000 bytes (allocated so far: 0 bytes)."
        )

    cupy.asarray = full
    with pytest.raises(DeviceError, match=r"Out of memory allocating 8,000 bytes .*Fix: use a smaller batch"):
        to_device(np.ones(1000), "cuda")


def test_numpy_arrays_are_emulated_while_that_is_current(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(device, "emulated_reason", lambda: None)
    x = np.ones(2)
    with use_device("emulated") as emulated:
        assert device_of(x) == emulated
        assert to_device(x) is x
    assert device_of(x) == Device("cpu")


class Foreign:
    """An array of another library: only DLPack, and `error` instead of an export if given."""

    def __init__(self, data: np.ndarray[Any, Any], kind: int = 1, error: str = "") -> None:
        self.data, self.kind, self.error = data, kind, error

    def __dlpack_device__(self) -> tuple[int, int]:
        return self.kind, 0

    def __dlpack__(self, **options: Any) -> Any:
        if self.error:
            raise BufferError(self.error)
        return self.data.__dlpack__(**options)


def test_asarray_shares_memory_by_dlpack() -> None:
    data = np.arange(4, dtype=np.float32)
    view = asarray(Foreign(data))
    view[0] = 7
    assert data[0] == 7
    assert np.shares_memory(from_dlpack(Foreign(data)), data)
    assert "dltensor" in repr(to_dlpack(data))


def test_asarray_takes_the_cuda_interface_and_cuda_dlpack(machine: Any) -> None:
    cupy = machine([machine.board(0)]).cupy
    y = gpu_array(cupy, np.ones(2))
    assert asarray(y) is y

    class OnGpu:
        __cuda_array_interface__ = None
        host = np.arange(2.0)

    assert is_cupy(asarray(OnGpu()))
    cupy.from_dlpack = lambda obj: gpu_array(cupy, obj.data)
    assert is_cupy(asarray(Foreign(np.ones(2), kind=2)))


def test_asarray_takes_array_objects_and_nested_lists() -> None:
    class Series:
        def __array__(self, dtype: Any = None, copy: Any = None) -> Any:
            return np.array([1, 2], np.int32)

    assert asarray(Series()).dtype == np.int32
    assert asarray([[1, 2], [3, 4]]).shape == (2, 2)


@pytest.mark.parametrize("bad", [["a", "b"], [[1, 2], [3]], [None], {"a": 1}])
def test_asarray_refuses_what_holds_no_numbers(bad: Any) -> None:
    with pytest.raises(DataError, match=f"cannot read {type(bad).__name__} as an array"):
        asarray(bad)


def test_asarray_passes_on_the_other_librarys_words() -> None:
    with pytest.raises(DataError, match="cannot read Foreign as an array: requires grad, use detach"):
        asarray(Foreign(np.ones(2), error="requires grad, use detach()"))
    with pytest.raises(DeviceError, match="DLPack type 8: move it"):
        asarray(Foreign(np.ones(2), kind=8))


def test_bfloat16(monkeypatch: pytest.MonkeyPatch) -> None:
    ml_dtypes = pytest.importorskip("ml_dtypes")
    assert np.ones(2, arrays.bfloat16()).dtype == ml_dtypes.bfloat16
    assert asarray(np.ones(2, arrays.bfloat16())).itemsize == 2
    monkeypatch.setitem(sys.modules, "ml_dtypes", None)
    with pytest.raises(DeviceError, match=r'pip install "gpuprop\[half\]"'):
        arrays.bfloat16()


def test_torch_tensors_share_memory() -> None:
    torch = pytest.importorskip("torch")
    t = torch.zeros(3)
    asarray(t)[1] = 5
    assert t[1] == 5
    with pytest.raises(DataError, match="detach"):
        asarray(torch.zeros(1, requires_grad=True))
    np.testing.assert_array_equal(torch.utils.dlpack.from_dlpack(to_dlpack(np.arange(3))).numpy(), [0, 1, 2])
