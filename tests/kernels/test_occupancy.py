"""Blocks a multiprocessor: values of NVIDIA's calculator, and its source where that is installed."""

from __future__ import annotations

import random
import shutil
import subprocess
from pathlib import Path

import pytest

from gpuprop.backend import nvrtc
from gpuprop.backend.occupancy import LIMITS, occupancy

CALCULATOR = Path(__file__).with_name("occupancy_by_nvidia.cpp")

# architecture, threads, registers, bytes of shared memory -> blocks, warps, what holds them back
KNOWN = {
    ("sm_80", 256, 32, 0): (8, 64, "threads"),
    ("sm_120", 256, 32, 0): (6, 48, "threads"),
    ("sm_75", 256, 40, 1000): (4, 32, "threads"),
    ("sm_80", 256, 33, 0): (6, 48, "registers"),  # 33 are given as 40
    ("sm_80", 256, 40, 0): (6, 48, "registers"),
    ("sm_80", 256, 64, 0): (4, 32, "registers"),
    ("sm_90", 256, 128, 0): (2, 16, "registers"),
    ("sm_90", 256, 255, 0): (1, 8, "registers"),
    ("sm_80", 1024, 64, 0): (1, 32, "registers"),
    ("sm_80", 1024, 65, 0): (0, 0, "registers"),
    ("sm_80", 96, 168, 0): (4, 12, "registers"),  # three warps a quarter
    ("sm_80", 32, 16, 0): (32, 32, "blocks"),
    ("sm_86", 32, 16, 0): (16, 16, "blocks"),
    ("sm_89", 32, 16, 0): (24, 24, "blocks"),
    ("sm_75", 32, 16, 0): (16, 16, "blocks"),
    ("sm_75", 256, 32, 49152): (1, 8, "shared memory"),
    ("sm_80", 256, 32, 49152): (3, 24, "shared memory"),
    ("sm_86", 256, 32, 49152): (2, 16, "shared memory"),
    ("sm_90", 256, 32, 49152): (4, 32, "shared memory"),
    ("sm_90", 128, 24, 33280): (6, 24, "shared memory"),
    ("sm_100", 512, 32, 232448): (1, 16, "shared memory"),
    ("sm_90", 512, 32, 232449): (0, 0, "shared memory"),
    ("sm_90", 1025, 32, 0): (0, 0, "threads"),
}


@pytest.mark.parametrize("kernel", KNOWN, ids=lambda k: "-".join(map(str, k)))
def test_known_values(kernel):
    found = occupancy(*kernel)
    assert (found.blocks, found.warps, found.limit) == KNOWN[kernel]


def test_every_architecture_that_we_compile_for_has_limits():
    assert set(LIMITS) == set(nvrtc.ARCHITECTURES)


def random_kernels(number):
    rng = random.Random(0)
    for arch in set(LIMITS) - {"sm_90a"}:  # as sm_90
        most = LIMITS[arch].shared_of_block
        for _ in range(number):
            threads = rng.choice([32, 64, 96, 128, 160, 256, 384, 512, 768, 1024, rng.randint(1, 1024)])
            shared = rng.choice([0, rng.randint(0, 1 << 15), rng.randint(0, most)])
            yield arch, threads, rng.randint(1, 255), shared


def test_blocks_are_those_of_nvidias_calculator(tmp_path):
    header = [path for path in nvrtc.include_dirs() if (path / "cuda_occupancy.h").exists()]
    compiler = shutil.which("g++") or shutil.which("clang++")
    if not header or compiler is None:
        pytest.skip("no cuda_occupancy.h (pip install nvidia-cuda-runtime) or no C++ compiler")
    program = tmp_path / "calculator"
    subprocess.run([compiler, "-w", f"-I{header[0]}", str(CALCULATOR), "-o", str(program)], check=True)
    kernels = list(random_kernels(1000))
    lines = "".join(f"{arch[3:]} {threads} {r} {shared}\n" for arch, threads, r, shared in kernels)
    answer = subprocess.run([program], input=lines, capture_output=True, text=True, check=True).stdout
    for kernel, blocks in zip(kernels, answer.split(), strict=True):
        assert occupancy(*kernel).blocks == int(blocks), kernel
