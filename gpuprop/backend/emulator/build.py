"""Compiles a kernel file, and the runtime it is linked to, into shared libraries kept in the cache."""

from __future__ import annotations

import functools
import json
import os
import re
import subprocess
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path

from gpuprop.backend.emulator import cache, flags, launch_bounds, source, symbols
from gpuprop.backend.emulator.toolchain import Toolchain
from gpuprop.errors import BuildError

NAMES_FILE = "kernel-names"  # the compiler's name for the lines that mention the wanted kernels
# What a compiler says of names and forms that the shim does not have, and what to do.
_REMEDIES = (
    (r"'__cluster\w+' was not declared", f"these functions of clusters are not emulated: {source.TWIN}"),
    (
        r"'[^']+' (?:is not a member of|has not been declared in|in namespace) "
        r"'(?:\{anonymous\}::)?(?:cooperative_groups|cg)|"
        r"'class cooperative_groups::\w+(?:<[^']*>)?' has no member",
        f"these parts of cooperative groups are not emulated: {source.TWIN}",
    ),
    (r"'(?:tex|surf)\w+' was not declared", f"textures and surfaces are not emulated: {source.TWIN}"),
    (
        r"'entry' is not a member of 'gpe::Kernel|no member named 'entry' in 'gpe::Kernel",
        "a __global__ function returns void",
    ),
    (
        r"'__(?:shfl|shfl_up|shfl_down|shfl_xor|any|all|ballot)'(?: was not declared|$)",
        "since CUDA 9 these end in _sync and take the mask of the lanes first: "
        "__shfl_down_sync(0xffffffff, value, distance)",
    ),
    (
        r"expected (?:primary-)?expression(?: before '<' token)?$",
        "launches (<<<...>>>) are not emulated: leave main() and other host code out, as Python launches the "
        f"kernels, or {source.TWIN}",
    ),
)
SOURCE = "/kernel-source"  # stands before relative file names in debug information


@dataclass(frozen=True)
class Library:
    """A compiled kernel file."""

    path: Path
    runtime: Path
    variables: tuple[symbols.Variable, ...]


@dataclass(frozen=True)
class Job:
    """What is compiled: a rewritten file, the kernels wanted of it, and how."""

    text: source.Rewritten
    filename: str
    names: tuple[str, ...]
    options: tuple[str, ...]  # -D, -U and -I
    arch: int  # 900 for sm_90
    mode: str


def build(job: Job, tools: Toolchain) -> Library:
    """The library of `job`, from the cache or compiled now. BuildError holds the compiler's lines."""
    runtime = _runtime("asan" if job.mode == "asan" else "plain", tools, cache.folder())
    program = job.text.text + _table(job)
    options = [*flags.for_kernels(job.mode, tools), *job.options, f"-DGPUPROP_EMULATOR_ARCH={job.arch}"]
    key = cache.key(program, options, tools.identity(), runtime.name)
    folder = cache.entry(key, lambda folder: _compile(folder, program, options, job, tools, runtime))
    variables = json.loads((folder / "variables.json").read_text())
    return Library(folder / "kernels.so", runtime, tuple(symbols.Variable(**entry) for entry in variables))


def _table(job: Job) -> str:
    """The lines after the user's file that hand out its kernels, one line a kernel."""
    entries = "\n".join(
        f"GPE_KERNEL({i}, {name}) GPE_BOUNDS({i}, {launch_bounds.bounds_of(name, job.text.bounded)}) "
        f"GPE_CLUSTER({i}, {launch_bounds.cluster_of(name, job.text.clustered)})"
        for i, name in enumerate(job.names)
    )
    calls = ", ".join(
        f"gpe::bounded(gpe_entry_{i}(), gpe_bounds_{i}(), gpe_cluster_{i}())" for i in range(len(job.names))
    )
    return (
        f'#line 1 "{NAMES_FILE}"\nnamespace {{\n{entries}\n}}\n'
        f'extern "C" GPE_UNCHECKED void gpe_kernels(gpe::KernelEntry* out) {{\n'
        f"  const gpe::KernelEntry all[] = {{{calls}}};\n  for (const auto& one : all) *out++ = one;\n}}\n"
    )


def _compile(
    folder: Path, program: str, options: list[str], job: Job, tools: Toolchain, runtime: Path
) -> None:
    (folder / "kernels.cpp").write_text(program, encoding="utf-8")
    to_assembly = [f"-fdebug-prefix-map={folder}={SOURCE}", "-S", "kernels.cpp", "-o", "kernels.s"]
    errors = flags.run([tools.compiler, *options, *to_assembly], folder)
    if errors is not None:
        raise BuildError(_explain(errors, job))
    padded: set[str] = set()
    assembly = folder / "kernels.s"
    if job.mode != "asan":  # AddressSanitizer leaves its own gaps
        text, padded = symbols.add_red_zones(assembly.read_text("latin-1"))
        assembly.write_text(text, "latin-1")
    link = flags.for_linking(job.mode, tools)
    errors = flags.run([tools.compiler, *link, "kernels.s", str(runtime), "-o", "kernels.so"], folder)
    if errors is not None:
        raise BuildError(f"{job.filename}: linking the emulated kernels failed:\n{errors}")
    command = [tools.nm, "-S", str(folder / "kernels.so")]
    listing = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    variables = symbols.find_variables(listing, padded)
    (folder / "variables.json").write_text(json.dumps([asdict(variable) for variable in variables]))
    assembly.unlink()


def _explain(errors: str, job: Job) -> str:
    """The compiler's lines about the user's file; for a wanted kernel that is not there, those that are."""
    missing = re.search(rf"^{NAMES_FILE}:(\d+):(?:\d+:)? error: (.*)", errors, flags=re.MULTILINE)
    places = re.findall(r"^([^\s:][^:\n]*):\d+:(?:\d+:)? (?:fatal )?error: ", errors, flags=re.MULTILINE)
    own = str(cache.HERE)
    if missing and all(place == NAMES_FILE or place.startswith(own) for place in places):
        number = int(missing[1]) - 2
        name = job.names[number] if 0 <= number < len(job.names) else "?"
        there = describe_kernels(job.text.kernels)
        return f"{job.filename}: there is no kernel {name} ({missing[2]}); {there}"
    noise = ("compilation terminated", f"In file included from {own}", "                 from <command-line>")
    shown = "\n".join(line for line in errors.splitlines() if not line.startswith(noise))
    hints = [
        f"\n{remedy}"
        for pattern, remedy in _REMEDIES
        if re.search(pattern, errors, flags=re.MULTILINE) and ("<<<" not in remedy or "<<<" in job.text.text)
    ]
    return f"{job.filename}: the kernels do not compile:\n{shown}{''.join(hints)}"


def describe_kernels(kernels: Sequence[source.KernelText]) -> str:
    """One line that names a file's kernels."""
    if not kernels:
        return "the file defines no __global__ function"
    return "the file defines " + ", ".join(k.name + ("<...>" if k.template else "") for k in kernels)


@functools.lru_cache(maxsize=8)
def _runtime(mode: str, tools: Toolchain, folder: Path) -> Path:
    """The library with the scheduler and the checker: one for all kernels, and one more for mode "asan".

    `folder` is the cache's, named so that a change of it is seen.
    """
    options = flags.for_runtime(mode, tools)
    key = cache.key("runtime", options, tools.identity())
    name = f"libgpuprop_emulator_{mode}_{key}.so"  # unique: several may be loaded

    def compile_runtime(folder: Path) -> None:
        sources = sorted((cache.HERE / "runtime").glob("*.cpp"))

        def compile_one(path: Path) -> str | None:
            return flags.run([tools.compiler, *options, "-c", str(path)], folder)

        with ThreadPoolExecutor(os.cpu_count()) as pool:
            errors = [error for error in pool.map(compile_one, sources) if error]
        if not errors:
            link = [*flags.for_linking(mode, tools), f"-Wl,-soname,{name}", "-o", name]
            objects = [f"{path.stem}.o" for path in sources]
            errors = [error for error in (flags.run([tools.compiler, *objects, *link], folder),) if error]
        if errors:
            lines = "\n".join(errors)
            raise BuildError(f"the emulator's runtime does not compile with {tools.compiler}:\n{lines}")
        for path in sources:
            (folder / f"{path.stem}.o").unlink()

    return cache.entry(key, compile_runtime) / name
