"""Our kernels under compute-sanitizer: memory outside arrays, races in shared memory, reads of what is unset.

    python tests/gpu/sanitize.py --out runs/sanitizer.json      # every tool, each in a process of its own
    python tests/gpu/sanitize.py --cases cuda                   # what each tool runs: the cases alone

The cases are those of `gpuprop kernels check`, which compares their values under the emulator's checker. Here
each array has memory of its own from the driver, as the tools see nothing inside a pool.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

from gpuprop.backend import nvrtc
from gpuprop.backend.arrays import get_xp
from gpuprop.backend.cuda_setup import import_cupy
from gpuprop.backend.device import use_device
from gpuprop.cli.kernel_cases import OURS

TOOLS = ("memcheck", "racecheck", "initcheck")
TYPES = ("float32", "float16")
LEFT_OUT = "left out: no compute-sanitizer"
FOUND = 86  # the exit status that stands for findings
# CuPy asks the driver about pointers that it does not know, which is no error of a kernel.
OPTIONS = ("--error-exitcode", str(FOUND), "--print-limit", "20", "--report-api-errors", "no")


def executable() -> str | None:
    """compute-sanitizer on the path, in a toolkit, or of NVIDIA's wheel."""
    toolkits = [os.environ.get("CUDA_HOME"), os.environ.get("CUDA_PATH"), "/usr/local/cuda"]
    folders = [Path(place) / "bin" for place in toolkits if place]
    folders += [path.parent / "bin" for path in nvrtc.include_dirs()]
    return shutil.which("compute-sanitizer") or next(
        (found for folder in folders if (found := shutil.which("compute-sanitizer", path=str(folder)))), None
    )


def run_cases(device: str) -> None:
    """Every case once in each type, then wait for the device."""
    own_memory = import_cupy().cuda.using_allocator(None) if device == "cuda" else contextlib.nullcontext()
    with use_device(device), own_memory:
        for file, case in OURS.items():
            for dtype in TYPES:
                results = case(np.dtype(dtype))
                xp = get_xp(results[0])
                if xp is not np:
                    xp.cuda.Device().synchronize()
            print(f"ran {file}", flush=True)


def sanitize(seconds: float, device: str = "cuda") -> dict[str, Any]:
    """Of each tool: returncode (0 clean, 86 findings, 124 out of time), seconds, errors, output."""
    program = executable()
    if program is None:
        return {tool: {"returncode": 0, "seconds": 0, "output": LEFT_OUT} for tool in TOOLS}
    end = time.monotonic() + seconds
    outcome = {}
    for k, tool in enumerate(TOOLS):
        share = (end - time.monotonic()) / (len(TOOLS) - k)
        cases = [sys.executable, str(Path(__file__)), "--cases", device]
        outcome[tool] = _run([program, "--tool", tool, *OPTIONS, *cases], max(share, 1.0))
    return outcome


def _run(arguments: list[str], limit: float) -> dict[str, Any]:
    pipe, start = subprocess.PIPE, time.monotonic()
    tool = subprocess.Popen(arguments, stdout=pipe, stderr=pipe, text=True, process_group=0)
    try:
        output = "".join(tool.communicate(timeout=limit))
        code = tool.returncode
    except subprocess.TimeoutExpired:
        os.killpg(tool.pid, signal.SIGKILL)  # and the cases that it runs, which would go on
        code, output = 124, "".join(tool.communicate())
    counts = re.findall(r"(?:ERROR|RACECHECK) SUMMARY: (\d+)", output)
    return {
        "returncode": code,
        "seconds": round(time.monotonic() - start, 1),
        "errors": int(counts[-1]) if counts else None,
        "output": output[-4000:],
    }


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, default=Path("runs/sanitizer.json"))
    parser.add_argument("--seconds", type=float, default=300, help="for all tools (default: %(default)s)")
    parser.add_argument("--cases", metavar="DEVICE", help="run the cases there, without a tool")
    options = parser.parse_args()
    if options.cases is not None:
        run_cases(options.cases)
        return 0
    outcome = sanitize(options.seconds)
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(json.dumps(outcome, indent=1) + "\n", encoding="utf-8")
    for tool, part in outcome.items():
        print(f"{tool}: exit {part['returncode']}, {part.get('errors')} errors, {part['seconds']} s")
    return 0 if all(part["returncode"] == 0 for part in outcome.values()) else 1


if __name__ == "__main__":
    sys.exit(main())
