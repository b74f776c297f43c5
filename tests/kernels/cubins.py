"""The machine code of whole kernel files, compiled once a run of the tests by the process that asks first."""

import fcntl
import json
import re
import shutil
import subprocess
from collections import Counter
from dataclasses import asdict

from gpuprop.backend import kernels, nvrtc
from gpuprop.backend.nvrtc import CompiledInfo, CompiledKernel

FILES = {file.path.name: file for file in kernels.kernel_files()}


HOT = ("float", "__half", "__nv_bfloat16")  # double is for checks
QUICK = ("sm_80", "sm_90")  # the other architectures take minutes
WITHOUT_DOUBLE = "sm_80"  # sm_90 has them: they take a third of the time


def is_hot(expression):
    return expression.partition("<")[2].startswith(HOT)


def names_in(name, arch):
    """The template expressions that the file of this name is compiled with."""
    groups = FILES[name].instantiations.values()
    names = dict.fromkeys(expression for group in groups for expression in group)
    return [e for e in names if arch != WITHOUT_DOUBLE or not e.partition("<")[2].startswith("double")]


def compile_file(name, arch):
    file = FILES[name]
    source = file.path.read_text(encoding="utf-8")
    return nvrtc.compile_cubin(source, arch, names_in(name, arch), [f"-I{file.path.parent}"], name)


class Cubins:
    """Compiled files, kept in a folder that the processes of a run share."""

    def __init__(self, folder):
        self.folder = folder

    def compiled(self, name, arch):
        """A CompiledInfo, without its log."""
        cubin, told = (self.folder / f"{name}.{arch}.{kind}" for kind in ("cubin", "json"))
        with (self.folder / f"{name}.{arch}.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not told.exists():
                info = compile_file(name, arch)
                cubin.write_bytes(info.cubin)
                told.write_text(json.dumps([asdict(kernel) for kernel in info.kernels]))
        found = [CompiledKernel(**entry) for entry in json.loads(told.read_text())]
        return CompiledInfo(cubin.read_bytes(), found, "")

    def instructions(self, name, arch):
        """{kernel: how often it loads (LDG) and stores (STG) 16 bytes of global memory at a time, copies them
        to shared memory (LDGSTS), multiplies on tensor cores (HMMA) and loads for these (LDSM), and its traps
        (BPT)}."""
        info = self.compiled(name, arch)
        counts = self.folder / f"{name}.{arch}.instructions.json"
        with (self.folder / f"{name}.{arch}.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not counts.exists():
                counts.write_text(json.dumps(disassembled(self.folder / f"{name}.{arch}.cubin")))
        by_symbol = json.loads(counts.read_text())
        return {kernel.name: Counter(by_symbol[kernel.symbol]) for kernel in info.kernels}


def nvdisasm():
    """The disassembler of NVIDIA's wheel or of a toolkit."""
    wheels = [path.parent / "bin" / "nvdisasm" for path in nvrtc.include_dirs()]
    found = [str(path) for path in wheels if path.exists()] or [shutil.which("nvdisasm")]
    return found[0]


def disassembled(cubin):
    """{symbol: {"LDG": loads of 16 bytes, ...}}, as `Cubins.instructions` counts them."""
    listing = subprocess.run([nvdisasm(), "-c", cubin], capture_output=True, text=True, check=True).stdout
    parts = re.split(r"^\s*\.section\s+\.text\.([\w$.]+)", listing, flags=re.MULTILINE)
    counted = r"\b(LDG|STG|LDGSTS)\.E\S*\.128|\b(HMMA|LDSM|BPT)\."
    return {
        symbol: Counter(wide or matrix for wide, matrix in re.findall(counted, code))
        for symbol, code in zip(parts[1::2], parts[2::2], strict=True)
    }
