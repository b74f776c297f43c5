"""What a step sends: 2 (N - 1) / N times the bytes of the gradients, each rank, and no more."""

import json
import subprocess
from itertools import pairwise

import pytest
from ranks import PROGRAMS, command, environment, finish, run_program

SMALL = 16 * 4  # bytes: parameters begin at multiples of 16


@pytest.mark.parametrize(("ranks", "more", "share"), [(2, (), 1.0), (4, ("bf16",), 0.5)])
def test_gradients_travel_once_a_step(tmp_path, ranks, more, share):
    for told in run_program("volume", ranks, tmp_path, *more):
        payload = [b[0] - a[0] for a, b in pairwise(told["counts"])]
        sent = [b[1] - a[1] for a, b in pairwise(told["counts"])]
        assert len(set(payload)) == 1
        assert 0 <= payload[0] - share * told["bytes"] <= SMALL
        assert sent[0] == pytest.approx(2 * (ranks - 1) / ranks * payload[0])


@pytest.mark.parametrize("ranks", [2, 4])
def test_the_loopback_device_counts_the_same(tmp_path, ranks):
    """In a network of its own, with MPI over TCP: the bytes that really leave, by all ranks."""
    network = 'ip link set lo up; exec "$@"'
    alone = ["unshare", "--user", "--map-root-user", "--net", "sh", "-c", network, "sh"]
    try:
        usable = subprocess.run([*alone, "true"], capture_output=True).returncode == 0
    except FileNotFoundError:
        usable = False
    if not usable:
        pytest.skip("no network of its own can be made here")
    tcp = {"FI_PROVIDER": "tcp", "MPIR_CVAR_NOLOCAL": "1", "MPIR_CVAR_CH4_NETMOD": "ofi"}
    process = subprocess.Popen(
        [*alone, *command(ranks, PROGRAMS / "volume.py", tmp_path)],
        env=environment(**tcp), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    code, out, err = finish(process)
    if code and "internal_Init_thread" in err:
        pytest.skip("this MPI has no TCP")
    assert code == 0, f"{out}\n{err}"
    told = json.loads((tmp_path / "0.json").read_text())
    steps = len(told["counts"]) - 1
    measured = (told["counts"][-1][2] - told["counts"][0][2]) / steps
    computed = ranks * 2 * (ranks - 1) / ranks * told["bytes"]
    assert computed < measured < 1.03 * computed  # headers, and a few numbers a step
