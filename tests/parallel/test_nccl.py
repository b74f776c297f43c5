"""The NCCL transport on fake GPUs: what NCCL is told, in which order, and that training comes out right.

No GPU has run these lines; the fake checks pointers, types and order, and moves the bytes by MPI.
"""

import math
import sys
import types

import fake_cupy
import fake_nccl
import numpy as np
import pytest
from fake_cuda import reason
from models import train
from ranks import run_program

import gpuprop as gp
from gpuprop.errors import DeviceError
from gpuprop.parallel.environment import Place
from gpuprop.parallel.group import Group
from gpuprop.parallel.nccl import NcclTransport, new_id


@pytest.fixture(params=[bytes, tuple])
def transport(fake_gpu, monkeypatch, request):
    """With the identifier of CuPy 14, and of older ones."""
    nccl = fake_nccl.install(sys.modules["cupy"], monkeypatch)
    if request.param is tuple:
        signed = tuple(b - 256 if b > 127 else b for b in fake_nccl.IDENTIFIER)
        monkeypatch.setattr(fake_nccl, "IDENTIFIER", signed)
        nccl.get_unique_id = lambda: signed
    return NcclTransport(0, 2, new_id())


def test_the_identifier_survives_as_bytes(transport):
    assert len(new_id()) == 128
    with pytest.raises(DeviceError, match="Two ranks on one GPU are refused"):
        NcclTransport(0, 2, bytes(128))


def test_nccl_waits_for_what_was_computed_and_later_work_for_nccl(transport, monkeypatch):
    monkeypatch.setattr(fake_nccl.NcclCommunicator, "_move", _only_log)
    cupy = sys.modules["cupy"]
    x = cupy.asarray(np.ones(5, np.float32))
    compute = cupy.cuda.get_current_stream()
    pending = transport.start_all_reduce(x, "sum")
    pending.join()
    names = [entry[0] for entry in fake_nccl.log]
    assert names == ["record", "wait", "ncclAllReduce", "record", "wait"]
    first, second, call, third, last = fake_nccl.log
    assert first[1] == second[1]  # NCCL's stream waits for the compute stream's event
    assert (first[2], second[2]) == (compute.ptr, transport.stream.ptr)
    assert call == ("ncclAllReduce", x.data.ptr, x.data.ptr, 5, 7, transport.stream.ptr)
    assert third[1] == last[1]  # and the other way round
    assert (third[2], last[2]) == (transport.stream.ptr, compute.ptr)


def _only_log(self, name, send, receive, count, kind, stream, work):
    fake_nccl.log.append((name, send, receive, count, kind, stream))


@pytest.mark.parametrize(
    ("dtype", "code"), [("float64", 8), ("float16", 6), ("int64", 4), ("uint8", 1), ("bfloat16", 9)]
)
def test_types_have_the_numbers_of_nccl_h(transport, monkeypatch, dtype, code):
    monkeypatch.setattr(fake_nccl.NcclCommunicator, "_move", _only_log)
    if dtype == "bfloat16":
        dtype = pytest.importorskip("ml_dtypes").bfloat16
    transport.start_all_reduce(fake_cupy.new(3, dtype), "max")
    assert next(e for e in fake_nccl.log if e[0] == "ncclAllReduce")[4] == code
    with pytest.raises(DeviceError, match="NCCL moves no complex64"):
        transport.start_all_reduce(fake_cupy.new(3, np.complex64), "sum")


def test_a_hung_collective_on_a_gpu_times_out_by_name(transport, monkeypatch):
    monkeypatch.setattr(fake_nccl.NcclCommunicator, "_move", _only_log)
    monkeypatch.setattr(fake_nccl.Event, "done", False)
    group = Group(Place(1, 2), None, transport, timeout=0.05)
    group.start_all_reduce(fake_cupy.new(4, np.float32), what="all_reduce of gradients").finish()
    with pytest.raises(gp.TrainingError, match="rank 1 of 2 waited 0 s in all_reduce of gradients of"):
        group.settle()


def test_an_error_of_nccl_is_told(transport):
    transport.end_all(1)
    with pytest.raises(DeviceError, match="NCCL failed"):
        transport.check()


def test_a_cupy_without_nccl_is_named(fake_gpu, monkeypatch):
    monkeypatch.setitem(sys.modules, "cupy.cuda.nccl", types.SimpleNamespace(available=False))
    with pytest.raises(DeviceError, match="cannot load NCCL"):
        new_id()


@pytest.mark.skipif(reason is not None, reason=str(reason))
def test_two_ranks_on_fake_gpus_train_as_one_on_a_cpu(tmp_path):
    plain = "feedforward:capture=no"
    cases = (plain, "feedforward", "feedforward:gradient_type=bf16", "feedforward:rows=33:accumulate=2")
    found = run_program("on_fake_gpus", 2, tmp_path, 24, *cases)
    for case in cases:
        alone, _ = train(
            "feedforward", "float32", 24, **({"rows": 33, "accumulate": 2} if "33" in case else {})
        )
        told = found[0][case]
        assert told["device"] == "cuda:0"
        assert ["ncclAllReduce", 9 if "bf16" in case else 7] in told["kinds"]
        for now, before in zip(told["losses"], alone, strict=True):
            assert math.isclose(now, before, rel_tol=2e-2 if "bf16" in case else 1e-4)
        assert found[1][case]["losses"] == told["losses"]
    for told in found:
        captured = told["captured"]
        assert "ncclAllReduce" in captured["names"]  # part of the graph: replayed with it
        assert captured["after"] == [6.0] * 6  # 1 + 2, and that on both
        assert told["host"] == [3.0, 1.0]
        assert told["gpus only"] == [12.0, ["rank 0", "rank 1"]]
        for case in cases[1:]:
            ran, wrote, replayed = told[case]["graphs"]
            assert replayed > 0 < wrote <= ran
            assert told[case]["in graphs"] >= 2 * wrote  # a bucket, and the loss
            assert told[case]["graphs"] == found[0][case]["graphs"]  # alike on all ranks
        assert told["feedforward"]["losses"] == told[plain]["losses"]  # to the bit
        assert told[plain]["payload"] * 2 == told["feedforward"]["payload"]  # replays are counted
        first = told[plain]
        assert first["waits"] <= told["waits alone"] + first["arrays"]  # digests at the start; no step waits


@pytest.mark.gpu
def test_a_real_gpu_captures_an_all_reduce_and_replays_it():
    """One rank: what it adds to itself is nothing, but the calls, streams and the graph are real."""
    cupy = pytest.importorskip("cupy")
    if not any(device.type == "cuda" for device in gp.available_devices()):
        pytest.skip("no GPU")
    with gp.use_device("cuda"):
        group = Group(Place(), None, NcclTransport(0, 1, new_id()))
        x = cupy.arange(6, dtype=cupy.float32)
        group.start_all_reduce(x).finish()  # NCCL connects at the first call
        group.settle()
        y = cupy.zeros_like(x)
        stream = cupy.cuda.Stream(non_blocking=True)
        with stream:
            stream.begin_capture()
            cupy.add(y, x, out=y)
            group.start_all_reduce(y).finish()
            cupy.multiply(y, 2, out=y)
            graph = stream.end_capture()
        for _ in range(2):
            graph.launch(stream)
        stream.synchronize()
        assert (y == 6 * cupy.arange(6)).all()  # 2 (0 + x), then 2 (2 x + x)
