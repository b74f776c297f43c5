"""Start a program of `programs/` on several ranks of this machine, as a user does with mpirun."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import gpuprop

PROGRAMS = Path(__file__).parent / "programs"
TESTS = Path(__file__).parent.parent
MPIRUN = next((p for p in (Path(sys.executable).parent / "mpirun",) if os.access(p, os.X_OK)), None)


def environment(**more):
    """One thread a rank; other ranks on the same core are let in while one waits."""
    inside = [
        str(Path(gpuprop.__file__).parent.parent),  # what this test has imported
        *(str(TESTS / name) for name in ("models", "double", "parallel")),
        os.environ.get("PYTHONPATH", ""),
    ]
    return {
        **os.environ,
        "OPENBLAS_NUM_THREADS": "1",
        "GPUPROP_THREADS": "1",
        "GPUPROP_DEVICE": "cpu",
        "GPUPROP_TIMEOUT": "100",
        "OMPI_ALLOW_RUN_AS_ROOT": "1",
        "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1",
        "PRTE_MCA_rmaps_default_mapping_policy": ":oversubscribe",
        "OMPI_MCA_mpi_yield_when_idle": "1",
        "PYTHONPATH": os.pathsep.join(filter(None, inside)),
        **{name: str(value) for name, value in more.items()},
    }


def command(ranks, *arguments):
    """What starts Python on so many ranks; skips the test where there is no MPI."""
    pytest.importorskip("mpi4py")
    found = MPIRUN or shutil.which("mpirun")
    if found is None:
        pytest.skip("no mpirun beside this Python")
    return [str(found), "-n", str(ranks), sys.executable, *map(str, arguments)]


def launch(ranks, *arguments, **variables):
    """Start it and do not wait."""
    return subprocess.Popen(
        command(ranks, *arguments),
        env=environment(**variables),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        stdin=subprocess.DEVNULL,
        text=True,
        cwd=TESTS.parent,
    )


def finish(process, seconds=120):
    """(exit code, standard output, standard error)."""
    try:
        out, err = process.communicate(timeout=seconds)
    except subprocess.TimeoutExpired:
        process.kill()
        out, err = process.communicate()
        raise AssertionError(f"still running after {seconds} s:\n{out}\n{err}") from None
    return process.returncode, out, err


def run_program(name, ranks, out, *arguments, seconds=120, **variables):
    """Run programs/<name>.py; what each rank left with `answer`."""
    code, stdout, stderr = finish(
        launch(ranks, PROGRAMS / f"{name}.py", out, *arguments, **variables), seconds
    )
    assert code == 0, f"{stdout}\n{stderr}"
    return [json.loads((Path(out) / f"{rank}.json").read_text()) for rank in range(ranks)]


def answer(out, rank, values):
    """On a rank: leave JSON values for the test."""
    (Path(out) / f"{rank}.json").write_text(json.dumps(values))
