"""Training on several ranks is training on one with a batch as large as all of theirs."""

import math

import pytest
from models import ALL
from ranks import run_program

from gpuprop.backend.device import emulated_reason

TOLERANCE = {"float64": 1e-10, "float32": 1e-4}
QUICK = (
    "cnn:float64",
    "feedforward:float64:rows=41:batch=13",
    "gru-additive:float64:accumulate=2",
    "transformer-pre:float64:rows=33:batch=16",  # the last batch has one row, other ranks have none
    "conv:float32",
    "gru-tied:float32:precision=bf16",
    "cnn:float32:precision=fp16",
    "cnn:float32:gradient_type=bf16",
)


def check(found, cases, ranks):
    first = found[0]
    for case in cases:
        dtype = case.split(":")[1]
        told, tolerance = first[case], TOLERANCE[dtype]
        if "bf16" in case or "fp16" in case:
            tolerance = 2e-2  # each rank rounds its own part of a sum
        assert len(told["losses"]) > 2
        assert told["losses"][0] != told["losses"][-1]
        for now, before in zip(told["losses"], told["alone"], strict=True):
            assert math.isclose(now, before, rel_tol=tolerance), (case, now, before)
        if dtype == "float64":
            assert told["worst"] < 1e-9, case
        for record, before in zip(told["history"], told["alone_history"], strict=True):
            assert math.isclose(record["train_loss"], before["train_loss"], rel_tol=tolerance)
            assert record["step"] == before["step"]
        for other in found[1:]:  # to the bit: what ranks decide from these numbers must be the same
            assert other[case]["losses"] == told["losses"]
            kept = [[r["train_loss"] for r in f[case]["history"]] for f in (first, other)]
            assert kept[0] == kept[1]


def test_two_ranks_train_as_one(tmp_path):
    check(run_program("equal", 2, tmp_path, 8, *QUICK), QUICK, 2)


def test_four_ranks_train_as_one(tmp_path):
    cases = (*QUICK[:4], "lstm-dot:float64:rows=35:batch=3")  # a rank without rows in every step
    check(run_program("equal", 4, tmp_path, 6, *cases), cases, 4)


@pytest.mark.full
def test_two_ranks_on_the_emulated_device(tmp_path):
    if emulated_reason():
        pytest.skip("no compiler")
    cases = ("feedforward:float32", "cnn:float32")
    found = run_program("equal", 2, tmp_path, 4, *cases, GPUPROP_DEVICE="emulated", seconds=250)
    check(found, cases, 2)
    assert {r["device"] for r in found[0]["cnn:float32"]["history"]} == {"emulated"}


@pytest.mark.full
@pytest.mark.timeout(900)
@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize("ranks", [2, 4])
def test_every_family_for_50_steps(tmp_path, dtype, ranks):
    cases = [f"{family}:{dtype}" for family in ALL]
    check(run_program("equal", ranks, tmp_path, 50, *cases, seconds=800), cases, ranks)
