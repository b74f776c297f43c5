"""What needs no other process: the launchers' variables, shards, waiting, finding each other."""

import socket
import sys
import threading
import time
from itertools import pairwise

import numpy as np
import pytest

import gpuprop as gp
from gpuprop.errors import DataError, DeviceError, TrainingError
from gpuprop.parallel import current as current_group
from gpuprop.parallel import rendezvous
from gpuprop.parallel.collectives import Traffic, wait
from gpuprop.parallel.data_parallel import GradientReducer
from gpuprop.parallel.environment import Place, place_of
from gpuprop.parallel.group import Group, wanted_timeout
from gpuprop.parallel.shards import ShardedBatches, share
from gpuprop.parallel.step_plan import StepPlan
from gpuprop.text import pair_batches, text_batches

OPEN_MPI = {
    "OMPI_COMM_WORLD_RANK": "3", "OMPI_COMM_WORLD_SIZE": "8", "OMPI_COMM_WORLD_LOCAL_RANK": "1",
    "OMPI_COMM_WORLD_LOCAL_SIZE": "2",
}  # fmt: skip


@pytest.mark.parametrize(
    ("variables", "place"),
    [
        ({}, Place()),
        (OPEN_MPI, Place(3, 8, 1, 2, "Open MPI")),
        ({"PMI_RANK": "1", "PMI_SIZE": "2", "MPI_LOCALRANKID": "1", "MPI_LOCALNRANKS": "2"},
         Place(1, 2, 1, 2, "MPICH")),
        ({"SLURM_PROCID": "5", "SLURM_STEP_NUM_TASKS": "6", "SLURM_LOCALID": "2", "SLURM_NTASKS": "6"},
         Place(5, 6, 2, 0, "Slurm")),
        ({"SLURM_PROCID": "0", "SLURM_NTASKS": "6"}, Place()),  # a batch script is one process
        ({"RANK": "2", "WORLD_SIZE": "4", "LOCAL_RANK": "0", "LOCAL_WORLD_SIZE": "2"},
         Place(2, 4, 0, 2, "torchrun")),
    ],
)  # fmt: skip
def test_launchers_are_known_by_their_variables(variables, place):
    assert place_of(variables) == place


@pytest.mark.parametrize("wrong", [{"RANK": "4", "WORLD_SIZE": "4"}, {"RANK": "-1", "WORLD_SIZE": "4"}])
def test_variables_that_make_no_sense_are_refused(wrong):
    with pytest.raises(DataError, match="RANK"):
        place_of(wrong)


def test_alone_every_collective_is_the_array_itself():
    a = np.arange(3.0)
    assert (gp.parallel.rank(), gp.parallel.world_size(), gp.parallel.local_rank()) == (0, 1, 0)
    assert gp.parallel.all_reduce(a) is a
    assert gp.parallel.broadcast(a) is a
    assert (gp.parallel.all_gather(a) == a[None]).all()
    gp.parallel.barrier()
    with pytest.raises(DataError, match="no rank 1 among 1"):
        gp.parallel.broadcast(a, 1)


@pytest.mark.parametrize("rows", [0, 1, 3, 4, 17])
@pytest.mark.parametrize("ranks", [1, 2, 4, 5])
def test_shares_cover_all_rows_evenly(rows, ranks):
    cuts = [share(rows, rank, ranks) for rank in range(ranks)]
    assert (cuts[0][0], cuts[-1][1]) == (0, rows)
    assert all(a[1] == b[0] for a, b in pairwise(cuts))
    assert max(b - a for a, b in cuts) - min(b - a for a, b in cuts) <= 1


def random_rows(n, longest=9):
    rng = np.random.default_rng(n)
    return [rng.integers(4, 20, k).tolist() for k in rng.integers(1, longest, n)]


@pytest.mark.parametrize("pairs", [False, True])
def test_shards_are_the_rows_of_the_whole_batch_and_as_wide(pairs):
    rows, others = random_rows(23), random_rows(24)[:23]

    def batches():
        return pair_batches(rows, others, 6, seed=4) if pairs else text_batches(rows, None, 6, seed=4)

    parts = [list(ShardedBatches(batches(), rank, 4)) for rank in range(4)]
    for k, whole in enumerate(batches()):
        for name in type(whole).__dataclass_fields__:
            array = getattr(whole, name)
            if array is not None:
                assert (np.concatenate([getattr(part[k], name) for part in parts]) == array).all()
    assert min(part[-1].size for part in parts) == 1
    assert [len(part) for part in parts] == [4, 4, 4, 4]


def test_an_empty_shard_has_the_width_of_the_batch():
    sharded = ShardedBatches(text_batches(random_rows(2), None, 2, seed=0), 0, 4)
    (batch,) = sharded
    assert batch.size == 0
    assert batch.ids.shape == (0, max(map(len, random_rows(2))))


def test_positions_are_those_of_the_common_batches():
    sharded = ShardedBatches(text_batches(random_rows(20), None, 4, seed=0), 1, 2)
    next(iter(sharded))
    other = ShardedBatches(text_batches(random_rows(20), None, 4, seed=0), 0, 3)
    other.load_state_dict(sharded.state_dict())
    assert len(list(other)) == 4


def test_rows_of_a_step_are_numbered_batch_by_batch_and_rank_by_rank():
    rows = np.array([[3, 2], [2, 0], [0, 1]])
    plan = StepPlan(1, rows * 1.0, rows, rows, 2, 0)
    assert [plan.first_row(0), plan.first_row(1)] == [3, 7]
    assert StepPlan(2, rows * 1.0, rows, rows, 2, 0).first_row(1) == 7
    assert plan.weight == 8.0


class Never:
    def done(self):
        return False


def test_a_wait_ends_and_says_who_waited_for_what():
    started = time.monotonic()
    with pytest.raises(TrainingError, match="rank 1 of 4 waited 0 s in broadcast of seven: another rank"):
        wait(Never(), "broadcast of seven", "rank 1 of 4", 0.05)
    assert time.monotonic() - started < 10


def test_the_wait_is_set_by_argument_or_environment(monkeypatch):
    monkeypatch.delenv("GPUPROP_TIMEOUT", raising=False)
    assert (wanted_timeout(None), wanted_timeout(7.0)) == (600.0, 7.0)
    monkeypatch.setenv("GPUPROP_TIMEOUT", "12.5")
    assert wanted_timeout(None) == 12.5
    for wrong in ("soon", "-3", "nan", "inf"):
        monkeypatch.setenv("GPUPROP_TIMEOUT", wrong)
        with pytest.raises(DataError, match="GPUPROP_TIMEOUT"):
            wanted_timeout(None)


def test_traffic_is_counted_by_the_least_there_is():
    traffic = Traffic(4)
    traffic.add("gradients", 1000)
    traffic.add("gradients", 600)
    assert traffic.sent("gradients") == 2 * 3 / 4 * 1600
    assert traffic.sent("other") == 0


def test_arrays_that_no_transport_moves_are_named():
    with pytest.raises(DeviceError, match="rank 0 of 2 has no way to send arrays on the CPU"):
        Group(Place(0, 2), host=None, device=object()).start_all_reduce(np.zeros(2))
    with pytest.raises(DataError, match="C-contiguous"):
        Group(Place(0, 2), host=object()).start_all_reduce(np.zeros((4, 4)).T)
    with pytest.raises(DataError, match="sum, max, min, not 'mean'"):
        Group(Place(0, 2), host=object()).start_all_reduce(np.zeros(2), "mean")


@pytest.fixture
def port():
    with socket.create_server(("127.0.0.1", 0)) as server:
        return server.getsockname()[1]


def test_ranks_without_mpi_find_each_other_on_the_loopback(port):
    secret, found = bytes(range(128)), {}

    def fetch(rank):
        found[rank] = rendezvous.fetch(rank, 128, "127.0.0.1", port, 20.0)

    threads = [threading.Thread(target=fetch, args=(rank,)) for rank in (1, 2, 3)]
    for thread in threads:
        thread.start()
    rendezvous.hand_out(secret, 4, "127.0.0.1", port, 20.0)
    for thread in threads:
        thread.join()
    assert found == dict.fromkeys((1, 2, 3), secret)


def test_strangers_are_turned_away_and_missing_ranks_named(port):
    def stranger():
        time.sleep(0.05)
        with socket.create_connection(("127.0.0.1", port), timeout=5) as connection:
            connection.sendall(b"GET / HTTP/1.1\r\n\r\n")
            assert connection.recv(200) == b""

    thread = threading.Thread(target=stranger)
    thread.start()
    with pytest.raises(DeviceError, match=r"ranks \[1, 2\] did not come"):
        rendezvous.hand_out(b"x" * 128, 3, "127.0.0.1", port, 0.4)
    thread.join()
    with pytest.raises(DeviceError, match="MASTER_ADDR and MASTER_PORT"):
        rendezvous.fetch(1, 128, "127.0.0.1", port, 0.2)


def test_sockets_bind_to_the_loopback_unless_told_otherwise():
    assert rendezvous.address({}) == ("127.0.0.1", "127.0.0.1", 29500)
    told = {"MASTER_ADDR": "10.1.2.3", "MASTER_PORT": "4000"}
    assert rendezvous.address(told) == ("10.1.2.3", "10.1.2.3", 4000)
    assert rendezvous.address({**told, "GPUPROP_BIND": "0.0.0.0"}) == ("0.0.0.0", "10.1.2.3", 4000)
    agent = {**told, "TORCHELASTIC_USE_AGENT_STORE": "True"}  # torchrun listens on its port itself
    assert rendezvous.address(agent)[2] == 4001
    assert rendezvous.address({**agent, "GPUPROP_PORT": "5000"})[2] == 5000
    with pytest.raises(DeviceError, match="MASTER_PORT"):
        rendezvous.address({"MASTER_PORT": "high"})


def test_cpu_ranks_of_torchrun_are_sent_to_mpi(monkeypatch):
    for name, value in {"RANK": "0", "WORLD_SIZE": "2"}.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(DeviceError, match="start with mpirun"):
        gp.parallel.init("cpu")
    assert current_group().size == 1


@pytest.mark.parametrize(
    ("gpus", "visible", "place", "wanted"),
    [
        (4, None, Place(6, 8, 2, 4), "cuda:2"),
        (1, "3", Place(6, 8, 2, 4), "cuda:0"),  # the launcher shows each rank one
        (2, None, Place(6, 8, 2, 4), "start at most 2 ranks there"),
    ],
)
def test_each_rank_has_a_gpu_of_its_own(monkeypatch, gpus, visible, place, wanted):
    module = sys.modules[gp.parallel.init.__module__]
    monkeypatch.setattr(module.cuda_setup, "count", lambda: gpus)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if visible is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    assert module.device_of_rank("cpu", place) == "cpu"
    if wanted.startswith("cuda"):
        assert module.device_of_rank("auto", place) == wanted
    else:
        with pytest.raises(DeviceError, match=wanted):
            module.device_of_rank("cuda", place)


class Instant:
    """A transport between two equal ranks: what is reduced doubles."""

    name = "instant"

    def __init__(self):
        self.started = []

    def start_all_reduce(self, array, op):
        self.started.append((array.size, bool(np.isfinite(array).all())))
        array *= 2 if op == "sum" else 1
        return self

    def done(self):
        return True

    def join(self):
        pass


class Passing(gp.Op):
    """The identity, which notes how many buckets have left when the gradient comes by."""

    @staticmethod
    def forward(ctx, x, *, notes, transport):
        ctx.save(notes, transport)
        return x

    @staticmethod
    def backward(ctx, dy):
        notes, transport = ctx.saved
        notes.append(len(transport.started))
        return dy


def test_buckets_leave_while_backward_goes_on_each_once_and_filled():
    gp.manual_seed(1)
    layers = [gp.nn.Linear(8, 8) for _ in range(4)]
    model = gp.nn.ModuleList(layers)
    optimizer = gp.optim.SGD(model.parameters(), lr=0.1)
    transport, notes = Instant(), []
    one_layer = 4 * (64 + 8)
    reducer = GradientReducer(Group(Place(0, 2), transport), optimizer.arenas, bucket_bytes=one_layer)
    for _ in range(2):
        transport.started.clear()
        notes.clear()
        optimizer.zero_grad()
        x = np.ones((2, 8), np.float32)
        for layer in layers:
            x = Passing.apply(layer(x), notes=notes, transport=transport)
        reducer.begin()
        with reducer.overlapping():
            x.sum().backward()
        half = [p.leaf.grad.copy() / 2 for p in model.parameters()]
        reducer.finish(0.0)
        assert notes == [
            0,
            1,
            2,
            3,
        ]  # a layer's bucket is gone before the next one's gradient comes
        assert [size for size, _ in transport.started[:-1]] == [72] * 4
        assert all(finite for _, finite in transport.started)
    with gp.use_device("cpu"):
        optimizer.zero_grad()
        x = np.ones((2, 8), np.float32)
        for layer in layers:
            x = layer(x)
        x.sum().backward()
    for p, wanted in zip(model.parameters(), half, strict=True):
        assert np.allclose(p.leaf.grad, wanted)


def test_tied_parameters_leave_after_their_last_use():
    weight = gp.Parameter(np.ones((3, 3), np.float32))
    other = gp.Parameter(np.ones((3, 3), np.float32))
    optimizer = gp.optim.SGD([weight, other], lr=0.1)
    transport, notes = Instant(), []
    reducer = GradientReducer(Group(Place(0, 2), transport), optimizer.arenas, bucket_bytes=1)
    x = np.ones((2, 3), np.float32)
    y = Passing.apply(gp.ops.matmul(x, weight), notes=notes, transport=transport)
    y = Passing.apply(gp.ops.matmul(y, other), notes=notes, transport=transport)
    y = gp.ops.matmul(y, weight)
    optimizer.zero_grad()
    reducer.begin()
    with reducer.overlapping():
        y.sum().backward()
    assert notes == [0, 1]  # `other` alone has left; `weight` is used once more
    reducer.finish(0.0)
    assert len(transport.started) == 3
